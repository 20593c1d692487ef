"""What processes count, learn and do for each other, in memory: a part of the store."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from offramp.core.routing import Observed
from offramp.core.slo import KEPT_MINUTES, Counts, Tally
from offramp.errors import StoreError


class MemoryTallies:
    """See S16 to S19 of the store port."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str, str], Counts] = {}
        self._averages: dict[str, float] = {}
        self._duties: dict[str, tuple[str, float]] = {}
        self._counting = threading.Lock()
        self._closed = False

    def trouble(self) -> str | None:
        """None: memory takes everything."""
        return None

    async def tally(self, tallies: Sequence[Tally]) -> None:
        """Add to the counts of classes; those that nobody asks for any more go."""
        if self._closed:
            raise StoreError("the store is closed")
        with self._counting:
            for tally in tallies:
                key = tally.minute, tally.sla, tally.tenant
                self._counts[key] = self._counts.get(key, Counts()).plus(tally.counts)
            oldest = max((tally.minute for tally in tallies), default=0) - KEPT_MINUTES
            self._counts = {key: counts for key, counts in self._counts.items() if key[0] >= oldest}

    async def learn(self, observed: Sequence[Observed]) -> dict[str, float]:
        """Move the averages of pipelines."""
        if self._closed:
            raise StoreError("the store is closed")
        with self._counting:
            for each in observed:
                self._averages[each.pipeline] = each.moved(self._averages.get(each.pipeline))
            return dict(self._averages)

    async def tallied(self, since: int, tenant: str = "") -> dict[str, Counts]:
        """The counts of a tenant from a minute on, by class."""
        found: dict[str, Counts] = {}
        with self._counting:
            for (minute, sla, whose), counts in self._counts.items():
                if minute >= since and whose == tenant:
                    found[sla] = found.get(sla, Counts()).plus(counts)
        return found

    async def take_duty(self, duty: str, owner: str, now: float, until: float) -> bool:
        """Take what one process does for all, or keep it."""
        with self._counting:
            holder, held_until = self._duties.get(duty, (owner, now))
            if holder != owner and held_until > now:
                return False
            self._duties[duty] = owner, until
            return True
