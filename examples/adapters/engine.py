"""An engine of one process, from `offramp.ports.engine` alone: docs/contributing/adapters.md walks through it."""

from __future__ import annotations

import asyncio
import contextlib
import math

from offramp.core.events import Draft
from offramp.core.run import NOT_TAKEN, RunRecord
from offramp.core.seed import NO_SEED, Seed
from offramp.core.shares import Shares, Tenancy
from offramp.errors import Overloaded, StoreError, TenantBusy
from offramp.ports.clock import Clock
from offramp.ports.engine import Handoff, RunHost
from offramp.ports.parts import Part
from offramp.ports.store import Claim, Created, Idempotency, Lease, Leases, Parked, Store

LOOK_EVERY_S = 1.0
RETRY_AFTER_S = 5.0


class Taking(Part):
    """Takes what waits in the store while it `is_on`, and ends what met its deadline there (N9)."""

    def __init__(self, owner: str, leases: Leases, clock: Clock, host: RunHost, *, works: bool) -> None:
        self.is_on = False
        self._works, self._owner, self._leases = works, owner, leases
        self._clock, self._host = clock, host
        self._wake, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._host.held(math.inf)  # no other process takes what this one holds
        self.is_on = self._works
        self._task = asyncio.create_task(self._work())

    async def drain(self) -> None:
        self.is_on = False
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        await self.drain()
        with contextlib.suppress(StoreError):
            await self._leases.retire(self._owner)  # what is still held waits for the next process

    def look(self) -> None:
        self._loop.call_soon_threadsafe(self._wake.set)

    async def end(self, run_id: str) -> None:
        claim = await self._leases.claim_one(self._owner, run_id, self._clock.time())
        if claim is not None:
            self._host.execute(claim)  # the host ends a run that is cancelled or overdue, after its cleanup

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            with contextlib.suppress(StoreError):  # it looks again soon
                await self._take()
            timer = self._clock.call_at(self._clock.monotonic() + LOOK_EVERY_S, self.look)
            await self._wake.wait()
            timer.cancel()

    async def _take(self) -> None:
        now = self._clock.time()
        for run_id in await self._leases.overdue(now):
            await self.end(run_id)
        if self.is_on and (free := self._host.free()) > 0:
            for claim in await self._leases.claim(self._owner, free, self._host.pipelines, now):
                self._host.execute(claim)


class OneProcessEngine:
    """Executes runs in the only process there is: it shares none, and is `ready` while it `takes`."""

    sharing = None

    def __init__(self, owner: str, store: Store, leases: Leases, clock: Clock, host: RunHost, *, works: bool) -> None:
        self._owner, self._store, self._leases = owner, store, leases
        self._clock, self._host = clock, host
        self._taking = Taking(owner, leases, clock, host, works=works)
        self.parts: list[Part] = [self._taking]  # N13
        self.has_room = self._taking.look  # N15
        self.queue_max, self.queue_limits, self.tenancy = 1_000, dict[str, int](), Tenancy()

    async def start(
        self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None, seed: Seed = NO_SEED
    ) -> Created:
        """N1, N17: execute the run here if there is room, else queue it."""
        owner = None
        if self.takes() and self._host.free() > 0:
            owner, record.status = self._owner, "running"
        else:
            await self._require_room(record, idempotency)
        if owner or seed.entries:
            record.started_at = record.created_at if owner else NOT_TAKEN
        given = {"owner": owner, "durable": True, "idempotency": idempotency, **seed._asdict()}
        commit, log = self._store.create(record, accepted, **given)
        created = await commit  # on disk: only now may the client hear of the run
        if created.existing is None and log is not None:
            self._host.execute(Claim(record, log.lease, fresh=not seed.entries))
        self.has_room()
        return created

    async def _require_room(self, record: RunRecord, idempotency: Idempotency | None) -> None:
        """N11, N12; a request that is repeated with its key gets its run, however full the queue is."""
        if idempotency and await self._store.holder(record.tenant, idempotency.key, record.created_at):
            return
        of_class, limit = await self._leases.queued_by_class(), self.queue_limits.get(record.sla, math.inf)
        refused = Shares(self.queue_max, self.tenancy, await self._leases.queued()).refusal(record.tenant)
        if refused is not None or of_class.get(record.sla, 0) >= limit:
            raise (TenantBusy if refused == "share" else Overloaded)("as many runs wait as may", RETRY_AFTER_S)

    async def adopt(self, handoff: Handoff) -> None:
        """N2; its steps in flight end under the lease that the run has (N3)."""
        await self._store.adopt(handoff.lease, handoff.demotion)

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """N4, N7: the store queues the run, or parks it until its time or a signal comes."""
        await self._leases.release(lease, parked)
        self.has_room()

    async def signal(self, run_id: str, name: str, value: bytes, key: str | None = None) -> RunRecord | None:
        """N7: keep the signal, then tell the run, or take it if it was parked."""
        record = await self._leases.send_signal(run_id, name, value, self._clock.time(), key)
        if record is not None and not self._host.notice(run_id):
            self.has_room()
        return record

    async def cancel(self, run_id: str) -> RunRecord | None:
        """N5: keep the wish, then tell the run, or take it from the queue to end it."""
        record = await self._leases.request_cancel(run_id)
        if record is not None and not record.finished and not self._host.cancel(run_id):
            await self._taking.end(run_id)
        return record

    async def ready(self) -> bool:  # N10
        return self.takes()

    def takes(self) -> bool:  # N13
        return self._taking.is_on

    async def backlog(self) -> int:  # N18
        return sum((await self._leases.queued()).values())

    async def retire(self, owner: str) -> int:  # N14
        released = await self._leases.retire(owner)
        self.has_room()
        return released
