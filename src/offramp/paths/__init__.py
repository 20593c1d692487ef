"""What happens to a run, in reading order: submit, fast, demote, deep, deliver."""
