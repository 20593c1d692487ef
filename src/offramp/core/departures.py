"""How fast places become free: departures a second, measured over the last half minute or so. Pure."""

from __future__ import annotations

import math

MEMORY_S = 30.0
"""The age at which a departure counts for 1/e of a new one."""


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
        self._count = self._decayed(now) + 1.0
        self._at = max(self._at, now)

    def rate(self, now: float) -> float:
        """Departures a second; 0 while none is known."""
        # As much time counts as the decayed seconds since the beginning.
        seconds = MEMORY_S * -math.expm1(-max(0.0, now - self._since) / MEMORY_S)
        return self._decayed(now) / max(seconds, 1.0)

    def _decayed(self, now: float) -> float:
        return self._count * math.exp(-max(0.0, now - self._at) / MEMORY_S)
