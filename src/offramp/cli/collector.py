"""How often a process of the service looks for garbage in cycles. Only the commands set it: a library must not.

Runs leave next to none: their objects are freed when they are let go of. What is looked through, again and again, is
what lives: modules, open streams, runs on their way.
"""

from __future__ import annotations

import gc

NEW_OBJECTS = 10_000
"""Allocations beyond what was freed between two looks at the youngest objects; Python's own is 700."""


def relax() -> None:
    """Once everything is loaded: never look at that again, and less often at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
