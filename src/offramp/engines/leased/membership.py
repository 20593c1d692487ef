"""Registers a process among the others, renews its lease, and receives their hints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from offramp.engines.leased.ends import Ends
from offramp.engines.leased.hints import UDPHints
from offramp.engines.leased.lease_keeper import LeaseKeeper
from offramp.engines.leased.presence import Presence
from offramp.engines.leased.seat import Seat
from offramp.engines.leased.taking import Taking
from offramp.errors import StoreError
from offramp.ports.clock import Clock
from offramp.ports.engine import RunControl
from offramp.ports.hints import Hints, Kind
from offramp.ports.parts import Part
from offramp.ports.store import Batch, Owner, Ownership, Store

logger = logging.getLogger("offramp")


@dataclass(frozen=True, kw_only=True)
class Links:
    """The connections between a process and the others, and the receivers of news in this process.

    Attributes:
        hints: how the processes notify each other.
        presence: how others see that this process lives; None if there are no others.
        on_events: called with the runs that have new events from another process; with None if it may be any run.
        on_webhooks: called when another process queued a webhook.
        on_owners: called with the known processes after each look-up.
        new_keeper: makes the lease keeper.
    """

    hints: Hints = field(default_factory=UDPHints)
    presence: Presence | None = None
    on_events: Callable[[Sequence[str] | None], object] = lambda _runs: None
    on_webhooks: Callable[[], object] = lambda: None
    on_owners: Callable[[Sequence[Owner]], object] = lambda _owners: None
    new_keeper: Callable[..., LeaseKeeper] = LeaseKeeper


class Membership(Part):
    """One process among the others.

    Args:
        seat: the process.
        store: runs and events.
        leases: the leases of the runs; of the same store.
        clock: time.
        runs: the runs that execute in this process.
        taking: the claim loop of this process.
        ends: ends runs that no process executes.
        links: the connections to the other processes.
    """

    def __init__(
        self,
        seat: Seat,
        store: Store,
        leases: Ownership,
        clock: Clock,
        runs: RunControl,
        taking: Taking,
        ends: Ends,
        *,
        links: Links,
    ) -> None:
        self._seat = seat
        self._store = store
        self._leases = leases
        self._clock = clock
        self._runs = runs
        self._taking = taking
        self._ends = ends
        self.links = links
        self.keeper = links.new_keeper(leases, clock, seat.member.id, seat.member.lease_s, self.renewed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Register, and renew the lease from now on."""
        self._loop = asyncio.get_running_loop()
        await self.links.hints.open(self)
        if self.links.presence is not None:
            self.links.presence.open()
        await self._seat.register()
        await self.look_up()
        self._store.listen(self._written)
        self.keeper.start()
        self.links.hints.send("hello")
        self._spawn(self._look_around())

    async def drain(self) -> None:
        """Announce that this process leaves: runs that it still has at its end do not count a death."""
        self._seat.is_leaving = True

    async def close(self) -> None:
        """Leave: the others take the runs that this process still has."""
        if self._loop is None:
            return
        self._seat.is_leaving = True
        self.cut()
        with contextlib.suppress(StoreError):
            await self._seat.register()  # again, as the first attempt may have failed
            if await self._leases.retire(self._seat.member.id):
                self.links.hints.send("work")
        if self.links.presence is not None:
            self.links.presence.close()
        await self.links.hints.close()

    def cut(self) -> None:
        """Stop renewing and looking: once its lease is over, the others consider this process dead."""
        self.keeper.close()
        for task in self._tasks:
            task.cancel()

    async def retire(self, owner: str) -> int:
        """Release the runs of a process known to be dead at once; returns their number."""
        count = await self._leases.retire(owner)
        await self.look_up()
        self._taking.announce()
        return count

    async def look_up(self) -> None:
        """Look up the registered processes."""
        owners = await self._leases.owners()
        self.links.hints.peers(owners)
        self.links.on_owners(owners)

    def hinted(self, kind: Kind, ids: Sequence[str]) -> None:
        """React to a hint of another process."""
        if kind == "work":
            self._taking.look()
        elif kind == "events":
            self.links.on_events(ids)
        elif kind == "signal":
            for run_id in ids:
                self._runs.notice(run_id)
        elif kind == "webhooks":
            self.links.on_webhooks()
        elif kind == "cancel":
            self._spawn(self._ends.end_waiting([run_id for run_id in ids if not self._runs.cancel(run_id)]))
        else:
            self._spawn(self.look_up())

    def missed(self) -> None:
        """Look for everything that hints announce; cancellation requests come with the renewal of the lease."""
        self._taking.look()
        self.links.on_events(None)
        self.links.on_webhooks()
        self._notice_all()
        self.keeper.renew_now()

    def renewed(self, *, held_until: float | None, cancels: Sequence[str], expired: Sequence[str]) -> None:
        """See `lease_keeper.Renewed`; on the lease thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if held_until is not None:
            was_given_up = not self._seat.holds()
            self._seat.hold(held_until)
            if was_given_up:
                self._taking.look()
        else:
            logger.warning("this process was silent for longer than its lease; its runs were taken over")
            loop.call_soon_threadsafe(lambda: self._spawn(self.rejoin()))
        for run_id in cancels:
            self._runs.cancel(run_id)
        if expired:
            logger.warning("released the runs of silent processes: %s", ", ".join(expired))
            loop.call_soon_threadsafe(self._taking.announce)
        self._notice_all()
        loop.call_soon_threadsafe(lambda: self._spawn(self._look_around()))

    async def rejoin(self) -> None:
        """Stop the runs that other processes have taken over, then register again."""
        await self._runs.confirm()
        await self._seat.register()

    def _notice_all(self) -> None:
        for run_id in self._runs.listening():
            self._runs.notice(run_id)

    def _written(self, batches: list[Batch]) -> None:
        self.links.hints.send("events", [batch.run_id for batch in batches])

    async def _look_around(self) -> None:
        """Find the other processes, the dead ones, and the runs past their deadline that no process ended."""
        try:
            await self._take_back()
            await self.look_up()
            if not self._seat.is_leaving:  # the runs that it hands over must not come back to it
                await self._ends.overdue()
        except StoreError as error:
            logger.error("%s", error)  # noqa: TRY400 - an operator's matter

    async def _take_back(self) -> None:
        """Queue the runs of dead processes at once."""
        presence = self.links.presence
        if presence is None:
            return
        for owner in presence.dead():
            count = await self.retire(owner)
            presence.bury(owner)
            logger.warning("%s died; runs taken back: %d", owner, count)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
