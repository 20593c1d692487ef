"""The limits of resources: pure state machines that are given the time. `ports/limits.py` has their messages."""
