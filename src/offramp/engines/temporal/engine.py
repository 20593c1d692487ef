"""The engine on Temporal: bodies are workflows, steps are activities; queues, retries, timers, recovery are its own.

The store keeps what clients see: records, journals, events, signals. What one process must do for a run before Temporal
has it, or instead, is done by the engine of leases, whose "executing a run" here means "hand it to Temporal".
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker, WorkerDeploymentConfig

from offramp.core.events import Draft
from offramp.core.failure import failure_of
from offramp.core.ownership import ENGINE
from offramp.core.run import Outcome, RunRecord
from offramp.engines.embedded.engine import EmbeddedEngine
from offramp.engines.embedded.member import Member
from offramp.engines.temporal.anew import Anew, Strayed, WatchedRunner
from offramp.engines.temporal.body import WAKE, PipelineWorkflow
from offramp.engines.temporal.connection import RETRY_EVERY_S, Connection
from offramp.engines.temporal.held import GO
from offramp.engines.temporal.home import HomeInterceptor
from offramp.engines.temporal.hop import RPC_TIMEOUT_S, Hop
from offramp.engines.temporal.payloads import Start, require_fit
from offramp.engines.temporal.relay import Relay
from offramp.engines.temporal.steps import Activities
from offramp.errors import InputError, LeaseLost, ObjectsUnavailable, RunCancelled, StoreError, TooLarge
from offramp.ports.blobs import Blobs
from offramp.ports.bodies import BodyHost, Facts, Part
from offramp.ports.clock import Clock
from offramp.ports.engine import Handoff, RunHost
from offramp.ports.store import Claim, Created, Idempotency, Lease, Leases, Parked, Store

if TYPE_CHECKING:
    from offramp.engines.temporal.address import Address

log = logging.getLogger("offramp")

CLOSE_S_MAX = 2.0
"""What a worker gets past its drain to leave Temporal."""
BODIES_CACHED_MAX = 1_000
"""Bodies that a worker keeps between their steps; any other is rebuilt from history when something happens to it."""
REMEMBERED_RUNS = 10_000
"""Runs of which a worker remembers that it has had them, so that it does not say of each that it goes on here."""


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
    objects_wait_s: float = 0.0


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
        blobs: where payloads go that are too large for Temporal; None for nowhere, and then they are refused.
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
        *,
        blobs: Blobs | None = None,
    ) -> None:
        self.objects_wait_s = None if blobs is None else options.objects_wait_s
        self._works = member.works
        self._options = options
        self._store = store
        self._leases = leases
        self._clock = clock
        self.host = host
        self.heartbeat_s = options.heartbeat_s
        self.cancel_grace_s = options.cancel_grace_s
        self.history_events_max = options.history_events_max
        self._connection = Connection(options.address, options.api_key, member.id, blobs)
        self._hop = Hop(self._connection, options.address, leases, clock, member.id, takes_large=blobs is not None)
        self._anew = Anew(self._connection, self._hop, store)
        self._relay = Relay(host, clock, lambda claim: self._soon(self._hand(claim)))
        self.members = members(self._relay)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._worker: Worker | None = None
        self._stopping = False
        self._had: OrderedDict[str, None] = OrderedDict()

    # The engine port.

    shares = True

    async def open(self) -> None:
        """Join; a process that works takes runs as soon as Temporal is there."""
        self._loop = asyncio.get_running_loop()
        await self.members.open()
        self._spawn(self._connection.client())
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
            with contextlib.suppress(TimeoutError):  # Temporal is away, and cannot be told
                async with asyncio.timeout(CLOSE_S_MAX):
                    await self._worker.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._hop.settle()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.members.close()

    async def start(self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None) -> Created:
        """Take a new run; durable in the store, and handed to Temporal by whichever worker is there (N1)."""
        self._require_small(record.input, "/input", "the input")
        return await self.members.start(record, accepted, idempotency)

    async def adopt(self, handoff: Handoff) -> None:
        """Take over a run; steps in flight end where they are, and are executed again if that process dies (N2, N3)."""
        await self.members.adopt(handoff)

    async def share(self, record: RunRecord, in_flight: list[str], detach: Callable[[], bool]) -> Lease | None:
        """The workflow begins now, and waits for the steps in flight here; not while Temporal is away."""
        return await self._hop.share(record, in_flight, detach)

    async def delivered(self, run_id: str) -> None:
        """Its body looks at once; it would by itself after a while."""
        self._hop.delivered(run_id)

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """What was in flight is in the journal: Temporal goes on, and does the waiting too."""
        await self.members.release(lease)

    async def signal(self, run_id: str, name: str, value: bytes, key: str | None = None) -> RunRecord | None:
        """Keep the signal, then wake the body (N7)."""
        self._require_small(value, "", f"signal {name!r}")
        record = await self.members.signal(run_id, name, value, key)
        if record is not None and not record.finished:  # one that was sent before may find its run ended
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

    def takes(self) -> bool:
        """Whether this process polls Temporal and its lease runs; from any thread."""
        return self.members.takes()

    async def retire(self, owner: str) -> int:
        """Release at once what a dead process held."""
        return await self.members.retire(owner)

    def has_room(self) -> None:
        """A run ended here."""
        self.members.has_room()

    def announce_webhooks(self) -> None:
        """This process made a webhook due and delivers none."""
        self.members.announce_webhooks()

    def _require_small(self, encoded: bytes, pointer: str, what: str) -> None:
        try:
            self._require_fit(encoded, what)
        except TooLarge as error:
            raise InputError(str(error), [(pointer, str(error))]) from None

    def _require_fit(self, encoded: bytes, what: str) -> None:
        if self.objects_wait_s is None:
            require_fit(encoded, what)

    # Temporal.

    async def _work(self) -> None:
        """Execute bodies and steps until told to stop; a worker that cannot go on is followed by another."""
        client = await self._connection.client()
        while not self._stopping:
            self._worker = self._new_worker(client)
            running = asyncio.create_task(self._worker.run())
            await self.members.start_taking()
            try:
                await running
            except Exception as error:  # noqa: BLE001 - whatever it is, runs wait for a worker
                log.error("the worker for Temporal ended: %s; another one is started", error)  # noqa: TRY400
            if not self._stopping:
                await self.members.stop_taking()
                await asyncio.sleep(RETRY_EVERY_S)

    def _new_worker(self, client: Client) -> Worker:
        options, address = self._options, self._options.address
        activities = Activities(
            self.host,
            self._store,
            self._leases,
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
        """Start the run's workflow; again if it is there already. Its first act takes the run from this process."""
        record, told = claim.record, False
        try:
            try:
                self._require_fit(record.input, f"the input of pipeline {record.pipeline!r}")
            except TooLarge as error:
                await self._fail(claim, error)
                return
            while not self._stopping:
                client = await self._connection.client()
                try:
                    # A demoted run's may be there and wait for its gateway to say that it lets go.
                    signal = GO if record.demotion is not None else None
                    await self._hop.begin(
                        client, record, Start(Facts.of(record), claim.fresh, keyed=True, timers=True), signal
                    )
                    return
                except (RPCError, ObjectsUnavailable) as error:
                    # A namespace may have lost its search attributes: then the run is started without them.
                    refused = isinstance(error, RPCError) and error.status is RPCStatusCode.INVALID_ARGUMENT
                    if refused and not self._connection.forget_attributes():
                        await self._fail(claim, error)
                        return
                    if not told:
                        log.error("%s cannot be handed to Temporal yet: %s", record.id, error)  # noqa: TRY400
                    told = True
                    await asyncio.sleep(RETRY_EVERY_S)
        finally:
            self._relay.handed(claim.lease)
            self.members.has_room()

    async def _fail(self, claim: Claim, error: Exception) -> None:
        with contextlib.suppress(LeaseLost):
            await self.host.conclude(claim, Outcome("failed", error=failure_of(error)))

    async def _tell(self, record: RunRecord) -> None:
        """Tell a run's workflow what the store has for it; one that is not started yet reads it when it begins."""
        client = await self._connection.client()
        handle = client.get_workflow_handle(record.id)
        timeout = timedelta(seconds=RPC_TIMEOUT_S)
        try:
            if record.cancel_requested:
                await handle.cancel(rpc_timeout=timeout)
                found = await handle.describe(rpc_timeout=timeout)
                # One that was terminated by somebody takes a cancellation, and does nothing.
                if found.status not in {WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW}:
                    await self._end_without_workflow(record.id)
            else:
                await handle.signal(WAKE, rpc_timeout=timeout)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                log.error("%s was not told yet: %s", record.id, error)  # noqa: TRY400 - tried again
                return
            if record.cancel_requested:
                await self._end_without_workflow(record.id)
        await self._leases.heard(record.id)

    async def _end_without_workflow(self, run_id: str) -> None:
        """A run is to be cancelled whose workflow has not begun, or was terminated by somebody."""
        claim = await self._leases.entrust(run_id, self._clock.time())
        if claim is not None:
            outcome = Outcome("cancelled", error=failure_of(RunCancelled("the run was cancelled")))
            with contextlib.suppress(LeaseLost):
                await self.host.conclude(claim, outcome)

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

    def resumed(self, facts: Facts, token: int, replayed_steps: int, part: Part | None) -> None:
        """A body goes on here that another process began."""
        if part is not None:
            self.host.took_over(facts, replayed_steps, part)
        self._soon(self._say_resumed(Lease(facts.run_id, ENGINE, token), replayed_steps))

    def strayed(self, strayed: Strayed) -> None:
        """A body does not repeat its history."""
        self._soon(self._anew.begin(strayed))

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
        # In an empty context: a body that asked for it is not what executes it.
        task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task of the engine failed", exc_info=task.exception())


def _deployment(address: Address) -> WorkerDeploymentConfig | None:
    if not address.build_id:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(address.deployment, address.build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )
