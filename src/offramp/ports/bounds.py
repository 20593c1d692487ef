"""A bound on the runs of tenants in a store: counted cheaply here, corrected by the store's own count.

Between two counts of the store this process adds the runs that it accepts, so an ordinary request costs one look into a
dictionary. At the bound the store is asked before any request is refused. The next count includes runs that other
processes accepted, and those that ended: several processes may together pass the bound by the runs they accept between
two counts, one alone never does. Nothing is stored, so a restart begins with the store's own count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from offramp.errors import StoreError
from offramp.ports.clock import Clock

COUNT_SHARE_MAX = 0.05
"""The greatest share of the time spent counting while no tenant is at the bound."""

K = TypeVar("K", bound=Hashable)
K_contra = TypeVar("K_contra", contravariant=True)
C = TypeVar("C")
H = TypeVar("H", bound="Held[Any]")
logger = logging.getLogger("offramp")


class Held(Protocol[K_contra]):
    """What is counted: runs by tenant, or by whatever they are bounded by."""

    def take(self, key: K_contra, /) -> None:
        """One more."""

    def give_back(self, key: K_contra, /) -> None:
        """One less."""


class Bound(Generic[K, C, H]):
    """The number of runs of each tenant, or of whatever runs are bounded by, and whether it may have more.

    Args:
        count: asks the store, including all earlier writes of this process.
        made: what is held, by a count.
        refusal: of one more with a key; None if it may have it.
        clock: when to count again.
        every_s: how old a count may be when a request comes, before another is made beside it; where it is older
            still, as nothing came for a while, the request waits for it.
    """

    def __init__(
        self,
        count: Callable[[], Awaitable[C]],
        made: Callable[[C], H],
        refusal: Callable[[H, K], Exception | None],
        empty: C,
        clock: Clock,
        every_s: float,
    ) -> None:
        self._ask = count
        self._made = made
        self._refusal = refusal
        self._clock = clock
        self._every_s = every_s
        self._held = made(empty)
        self._since: Counter[K] = Counter()
        """Runs accepted since the newest count began, which may be missing in it."""
        self._again_at = -math.inf
        self._counts_begun = 0
        self._lock = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None
        """The count that is made beside requests."""

    async def take(self, key: K) -> int:
        """Count one more, which the caller then creates without waiting for anything in between.

        Returns:
            The argument for `give_back`, if the run is not created after all.

        Raises:
            RequestError: `refusal` says so.
            StoreError: the store cannot count now.
        """
        late_s = self._clock.monotonic() - self._again_at
        if late_s >= self._every_s:
            await self._count()
        elif late_s >= 0 and (self.task is None or self.task.done()):
            self.task = asyncio.create_task(self._count_beside())
        if self._refusal(self._held, key) is not None:
            await self._count()
            refused = self._refusal(self._held, key)
            if refused is not None:
                raise refused
        self._held.take(key)
        self._since[key] += 1
        return self._counts_begun

    def give_back(self, key: K, taken: int) -> None:
        """Uncount a run that was not created; a count that began meanwhile does not include it."""
        if taken == self._counts_begun:
            self._since[key] -= 1
            self._held.give_back(key)

    def close(self) -> None:
        """Count no more. From any thread."""
        if self.task is not None and not self.task.done():
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self.task.get_loop().call_soon_threadsafe(self.task.cancel)

    async def _count(self) -> None:
        """Ask the store; callers that wait meanwhile share the next count, so only one is made at a time."""
        begun = self._counts_begun
        async with self._lock:
            if self._counts_begun > begun:
                return
            self._counts_begun += 1
            self._since = Counter()
            began = self._clock.monotonic()
            # Until it arrives, the count before it holds, with the runs accepted since: none slips in meanwhile.
            held = self._made(await self._ask())
            for key in self._since.elements():
                held.take(key)
            self._held = held
            now = self._clock.monotonic()
            self._again_at = now + max(self._every_s, (now - began) / COUNT_SHARE_MAX)

    async def _count_beside(self) -> None:
        try:
            await self._count()
        except StoreError as error:
            logger.warning("the runs of tenants could not be counted: %s", error)
