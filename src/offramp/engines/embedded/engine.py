"""The embedded engine: queues, claims, recovers and cancels deep runs through the store's leases.

Several processes may run it over one store; each executes what it has room for. It polls only as a fallback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Sequence

from offramp.core.events import Draft
from offramp.core.run import RunRecord
from offramp.engines.embedded.ends import Ends
from offramp.engines.embedded.hints import UDPHints
from offramp.engines.embedded.lease_keeper import LeaseKeeper
from offramp.engines.embedded.member import Member
from offramp.engines.embedded.presence import Presence
from offramp.engines.embedded.queue_bound import queue_bound
from offramp.errors import LeaseLost, Overloaded, StoreError, TenantBusy
from offramp.ports.clock import Clock
from offramp.ports.engine import Handoff, RunHost
from offramp.ports.hints import Hints, Kind
from offramp.ports.store import Batch, Claim, Created, Idempotency, Lease, Leases, Owner, Parked, Store

log = logging.getLogger("offramp")

CLAIM_MAX = 50
"""Runs taken by one claim."""


class EmbeddedEngine:
    """See the engine port. `open` is called on a loop that no user code runs on; the rest from any loop.

    Args:
        member: this process.
        store: runs and events.
        leases: who may write them; of the same store.
        clock: time.
        host: what executes runs here.
        on_events: told which runs have new events that another process wrote; None where it may be any.
        on_webhooks: told that another process made a webhook due.
        on_owners: told who is there, whenever that was looked up.
        hints: how the processes tell each other; by UDP on loopback unless told otherwise.
        presence: how others see that this process lives; None where it is alone.
    """

    new_keeper = LeaseKeeper

    def __init__(
        self,
        member: Member,
        store: Store,
        leases: Leases,
        clock: Clock,
        host: RunHost,
        on_events: Callable[[Sequence[str] | None], object],
        *,
        on_webhooks: Callable[[], object] = lambda: None,
        on_owners: Callable[[Sequence[Owner]], object] = lambda _owners: None,
        hints: Hints | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._member = member
        self._store = store
        self._leases = leases
        self._clock = clock
        self._host = host
        self._on_events = on_events
        self._on_webhooks = on_webhooks
        self._on_owners = on_owners
        self._presence = presence
        self._hints = hints or UDPHints()
        self._ends = Ends(member.id, host, store, leases, clock, lambda: self._taking, self.ready)
        self._keeper = self.new_keeper(leases, clock, member.id, member.lease_s, self._renewed)
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_at = clock.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self._taker: asyncio.Task[None] | None = None
        self._taking = False
        self._leaving = False
        self._held_until = -math.inf
        self._queue = queue_bound(leases, clock, member.queue_max, member.tenancy)
        self._more_wait = True
        """Whether runs may be queued that did not fit: then the end of one here is a reason to look."""

    async def open(self) -> None:
        """Join: become known, renew from now on, begin to take runs."""
        self._loop = asyncio.get_running_loop()
        self._taking = self._member.works
        await self._hints.open(self)
        if self._presence is not None:
            self._presence.open()
        await self._register()
        await self._refresh_peers()
        self._store.listen(self._written)
        self._keeper.start()
        self._hints.send("hello")
        self._spawn(self._look_around())
        if self._taking:
            self._taker = self._spawn(self._take_runs())

    async def start_taking(self) -> None:
        """Claim runs from now on, where `open` did not begin to."""
        self._taking = True
        await self._register()
        self._taker = self._spawn(self._take_runs())

    async def stop_taking(self) -> None:
        """Claim no further run; others may not wait for this process to be warm any more."""
        self._taking, self._leaving = False, True
        self._wake.set()
        if self._taker is not None:
            await asyncio.wait([self._taker])  # what it is just claiming begins here
        try:
            await self._register()
        except StoreError as error:  # the end of its lease says the same
            log.error("%s", error)  # noqa: TRY400 - what runs here is handed over all the same, should the store be back

    async def close(self) -> None:
        """Leave: what is still held here goes to the others."""
        self._taking, self._leaving = False, True
        self._ends.close()
        self._keeper.close()
        self._queue.close()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(StoreError):
            await self._register()  # whatever became of it when this process was told to stop
            if await self._leases.retire(self._member.id):
                self._hints.send("work")
        if self._presence is not None:
            self._presence.close()
        await self._hints.close()

    async def start(self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None) -> Created:
        """Take a new run: executed here at once if there is room, else queued (N1)."""
        here = self._taking and self._room() > 0
        if not here:
            await self._require_room(record, idempotency)
        if here:
            record.status, record.started_at = "running", record.created_at
        owner, held_until = self._member.id if here else None, self._held_until
        commit, runlog = self._store.create(record, accepted, owner=owner, durable=True, idempotency=idempotency)
        created = await commit
        if created.existing is not None:
            return created
        # Only now: until the store has answered, another process may have the run.
        if runlog is not None:
            await self._execute(Claim(record, runlog.lease, fresh=True), held_until)
        else:
            self._announce_work()
        return created

    async def _require_room(self, record: RunRecord, idempotency: Idempotency | None) -> None:
        """Refuse what does not fit into the queue; what attaches to a run that exists always does.

        Raises:
            TenantBusy: the tenant has its share of the queue.
            Overloaded: the queue is full.
        """
        try:
            await self._queue.take(record.tenant)
        except (Overloaded, TenantBusy):
            known = idempotency and await self._store.holder(record.tenant, idempotency.key, record.created_at)
            if not known:
                raise

    async def adopt(self, handoff: Handoff) -> None:
        """The run is the deep path's from here on; this process keeps the lease while steps are in flight (N2, N3)."""
        await self._store.adopt(handoff.lease, handoff.demotion)

    shares = False

    async def share(self, record: RunRecord, in_flight: list[str], detach: Callable[[], bool]) -> Lease | None:
        """Not here: a run has one process."""
        return None

    async def delivered(self, run_id: str) -> None:
        """Nothing is shared."""

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Queue the run for a worker, or park it."""
        try:
            await self._leases.release(lease, parked)
        except LeaseLost:
            log.info("%s was taken over before it was released", lease.run_id)
        if parked is not None and parked.until < math.inf:
            # Whoever claims then; this process only sees to it that somebody looks.
            clock = self._clock
            clock.call_at(clock.monotonic() + max(0.0, parked.until - clock.time()), self._announce_work)
        self._announce_work()

    async def signal(self, run_id: str, name: str, value: bytes, key: str | None = None) -> RunRecord | None:
        """Keep the signal, then reach whoever executes the run, or whoever takes it off the queue now."""
        record = await self._leases.send_signal(run_id, name, value, self._clock.time(), key)
        if record is not None and not self._host.notice(run_id):
            self._hints.send("signal", [run_id])
            self._announce_work()
        return record

    async def cancel(self, run_id: str) -> RunRecord | None:
        """Note the wish durably, then reach whoever executes the run, or take it off the queue."""
        record = await self._leases.request_cancel(run_id)
        if record is None or record.finished or self._host.cancel(run_id):
            return record
        if not await self._ends.cancel(record):
            self._hints.send("cancel", [run_id])
            self._announce_work()
        return record

    async def ready(self) -> bool:
        """Whether a process that executes deep runs is warm."""
        now = self._clock.time()
        return any(owner.ready and owner.expires_at > now for owner in await self._leases.owners())

    def takes(self) -> bool:
        """Whether this process claims runs and its lease still runs, as far as it knows; from any thread."""
        return self._taking and self._clock.monotonic() < self._held_until

    async def retire(self, owner: str) -> int:
        """Release at once what a process held that is known to be dead."""
        count = await self._leases.retire(owner)
        await self._refresh_peers()
        self._announce_work()
        return count

    def has_room(self) -> None:
        """A run ended here: look whether another waits, if one may. From any thread."""
        if self._more_wait:
            self._look()

    def _look(self) -> None:
        if self._loop is not None and self._taking:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    def announce_webhooks(self) -> None:
        """This process made a webhook due and delivers none: tell those that do. From any thread."""
        self._hints.send("webhooks")

    # Inside.

    async def _take_runs(self) -> None:
        while self._taking:
            self._more_wait = True  # before counting, so that a run that ends meanwhile is not overlooked
            free = self._room()
            claims: Sequence[Claim] = []
            held_until = self._held_until
            if free > 0:
                try:
                    now = self._clock.time()
                    claims = await self._leases.claim(self._member.id, min(free, CLAIM_MAX), self._host.pipelines, now)
                except StoreError as error:
                    log.error("cannot claim runs: %s", error)  # noqa: TRY400
                except Exception:  # one bad moment must not leave this process deaf
                    log.exception("cannot claim runs")
            for claim in claims:
                await self._execute(claim, held_until)
            if free > len(claims) and len(claims) < CLAIM_MAX:
                # Whatever is queued from here on is announced; but suspects may wait for the end of those just taken.
                self._more_wait = any(claim.record.deaths for claim in claims)
                await self._wait_for_work()
            elif free <= 0:
                await self._wait_for_work()

    async def _execute(self, claim: Claim, held_until: float) -> None:
        """Execute a run that was asked for while the lease ran until then, unless it was taken away since (D2)."""
        while self._clock.monotonic() >= held_until:
            try:
                await self._store.log(claim.lease).durable()
                break
            except LeaseLost as error:
                log.info("%s", error)
                return
            except StoreError as error:  # it is held here until the store says otherwise
                log.error("%s cannot begin yet: %s", claim.record.id, error)  # noqa: TRY400 - an operator's matter
                await self._wait_for_work()
        self._host.execute(claim)

    def _room(self) -> int:
        """How many more runs fit; none while this process may have been given up, as they would be taken away again."""
        return self._host.free() if self._clock.monotonic() < self._held_until else 0

    def _hold(self, until: float) -> None:
        self._held_until = until
        self._host.held(until)

    async def _wait_for_work(self) -> None:
        timer = self._clock.call_at(self._clock.monotonic() + self._member.poll_s, self._look)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    def _announce_work(self) -> None:
        self._look()
        self._hints.send("work")

    def hinted(self, kind: Kind, ids: Sequence[str]) -> None:
        """Another process says so: look."""
        if kind == "work":
            self._wake.set()
        elif kind == "events":
            self._on_events(ids)
        elif kind == "signal":
            for run_id in ids:
                self._host.notice(run_id)
        elif kind == "webhooks":
            self._on_webhooks()
        elif kind == "cancel":
            self._spawn(self._ends.told([run_id for run_id in ids if not self._host.cancel(run_id)]))
        else:
            self._spawn(self._refresh_peers())

    def missed(self) -> None:
        """Look for everything that hints tell of; wishes to cancel come with the lease."""
        self._wake.set()
        self._on_events(None)
        self._on_webhooks()
        for run_id in self._host.listening():
            self._host.notice(run_id)
        self._keeper.renew_now()

    def _written(self, batches: list[Batch]) -> None:
        self._hints.send("events", [batch.run_id for batch in batches])

    def _renewed(self, *, held_until: float | None, cancels: Sequence[str], expired: Sequence[str]) -> None:
        """On the lease thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if held_until is not None:
            given_up = self._clock.monotonic() >= self._held_until
            self._hold(held_until)
            if given_up:
                loop.call_soon_threadsafe(self._wake.set)
        else:
            log.warning("this process was silent for longer than its lease; its runs were taken over")
            loop.call_soon_threadsafe(lambda: self._spawn(self._rejoin()))
        for run_id in cancels:
            self._host.cancel(run_id)
        if expired:
            log.warning("released what silent processes held: %s", ", ".join(expired))
            loop.call_soon_threadsafe(self._announce_work)
        for run_id in self._host.listening():
            self._host.notice(run_id)
        loop.call_soon_threadsafe(lambda: self._spawn(self._look_around()))

    async def _rejoin(self) -> None:
        """Stop what others have by now, then be known again."""
        await self._host.confirm()
        await self._register()

    async def _register(self) -> None:
        member, until = self._member, self._clock.monotonic() + self._member.lease_s
        said = (self._hints.port, self._taking, self._clock.time() + member.lease_s, self._started_at, self._leaving)
        await self._leases.register(Owner(member.id, member.kind, *said))
        self._hold(until)

    async def _look_around(self) -> None:
        """Who else is there, who died, and which runs met their deadline while nobody executed them."""
        try:
            await self._take_back()
            await self._refresh_peers()
            if not self._leaving:  # what it hands over is not to come back
                await self._ends.overdue()
        except StoreError as error:
            log.error("%s", error)  # noqa: TRY400 - an operator's matter

    async def _take_back(self) -> None:
        """Queue at once what processes held that died without leaving."""
        if self._presence is None:
            return
        for owner in self._presence.dead():
            count = await self.retire(owner)
            self._presence.bury(owner)
            log.warning("%s died; runs taken back: %d", owner, count)

    async def _refresh_peers(self) -> None:
        owners = await self._leases.owners()
        self._hints.peers(owners)
        self._on_owners(owners)

    def _spawn(self, coroutine: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
