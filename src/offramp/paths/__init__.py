"""The ways of a run, in reading order: submit, fast, demote, deep, deliver."""
