"""The engine on Temporal: bodies are workflows, steps are activities; queues, retries, timers, recovery are its own.

The store keeps what clients see: records, journals, events, signals. What one process must do for a run before Temporal
has it, or instead, is done by the engine of leases, whose "executing a run" here means "hand it to Temporal".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from temporalio.client import Client
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    VersioningBehavior,
    WorkerDeploymentVersion,
    WorkflowIDConflictPolicy,
)
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from offramp.core.events import Draft
from offramp.core.failure import failure_of
from offramp.core.run import Outcome, RunRecord
from offramp.engines.embedded.engine import EmbeddedEngine, Member
from offramp.engines.temporal.body import WAKE, HomeInterceptor, PipelineWorkflow
from offramp.engines.temporal.payloads import DATA_CONVERTER, Start, raw, require_fit
from offramp.engines.temporal.steps import Activities
from offramp.errors import InputError, LeaseLost, StoreError, TooLarge
from offramp.ports.bodies import PAYLOAD_BYTES_MAX, BodyHost, Facts
from offramp.ports.clock import Clock
from offramp.ports.engine import Handoff, RunHost
from offramp.ports.store import ENGINE, Claim, Created, Idempotency, Lease, Leases, Parked, Store

if TYPE_CHECKING:
    from offramp.engines.temporal.address import Address

log = logging.getLogger("offramp")

HANDING_MAX = 200
"""Runs that one process hands to Temporal at the same time; the others wait in the store meanwhile."""
RETRY_EVERY_S = 0.5
"""Between attempts to reach Temporal."""
RPC_TIMEOUT_S = 10.0
REMEMBERED_RUNS = 10_000
"""Runs of which a worker remembers that it has had them, so that it does not say of each that it goes on here."""
ATTRIBUTES = {name: SearchAttributeKey.for_keyword(f"Offramp{name}") for name in ("Session", "Class", "Tenant")}
"""By which runs are found in Temporal's UI, beside the workflow's type and id: the pipeline's name and the run's id."""


class TemporalHost(RunHost, BodyHost, Protocol):
    """What this engine needs of its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a process works for Temporal; durations in seconds."""

    address: Address
    api_key: str = ""
    activities_max: int = 100
    heartbeat_s: float = 10.0
    cancel_grace_s: float = 5.0
    grace_s: float = 20.0
    history_events_max: int = 10_000


class _Relay(RunHost):
    """The host of the engine of leases: a claimed run is handed to Temporal, unless it only has to be ended."""

    def __init__(self, host: RunHost, clock: Clock, hand: Callable[[Claim], None]) -> None:
        self._host = host
        self._clock = clock
        self._hand = hand
        self.handing: dict[str, Lease] = {}

    @property
    def pipelines(self) -> list[str]:
        """Those of the process."""
        return self._host.pipelines

    def free(self) -> int:
        """How many more runs may be on their way."""
        return HANDING_MAX - len(self.handing)

    def execute(self, claim: Claim) -> None:
        """Hand it on."""
        record = claim.record
        overdue = record.deadline_at is not None and record.deadline_at <= self._clock.time()
        if record.cancel_requested or overdue:
            self._host.execute(claim)
        else:
            self.handing[record.id] = claim.lease
            self._hand(claim)

    def cancel(self, run_id: str) -> bool:
        """Cancel a run of the fast path."""
        return self._host.cancel(run_id)

    def notice(self, run_id: str) -> bool:
        """A signal came for a run of the fast path."""
        return self._host.notice(run_id)

    def listening(self) -> list[str]:
        """Runs of the fast path that wait for a signal."""
        return self._host.listening()

    def held(self, until: float) -> None:
        """The lease was renewed."""
        self._host.held(until)

    async def confirm(self) -> None:
        """Find out which runs of the fast path are lost."""
        await self._host.confirm()

    def lost(self, lease: Lease) -> None:
        """A lease is gone."""
        self._host.lost(lease)


class TemporalEngine:
    """See the engine port. `open` is called on the control loop, the rest from any.

    Args:
        member: this process; one that `works` executes bodies and steps, and hands runs to Temporal.
        options: how.
        store: runs and events.
        leases: who may write them; of the same store.
        clock: time.
        host: what executes here.
        members: makes the engine of leases over a host.
    """

    def __init__(
        self,
        member: Member,
        options: Options,
        store: Store,
        leases: Leases,
        clock: Clock,
        host: TemporalHost,
        members: Callable[[RunHost], EmbeddedEngine],
    ) -> None:
        self._works = member.works
        self._id = member.id
        self._options = options
        self._store = store
        self._leases = leases
        self._clock = clock
        self.host = host
        self.heartbeat_s = options.heartbeat_s
        self.cancel_grace_s = options.cancel_grace_s
        self.history_events_max = options.history_events_max
        self._relay = _Relay(host, clock, lambda claim: self._soon(self._hand(claim)))
        self.members = members(self._relay)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._attributes: list[str] = []
        self._worker: Worker | None = None
        self._stopping = False
        self._had: OrderedDict[str, None] = OrderedDict()

    # The engine port.

    async def open(self) -> None:
        """Join; a process that works takes runs as soon as Temporal is there."""
        self._loop = asyncio.get_running_loop()
        await self.members.open()
        if self._works:
            self._spawn(self._work())
        self._spawn(self._tell_what_is_unheard())

    async def stop_taking(self) -> None:
        """Take no more; steps that are under way get their grace to end, then other workers have them."""
        self._stopping = True
        await self.members.stop_taking()
        if self._worker is not None:
            await self._worker.shutdown()

    async def close(self) -> None:
        """Leave."""
        self._stopping = True
        if self._worker is not None:
            await self._worker.shutdown()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.members.close()

    async def start(self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None) -> Created:
        """Take a new run; durable in the store, and handed to Temporal by whichever worker is there (N1)."""
        _require_small(record.input, "/input", "the input")
        return await self.members.start(record, accepted, idempotency)

    async def adopt(self, handoff: Handoff) -> None:
        """Take over a run; steps in flight end where they are, and are executed again if that process dies (N2, N3)."""
        await self.members.adopt(handoff)

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """What was in flight is in the journal: Temporal goes on, and does the waiting too."""
        await self.members.release(lease)

    async def signal(self, run_id: str, name: str, value: bytes) -> RunRecord | None:
        """Keep the signal, then wake the body (N7)."""
        _require_small(value, "", f"signal {name!r}")
        record = await self.members.signal(run_id, name, value)
        if record is not None:
            self._soon(self._tell(record))
        return record

    async def cancel(self, run_id: str) -> RunRecord | None:
        """Keep the wish, then cancel the workflow (N5)."""
        record = await self.members.cancel(run_id)
        if record is not None and not record.finished:
            self._soon(self._tell(record))
        return record

    async def ready(self) -> bool:
        """Whether some worker polls (N10)."""
        return await self.members.ready()

    async def retire(self, owner: str) -> int:
        """Release at once what a dead process held."""
        return await self.members.retire(owner)

    def has_room(self) -> None:
        """A run ended here."""
        self.members.has_room()

    def announce_webhooks(self) -> None:
        """This process made a webhook due and delivers none."""
        self.members.announce_webhooks()

    # Temporal.

    async def _connected(self) -> Client:
        """The client; waits as long as Temporal is away."""
        async with self._connecting:
            told = False
            while self._client is None:
                address = self._options.address
                try:
                    client = await Client.connect(
                        address.target,
                        namespace=address.namespace,
                        api_key=self._options.api_key or None,
                        tls=address.tls_config() if address.tls else (None if self._options.api_key else False),
                        data_converter=DATA_CONVERTER,
                        identity=self._id,
                        runtime=_runtime(),
                    )
                    self._attributes = await _attributes_of(client)
                    self._client = client
                except (RPCError, RuntimeError) as error:
                    if not told:
                        log.error("Temporal at %s cannot be reached: %s; trying again", address.target, error)  # noqa: TRY400
                    told = True
                    await asyncio.sleep(RETRY_EVERY_S)
        return self._client

    async def _work(self) -> None:
        client = await self._connected()
        if self._stopping:
            return
        options, address = self._options, self._options.address
        activities = Activities(self.host, self._store, self._leases, self._clock, options.heartbeat_s)
        self._worker = Worker(
            client,
            task_queue=address.task_queue,
            workflows=[PipelineWorkflow],
            activities=activities.all,
            interceptors=[HomeInterceptor(self)],
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_activities=options.activities_max,
            max_concurrent_local_activities=options.activities_max,
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=min(10.0, options.heartbeat_s)),
            max_heartbeat_throttle_interval=timedelta(seconds=options.heartbeat_s / 3),
            graceful_shutdown_timeout=timedelta(seconds=options.grace_s),
            deployment_config=_deployment(address),
        )
        running = asyncio.create_task(self._worker.run())
        await self.members.start_taking()
        await running

    async def _hand(self, claim: Claim) -> None:
        """Start the run's workflow; again if it is there already. Its first act takes the run from this process."""
        record = claim.record
        try:
            if len(record.input) > PAYLOAD_BYTES_MAX:
                await self._fail(
                    claim, TooLarge(_too_large(record.input, f"the input of pipeline {record.pipeline!r}"))
                )
                return
            while not self._stopping:
                client = await self._connected()
                try:
                    await client.start_workflow(
                        record.pipeline,
                        args=[Start(Facts.of(record), claim.fresh), raw(record.input)],
                        id=record.id,
                        task_queue=self._options.address.task_queue,
                        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                        search_attributes=self._found_by(record),
                        priority=_priority(record),
                        rpc_timeout=timedelta(seconds=RPC_TIMEOUT_S),
                    )
                    return
                except RPCError as error:
                    if error.status is RPCStatusCode.INVALID_ARGUMENT:
                        await self._fail(claim, error)
                        return
                    log.error("%s cannot be handed to Temporal yet: %s", record.id, error)  # noqa: TRY400
                    await asyncio.sleep(RETRY_EVERY_S)
        finally:
            self._relay.handing.pop(record.id, None)
            self.members.has_room()

    async def _fail(self, claim: Claim, error: Exception) -> None:
        await self.host.conclude(claim, Outcome("failed", error=failure_of(error)))

    def _found_by(self, record: RunRecord) -> TypedSearchAttributes:
        values = {"Session": record.session_id, "Class": record.sla, "Tenant": record.tenant}
        return TypedSearchAttributes(
            [SearchAttributePair(ATTRIBUTES[name], value) for name in self._attributes if (value := values[name])]
        )

    async def _tell(self, record: RunRecord) -> None:
        """Tell a run's workflow what the store has for it; one that is not started yet reads it when it begins."""
        client = await self._connected()
        handle = client.get_workflow_handle(record.id)
        timeout = timedelta(seconds=RPC_TIMEOUT_S)
        try:
            if record.cancel_requested:
                await handle.cancel(rpc_timeout=timeout)
            else:
                await handle.signal(WAKE, rpc_timeout=timeout)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                log.error("%s was not told yet: %s", record.id, error)  # noqa: TRY400 - tried again
                return
        await self._leases.heard(record.id)

    async def _tell_what_is_unheard(self) -> None:
        """What a process could not tell, since it died or Temporal was away."""
        while True:
            await asyncio.sleep(self.heartbeat_s)
            try:
                for run_id in await self._leases.unheard():
                    record = await self._store.get(run_id)
                    if record is not None:
                        await self._tell(record)
            except StoreError as error:
                log.error("%s", error)  # noqa: TRY400 - an operator's matter

    def has_had(self, run_id: str) -> bool:
        """Whether this process executed the run's body before; from now on it did."""
        known = run_id in self._had
        self._had[run_id] = None
        self._had.move_to_end(run_id)
        while len(self._had) > REMEMBERED_RUNS:
            self._had.popitem(last=False)
        return known

    def resumed(self, run_id: str, token: int, replayed_steps: int) -> None:
        """A body goes on here that another process began."""
        self._soon(self._say_resumed(Lease(run_id, ENGINE, token), replayed_steps))

    async def _say_resumed(self, lease: Lease, replayed_steps: int) -> None:
        with contextlib.suppress(LeaseLost):
            await self.host.resumed(lease, replayed_steps)

    # Tasks, on the loop that opened this.

    def _soon(self, coroutine: Coroutine[Any, Any, object]) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            coroutine.close()
        elif asyncio._get_running_loop() is loop:  # noqa: SLF001 - get_running_loop raises where none is
            self._spawn(coroutine)
        else:
            loop.call_soon_threadsafe(self._spawn, coroutine)

    def _spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task of the engine failed", exc_info=task.exception())


