"""The operations on single runs that are leased from the store: the part that engines share."""

from __future__ import annotations

import logging
import math

from offramp.core.events import Draft
from offramp.core.run import NOT_TAKEN, RunRecord
from offramp.core.seed import NO_SEED, Seed
from offramp.engines.leased.ends import Ends
from offramp.engines.leased.membership import Links, Membership
from offramp.engines.leased.queue_bound import QueueBound
from offramp.engines.leased.seat import Member, Seat
from offramp.engines.leased.taking import Taking
from offramp.errors import LeaseLost, Overloaded, TenantBusy
from offramp.ports.clock import Clock
from offramp.ports.engine import Handoff, RunHost, RunTaker
from offramp.ports.parts import Part
from offramp.ports.store import Claim, Created, Idempotency, Lease, Leases, Parked, Store

logger = logging.getLogger("offramp")


class LeasedEngine:
    """See the engine port.

    Args:
        member: this process.
        store: runs and events.
        leases: the leases of the runs; of the same store.
        clock: time.
        host: executes runs in this process.
        taker: takes the runs that this process claims.
        links: the connections to the other processes.
        takes: whether this process claims runs as soon as it has joined.
    """

    def __init__(
        self,
        member: Member,
        store: Store,
        leases: Leases,
        clock: Clock,
        host: RunHost,
        taker: RunTaker,
        links: Links,
        *,
        takes: bool,
    ) -> None:
        self._store = store
        self.leases = leases
        self._clock = clock
        self._host = host
        self._hints = links.hints
        self.seat = Seat(member, leases, clock, host, links.hints, takes=takes)
        self.taking = Taking(self.seat, store, leases, clock, taker, links.hints)
        self._ends = Ends(self.seat, host, store, leases, clock)
        self.membership = Membership(self.seat, store, leases, clock, host, self.taking, self._ends, links=links)
        self.queue = QueueBound(leases, clock, member.queue_max, member.tenancy, member.queue_limits)

    @property
    def parts(self) -> list[Part]:
        """The parts of the engine in this process."""
        return [self.membership, self.taking, self._ends, self.queue]

    async def start(
        self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None, seed: Seed = NO_SEED
    ) -> Created:
        """Accept a new run: execute it at once if there is room here, else queue it (N1)."""
        here = self.seat.takes and self.taking.room() > 0
        if not here:
            await self._require_room(record, idempotency)
        if here:
            record.status = "running"
        if here or seed.entries:
            record.started_at = record.created_at if here else NOT_TAKEN
        owner, held_until = self.seat.member.id if here else None, self.seat.held_until
        commit, runlog = self._store.create(
            record, accepted, owner=owner, durable=True, idempotency=idempotency, **seed._asdict()
        )
        created = await commit
        if created.existing is not None:
            return created
        # Not earlier: until the store answers, another process may have the run.
        if runlog is not None:
            await self.taking.take(Claim(record, runlog.lease, fresh=not seed.entries), held_until)
        else:
            self.taking.announce()
        return created

    async def _require_room(self, record: RunRecord, idempotency: Idempotency | None) -> None:
        """Refuse a run that does not fit into the queue; a request that attaches to an existing run always fits.

        Raises:
            TenantBusy: the tenant has its share of the queue.
            Overloaded: the queue is full.
        """
        try:
            await self.queue.take(record.tenant, record.sla)
        except (Overloaded, TenantBusy):
            known = idempotency and await self._store.holder(record.tenant, idempotency.key, record.created_at)
            if not known:
                raise

    async def adopt(self, handoff: Handoff) -> None:
        """Move the run to the deep path; this process keeps the lease while steps are in flight (N2, N3)."""
        await self._store.adopt(handoff.lease, handoff.demotion)

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Queue the run for a worker, or park it."""
        try:
            await self.leases.release(lease, parked)
        except LeaseLost:
            logger.info("%s was taken over before it was released", lease.run_id)
        if parked is not None and parked.until < math.inf:
            # Any process can claim it now; this one only makes the processes look.
            clock = self._clock
            clock.call_at(clock.monotonic() + max(0.0, parked.until - clock.time()), self.taking.announce)
        self.taking.announce()

    async def signal(self, run_id: str, name: str, value: bytes, key: str | None = None) -> RunRecord | None:
        """Store the signal, then notify the process that executes the run or now takes it off the queue."""
        record = await self.leases.send_signal(run_id, name, value, self._clock.time(), key)
        if record is not None and not self._host.notice(run_id):
            self._hints.send("signal", [run_id])
            self.taking.announce()
        return record

    async def cancel(self, run_id: str) -> RunRecord | None:
        """Store the request, then notify the process that executes the run, or take it off the queue."""
        record = await self.leases.request_cancel(run_id)
        if record is None or record.finished or self._host.cancel(run_id):
            return record
        if not await self._ends.cancel(record):
            self._hints.send("cancel", [run_id])
            self.taking.announce()
        return record

    async def ready(self) -> bool:
        """Whether a process that executes deep runs is ready."""
        return await self.seat.ready()

    def takes(self) -> bool:
        """Whether this process takes runs and, as far as it knows, its lease still runs; from any thread."""
        return self.taking.is_on

    async def backlog(self) -> int:
        """How many runs wait for a worker."""
        return sum((await self.leases.queued()).values())

    async def retire(self, owner: str) -> int:
        """Release the runs of a process known to be dead at once."""
        return await self.membership.retire(owner)

    def has_room(self) -> None:
        """A run ended in this process: look for another. From any thread."""
        self.taking.has_room()
