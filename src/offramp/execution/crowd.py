"""How many waits for permits hold a place of a process on the deep path: past that, the last ones wait without it.

Else runs of a low class that wait for permits would fill a worker, and a demoted run of a higher one would find no
place.
"""

from __future__ import annotations

import threading
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from offramp.ports.clock import Clock

CROWD_SHARE = 0.5
"""The part of a worker's places that waits for permits may hold."""
AWAY_S_MIN = 6.0
"""The least time for which a wait goes on without a process: for a shorter one no run is parked."""
AWAY_S_MAX = 15.0
"""The longest such time, unless so many would come back too fast: a foretold wait may be wrong, and a parked run is
granted nothing, however much is free.
"""
AWAY_PER_S = 50.0
"""How many come back in a second, about: each begins in a process, only to be put off again if too many wait there."""


class Waiting(Protocol):
    """A wait for a permit."""

    order: tuple[int, str]
    """Its place in the order of all queues: its class, then its run."""
    expected_s: float | None
    """How long it is expected to take."""

    def put_off(self, until: float) -> None:
        """Go on without a process until then, in epoch seconds. From any thread."""


class Crowd:
    """The waits of the deep path in one process; from any thread.

    Args:
        places: how many there are for runs, or for steps.
        clock: time.
    """

    def __init__(self, places: int, clock: Clock) -> None:
        self._most = max(1, int(places * CROWD_SHARE))
        self._clock = clock
        self._lock = threading.Lock()
        self._here: dict[Waiting, None] = {}
        self._away: list[float] = []
        """When the waits end that go on without a process."""

    def enter(self, waiting: Waiting) -> None:
        """A wait begins here; where there are too many, the last one in the order is put off."""
        with self._lock:
            self._here[waiting] = None
            if len(self._here) <= self._most:
                return
            last = max(self._here, key=lambda each: each.order)
            del self._here[last]
            until = self._until(last.expected_s or 0.0)
        last.put_off(until)

    def _until(self, expected_s: float) -> float:
        """When a wait comes back: spread out, as many are often put off together."""
        now = self._clock.time()
        while self._away and self._away[0] <= now:
            heappop(self._away)
        longest = max(min(expected_s, AWAY_S_MAX) - AWAY_S_MIN, len(self._away) / AWAY_PER_S)
        until = now + AWAY_S_MIN + longest * (1 + self._clock.random()) / 2
        heappush(self._away, until)
        return until

    def leave(self, waiting: Waiting) -> None:
        """A wait is over, or goes on without a process."""
        with self._lock:
            self._here.pop(waiting, None)
