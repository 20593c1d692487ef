"""The limits of resources: pure state machines that are given the time, and their messages."""
