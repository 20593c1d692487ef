"""Takes queued runs for this process, up to its capacity. It polls only as a fallback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from offramp.engines.leased.seat import Seat
from offramp.errors import LeaseLost, StoreError
from offramp.ports.clock import Clock
from offramp.ports.engine import RunTaker
from offramp.ports.hints import Hints
from offramp.ports.parts import Part
from offramp.ports.store import Claim, Ownership, Runs

logger = logging.getLogger("offramp")

CLAIM_MAX = 50
"""Runs taken by one claim."""


class Taking(Part):
    """The claim loop of one process.

    Args:
        seat: the process.
        store: runs.
        leases: the leases of the runs; of the same store.
        clock: time.
        taker: takes each claimed run.
        hints: tells other processes that a run waits.
    """

    def __init__(self, seat: Seat, store: Runs, leases: Ownership, clock: Clock, taker: RunTaker, hints: Hints) -> None:
        self._seat = seat
        self._store = store
        self._leases = leases
        self._clock = clock
        self._taker = taker
        self._hints = hints
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._more_wait = True
        """Whether the queue may hold runs that did not fit: then the end of a run here is a reason to look."""

    async def start(self) -> None:
        """Start to claim runs, if this process does so from its start."""
        self._loop = asyncio.get_running_loop()
        if self._seat.takes:
            self._task = self._loop.create_task(self._take_runs())

    async def begin(self) -> None:
        """Claim runs from now on, if `start` did not, unless the process drains.

        Raises:
            StoreError: the process is not registered as claiming, and claims nothing.
        """
        if not self._seat.is_leaving:
            self._seat.takes = True
            await self._seat.register()
            self._task = asyncio.get_running_loop().create_task(self._take_runs())

    async def pause(self) -> None:
        """Claim no further run, and register that."""
        self._seat.takes = False
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])  # runs of the claim under way begin here
        if self._loop is None:
            return
        try:
            await self._seat.register()
        except StoreError as error:  # the end of its lease has the same effect
            logger.error("%s", error)  # noqa: TRY400 - runs are handed over all the same, if the store is back

    async def drain(self) -> None:
        """Claim no further run."""
        await self.pause()

    async def close(self) -> None:
        """End the loop."""
        self._seat.takes = False
        if self._task is not None:
            self._task.cancel()

    @property
    def is_on(self) -> bool:
        """Whether this process claims runs and, as far as it knows, its lease still runs; from any thread."""
        return self._works() and self._seat.takes and self._seat.holds()

    def _works(self) -> bool:
        return self._task is not None and not self._task.done()

    def room(self) -> int:
        """How many more runs fit; none once the lease may be over, as this process would lose them again."""
        return self._taker.free() if self._seat.holds() else 0

    def has_room(self) -> None:
        """A run ended here: look for another, if one may wait. From any thread."""
        if self._more_wait:
            self.look()

    def look(self) -> None:
        """Look for queued runs soon, if this process takes any. From any thread."""
        if self._loop is not None and self._works():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    def announce(self) -> None:
        """Announce that a run waits, to this process and the others. From any thread."""
        self.look()
        self._hints.send("work")

    async def take(self, claim: Claim, held_until: float) -> None:
        """Take a run claimed under the lease that ended then, unless this process has lost it since (D2)."""
        while self._clock.monotonic() >= held_until:
            try:
                await self._store.log(claim.lease).durable()
                break
            except LeaseLost as error:
                logger.info("%s", error)
                return
            except StoreError as error:  # this process has it until the store says otherwise
                logger.error("%s cannot start yet: %s", claim.record.id, error)  # noqa: TRY400 - an operator's matter
                await self._wait_for_work()
        self._taker.execute(claim)

    async def _take_runs(self) -> None:
        while self._seat.takes:
            self._more_wait = True  # before counting, so that the end of a run meanwhile is seen
            free = self.room()
            claims: Sequence[Claim] = []
            held_until = self._seat.held_until
            if free > 0:
                claims = await self._claimed(min(free, CLAIM_MAX))
            for claim in claims:
                await self.take(claim, held_until)
            if free > len(claims) and len(claims) < CLAIM_MAX:
                # Every run queued from here on is announced; but suspects may wait for the end of the runs just taken.
                self._more_wait = any(claim.record.deaths for claim in claims)
                await self._wait_for_work()
            elif free <= 0:
                await self._wait_for_work()

    async def _claimed(self, most: int) -> Sequence[Claim]:
        try:
            taker = self._taker
            return await self._leases.claim(
                self._seat.member.id, most, taker.pipelines, self._clock.time(), taker.classes
            )
        except StoreError as error:
            logger.error("cannot claim runs: %s", error)  # noqa: TRY400
        except Exception:  # one failure must not end the claim loop
            logger.exception("cannot claim runs")
        return []

    async def _wait_for_work(self) -> None:
        timer = self._clock.call_at(self._clock.monotonic() + self._seat.member.poll_s, self.look)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()
