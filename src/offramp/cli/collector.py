"""How often a process of the service collects cyclic garbage. Only the commands set it; a library must not.

Runs leave almost none: reference counting frees their objects. A collection would scan live objects again and again:
modules, open streams, running runs.
"""

from __future__ import annotations

import gc

NEW_OBJECTS = 10_000
"""Allocations minus deallocations before the youngest objects are scanned; Python's default is 700."""


def relax() -> None:
    """Call it once everything is loaded: never scan those objects again, and scan new ones less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
