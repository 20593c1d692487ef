"""How many runs each tenant may have open: counted cheaply here, corrected by the store.

Between two counts of the store this process adds what it accepts itself, so an ordinary request costs a look into
a dictionary. At the bound the store is asked before anybody is refused. What other gateways accept and what ends is
learned by the next count: several gateways together may pass the bound by what they accept within
`COUNT_AGAIN_S`, one alone never does. Nothing is kept, so a restart begins with the store's own count.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from offramp.errors import StoreError, TenantLimit
from offramp.ports.clock import Clock
from offramp.ports.store import Store

COUNT_AGAIN_S = 1.0
"""How old a count may be when a request comes, before another is made beside it."""
COUNT_SHARE_MAX = 0.05
"""Of the time, spent counting at most while nobody is at the bound."""

log = logging.getLogger("offramp")


class OpenRuns:
    """The open runs by tenant.

    Args:
        store: what counts them.
        clock: when to count again.
        limit: of one tenant.
    """

    def __init__(self, store: Store, clock: Clock, limit: int) -> None:
        self._store = store
        self._clock = clock
        self._limit = limit
        self._counted: dict[str, int] = {}
        self._since: Counter[str] = Counter()
        self._again_at: float | None = None
        self._counts_begun = 0
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def take(self, tenant: str) -> int:
        """Count one more run, which the caller then creates without waiting for anything in between.

        Returns:
            What `give_back` takes, should the run not come to be.

        Raises:
            TenantLimit: the tenant has as many as it may.
            StoreError: they cannot be counted now.
        """
        if self._again_at is None:
            await self._count()
        elif self._clock.monotonic() >= self._again_at and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._count_beside())
        if self._open(tenant) >= self._limit:
            await self._count()
        if self._open(tenant) >= self._limit:
            raise TenantLimit(
                f"{self._limit} runs are queued or running (OFFRAMP_TENANT_RUNS): try again when one has ended"
            )
        self._since[tenant] += 1
        return self._counts_begun

    def give_back(self, tenant: str, taken: int) -> None:
        """A run that was counted did not come to be; a count that began meanwhile did not see it anyway."""
        if taken == self._counts_begun:
            self._since[tenant] -= 1

    def close(self) -> None:
        """Count no more."""
        if self._task is not None:
            self._task.cancel()

    def _open(self, tenant: str) -> int:
        return self._counted.get(tenant, 0) + self._since[tenant]

    async def _count(self) -> None:
        """Ask the store; who waits meanwhile shares the next count, so that one at a time is made."""
        begun = self._counts_begun
        async with self._lock:
            if self._counts_begun > begun:
                return
            self._counts_begun += 1
            before, self._since = self._since, Counter()
            began = self._clock.monotonic()
            try:
                self._counted = await self._store.open_runs()
            except BaseException:
                self._since += before
                raise
            now = self._clock.monotonic()
            self._again_at = now + max(COUNT_AGAIN_S, (now - began) / COUNT_SHARE_MAX)

    async def _count_beside(self) -> None:
        try:
            await self._count()
        except StoreError as error:
            log.warning("open runs could not be counted: %s", error)
