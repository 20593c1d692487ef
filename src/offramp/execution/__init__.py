"""Runs a pipeline against a journal: scope, runner, lanes, run loops, watchdog."""
