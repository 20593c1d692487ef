"""Until when this process may believe that the runs it executes are its own."""

from __future__ import annotations

import math


class LeaseWindow:
    """Extended by whoever renews the lease, looked at before each step; without leases it holds for ever."""

    def __init__(self) -> None:
        self.until = math.inf
        """On the monotonic clock. Whoever has waited for longer than this, seen before, asks the store again."""

    def extend(self, until: float) -> None:
        """The lease runs until then, on the monotonic clock."""
        self.until = until

    def holds(self, now: float) -> bool:
        """False when the lease may have run out, so that another process may have taken the runs over."""
        return now < self.until
