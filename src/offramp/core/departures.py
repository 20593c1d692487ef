"""How fast places become free, and so when a client that was refused should try again. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from offramp.core.order import longest_wait_s
from offramp.core.sla import SLA

MEMORY_S = 30.0
"""The age at which a departure counts for 1/e of a new one."""


COUNT_LEAST = 0.05
"""The decayed departures below which nothing is known: one counts for a minute and a half."""
UNKNOWN_WAIT_S = 60.0
"""The time to retry after while nothing is known to leave."""

STARVED_S_MAX = 300.0
"""The same, at most, for a class of which nothing has left lately, while others do."""


class Departures:
    """The rate of departures from something, decayed, so that it follows a change within `MEMORY_S`.

    Args:
        now: when the measurement begins, in seconds of any clock.
    """

    def __init__(self, now: float) -> None:
        self._since = self._at = now
        self._count = 0.0

    def add(self, now: float) -> None:
        """One has left."""
        if now > self._at:
            self._count, self._at = self._decayed(now), now
        self._count += 1.0

    def rate(self, now: float) -> float:
        """Departures a second; 0 while none is known, or the last ones are too long ago to tell."""
        count = self._decayed(now)
        if count < COUNT_LEAST:
            return 0.0
        # As much time counts as the decayed seconds since the beginning.
        seconds = MEMORY_S * -math.expm1(-max(0.0, now - self._since) / MEMORY_S)
        return count / max(seconds, 1.0)

    def _decayed(self, now: float) -> float:
        gone_s = now - self._at
        return self._count * math.exp(-gone_s / MEMORY_S) if gone_s > 0 else self._count


def room_rate(sla: SLA | None, rates: Mapping[str, float]) -> float:
    """How many runs a second a full queue has room for: of one class, if that has as many as it may."""
    return sum(rates.values()) if sla is None else rates.get(sla.name, 0.0)


def room_in_s(waiting: int, sla: SLA | None, rates: Mapping[str, float]) -> float:
    """When a queue that is full is expected to have served the runs that wait now, in seconds.

    Args:
        waiting: how many wait: of the class, or of all for None.
        sla: the class that has as many as it may.
        rates: departures a second by class.
    """
    everything, rate = sum(rates.values()), room_rate(sla, rates)
    if rate > 0:
        return waiting / rate
    # None of the class has left lately: it begins now, or higher classes keep it waiting for as long as it allows.
    longest_s = None if sla is None else longest_wait_s(sla, everything)
    return UNKNOWN_WAIT_S if longest_s is None else min(longest_s, STARVED_S_MAX)