def _require_small(encoded: bytes, pointer: str, what: str) -> None:
    try:
        require_fit(encoded, what)
    except TooLarge as error:
        raise InputError(str(error), [(pointer, str(error))]) from None


def _too_large(encoded: bytes, what: str) -> str:
    return f"{what} has {len(encoded)} bytes as JSON, at most {PAYLOAD_BYTES_MAX} travel through Temporal"


def _priority(record: RunRecord) -> Priority:
    """Temporal's priorities are 1 to 5, lower first, 3 by default; tenants get fair shares."""
    return Priority(priority_key=min(5, max(1, 3 - record.priority)), fairness_key=record.tenant or None)


def _deployment(address: Address) -> WorkerDeploymentConfig | None:
    if not address.build_id:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(address.deployment, address.build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


@functools.cache
def _runtime() -> Runtime:
    """One for the process, as threads and metrics come with it; it logs where everything else does."""
    where = LogForwardingConfig(logging.getLogger("offramp.temporal"))
    level = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=level, forwarding=where)))


async def _attributes_of(client: Client) -> list[str]:
    """Which search attributes the namespace has; those it lacks are added where that is allowed."""
    from temporalio.api.enums.v1 import IndexedValueType
    from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest

    wanted = {key.name: name for name, key in ATTRIBUTES.items()}
    with contextlib.suppress(RPCError):
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = set(wanted) - set(listed.custom_attributes)
        if missing:
            kinds = dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes=kinds)
            )
        return list(wanted.values())
    log.info("runs cannot be found by session, class and tenant in Temporal: its search attributes cannot be set")
    return []
