"""The engine on Temporal: bodies are workflows, steps are activities; queues, retries and timers are Temporal's.

The store keeps everything that clients see: records, journals, events, signals. A process leases a run from it until it
hands the run to Temporal: it hands over the runs that it takes off the queue, and does not execute them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker, WorkerDeploymentConfig

from offramp.core.events import Draft
from offramp.core.failure import failure_of
from offramp.core.ownership import ENGINE
from offramp.core.run import Outcome, RunRecord
from offramp.core.seed import NO_SEED, Seed
from offramp.engines.leased.engine import LeasedEngine
from offramp.engines.leased.membership import Links
from offramp.engines.leased.seat import Member
from offramp.engines.temporal.anew import Anew, Strayed, WatchedRunner
from offramp.engines.temporal.body import PipelineWorkflow
from offramp.engines.temporal.connection import RETRY_EVERY_S, Connection, backlog
from offramp.engines.temporal.held import GO
from offramp.engines.temporal.home import HomeInterceptor
from offramp.engines.temporal.hop import Hop
from offramp.engines.temporal.notices import Notices
from offramp.engines.temporal.payloads import Start, require_fit
from offramp.engines.temporal.relay import Relay
from offramp.engines.temporal.steps import Activities
from offramp.engines.temporal.tasks import Tasks
from offramp.engines.temporal.worker import BodyWorker
from offramp.errors import InputError, LeaseLost, ObjectsUnavailable, TooLarge
from offramp.ports import bodies
from offramp.ports.blobs import Blobs
from offramp.ports.bodies import BodyHost, Facts
from offramp.ports.clock import Clock
from offramp.ports.engine import RunHost
from offramp.ports.parts import Part
from offramp.ports.store import Claim, Created, Idempotency, Lease, Leases, Parked, Store

if TYPE_CHECKING:
    from offramp.engines.temporal.address import Address

logger = logging.getLogger("offramp")

BODIES_CACHED_MAX = 1_000
"""The most bodies that a worker keeps between their steps; it rebuilds any other from history when needed."""
REMEMBERED_RUNS = 10_000
"""The most runs that a worker remembers to have executed, so that it does not report each of them as resumed."""


class TemporalHost(RunHost, BodyHost, Protocol):
    """The host that this engine needs in its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a process that works for Temporal; durations in seconds."""

    address: Address
    api_key: str = ""
    activities_max: int = 100
    heartbeat_s: float = 10.0
    cancel_grace_s: float = 5.0
    grace_s: float = 20.0
    history_events_max: int = 10_000
    objects_wait_s: float = 0.0


class TemporalEngine(LeasedEngine):
    """See the engine port.

    Args:
        member: this process; one that `works` executes bodies and steps, and hands runs to Temporal.
        options: how this process works for Temporal.
        store: runs and events.
        leases: the leases of the runs; of the same store.
        clock: time.
        host: executes bodies and attempts in this process.
        links: the connections to the other processes.
        blobs: the store of payloads too large for Temporal; None without one: such payloads are refused.
    """

    def __init__(
        self,
        member: Member,
        options: Options,
        store: Store,
        leases: Leases,
        clock: Clock,
        host: TemporalHost,
        links: Links,
        *,
        blobs: Blobs | None = None,
    ) -> None:
        self._relay = Relay(host, clock, lambda claim: self._tasks.begin(self._hand(claim)))
        # It takes runs as soon as Temporal is reachable: see `BodyWorker`.
        super().__init__(member, store, leases, clock, host, self._relay, links, takes=False)
        self.objects_wait_s = None if blobs is None else options.objects_wait_s
        self._options = options
        self.host = host
        self.heartbeat_s = options.heartbeat_s
        self.cancel_grace_s = options.cancel_grace_s
        self.history_events_max = options.history_events_max
        self.connection = Connection(options.address, options.api_key, member.id, blobs)
        self._hop = Hop(self.connection, options.address, leases, clock, member.id, takes_large=blobs is not None)
        self.anew = Anew(self.connection, self._hop, store)
        self._notices = Notices(self.connection, store, leases, clock, host, options.heartbeat_s)
        self._worker = BodyWorker(self.connection, self.taking, self._new_worker) if member.works else None
        self._tasks = Tasks()
        self._had: OrderedDict[str, None] = OrderedDict()

    @property
    def parts(self) -> list[Part]:
        """The parts of the engine in this process."""
        worker = [] if self._worker is None else [self._worker]
        return [*super().parts, self.connection, self._tasks, self._notices, self._hop, *worker]

    # The engine port.

    @property
    def sharing(self) -> Hop:
        """The workflow begins while steps are in flight in this process, and waits for them."""
        return self._hop

    async def start(
        self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None, seed: Seed = NO_SEED
    ) -> Created:
        """Accept a new run: it is durable in the store, and any worker hands it to Temporal (N1)."""
        self._require_small(record.input, "/input", "the input")
        return await super().start(record, accepted, idempotency, seed)

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Hand the run to Temporal, which also waits for it: the steps that were in flight are in the journal."""
        await super().release(lease)

    async def signal(self, run_id: str, name: str, value: bytes, key: str | None = None) -> RunRecord | None:
        """Store the signal, then wake the body (N7)."""
        self._require_small(value, "", f"signal {name!r}")
        return self._passed_on(await super().signal(run_id, name, value, key))

    async def cancel(self, run_id: str) -> RunRecord | None:
        """Store the request, then cancel the workflow (N5)."""
        return self._passed_on(await super().cancel(run_id))

    async def backlog(self) -> int:
        """How many runs wait to be handed to Temporal, and how many steps wait there."""
        client = self.connection.known
        steps = 0 if client is None else await backlog(client, self._options.address.task_queue)
        return await super().backlog() + steps

    def _passed_on(self, record: RunRecord | None) -> RunRecord | None:
        if record is not None and not record.finished:  # a repeated signal may belong to a run that has ended
            self._tasks.begin(self._notices.pass_on(record))
        return record

    def _require_small(self, encoded: bytes, pointer: str, what: str) -> None:
        try:
            self._require_fit(encoded, what)
        except TooLarge as error:
            raise InputError(str(error), [(pointer, str(error))]) from None

    def _require_fit(self, encoded: bytes, what: str) -> None:
        if self.objects_wait_s is None:
            require_fit(encoded, what)

    # Temporal.

    def _new_worker(self, client: Client) -> Worker:
        options, address = self._options, self._options.address
        activities = Activities(
            self.host,
            self._store,
            self.leases,
            self._clock,
            options.heartbeat_s,
            takes_large=self.objects_wait_s is not None,
        )
        return Worker(
            client,
            task_queue=address.task_queue,
            workflows=[PipelineWorkflow],
            activities=activities.all,
            interceptors=[HomeInterceptor(self)],
            workflow_runner=WatchedRunner(self.strayed),
            max_concurrent_activities=options.activities_max,
            max_concurrent_local_activities=options.activities_max,
            max_cached_workflows=BODIES_CACHED_MAX,
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=min(10.0, options.heartbeat_s)),
            max_heartbeat_throttle_interval=timedelta(seconds=options.heartbeat_s / 3),
            graceful_shutdown_timeout=timedelta(seconds=options.grace_s),
            deployment_config=_deployment(address),
        )

    async def _hand(self, claim: Claim) -> None:
        """Start the run's workflow, unless it exists. Its first act takes the run from this process."""
        record, reported = claim.record, False
        try:
            try:
                self._require_fit(record.input, f"the input of pipeline {record.pipeline!r}")
            except TooLarge as error:
                await self._fail(claim, error)
                return
            while not self.seat.is_leaving:
                client = await self.connection.client()
                try:
                    # The workflow of a demoted run may exist already and wait for its gateway to release the run.
                    signal = GO if record.demotion is not None else None
                    await self._hop.begin(
                        client, record, Start(Facts.of(record), claim.fresh, keyed=True, timers=True), signal
                    )
                    return
                except (RPCError, ObjectsUnavailable) as error:
                    # A namespace may have lost its search attributes: the run is then started without them.
                    refused = isinstance(error, RPCError) and error.status is RPCStatusCode.INVALID_ARGUMENT
                    if refused and not self.connection.forget_attributes():
                        await self._fail(claim, error)
                        return
                    if not reported:
                        logger.error("%s cannot be handed to Temporal yet: %s", record.id, error)  # noqa: TRY400
                    reported = True
                    await asyncio.sleep(RETRY_EVERY_S)
        finally:
            self._relay.handed(claim.lease)
            self.has_room()

    async def _fail(self, claim: Claim, error: Exception) -> None:
        with contextlib.suppress(LeaseLost):
            await self.host.conclude(claim, Outcome("failed", error=failure_of(error)))

    def has_had(self, run_id: str) -> bool:
        """Whether this process executed the run's body before; marks it as executed."""
        known = run_id in self._had
        self._had[run_id] = None
        self._had.move_to_end(run_id)
        while len(self._had) > REMEMBERED_RUNS:
            self._had.popitem(last=False)
        return known

    def resumed(self, facts: Facts, token: int, replayed_steps: int, part: bodies.TraceContext | None) -> None:
        """This process continues a body that another began."""
        if part is not None:
            self.host.took_over(facts, replayed_steps, part)
        self._tasks.begin(self._say_resumed(Lease(facts.run_id, ENGINE, token), replayed_steps))

    def strayed(self, strayed: Strayed) -> None:
        """A body differs from its history."""
        self._tasks.begin(self.anew.begin(strayed))

    async def _say_resumed(self, lease: Lease, replayed_steps: int) -> None:
        with contextlib.suppress(LeaseLost):
            await self.host.resumed(lease, replayed_steps)


def _deployment(address: Address) -> WorkerDeploymentConfig | None:
    if not address.build_id:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(address.deployment, address.build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )
