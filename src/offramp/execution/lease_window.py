"""The time until which this process may assume that its runs are its own."""

from __future__ import annotations

import math


class LeaseWindow:
    """The window: each renewal of the lease extends it, each step checks it; without leases it has no end."""

    def __init__(self) -> None:
        self.until = math.inf
        """The end on the monotonic clock. Code that waits past a value it read before must ask the store again."""

    def extend(self, until: float) -> None:
        """Set the end of the lease, on the monotonic clock."""
        self.until = until

    def holds(self, now: float) -> bool:
        """Whether the lease surely runs; if not, another process may have taken the runs over."""
        return now < self.until
