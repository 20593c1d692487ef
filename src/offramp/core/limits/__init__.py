"""The limits of resources: pure state machines that are told the time. `ports/limits.py` has their messages."""
