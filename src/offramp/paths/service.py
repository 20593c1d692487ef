"""All abilities of a process of the service: the edge (HTTP, command line, tests) calls only this."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from offramp.core.changes import Era, Wanted
from offramp.core.events import Frame
from offramp.core.inspection import NOTHING, Include, Showing
from offramp.core.quotas import Quota, Use
from offramp.core.reference import Reference
from offramp.core.routing import Decision
from offramp.core.run import RunRecord, key_digest
from offramp.core.sla import SLA
from offramp.core.spec import PipelineSpec
from offramp.core.tickets import SECRET_BYTES
from offramp.errors import LeaseLost, RunConflict, StoreError, UnknownRun
from offramp.execution.attempt import Attempt
from offramp.execution.context import current
from offramp.execution.warming import Warming
from offramp.paths.changes import Changes
from offramp.paths.crew import Crewing
from offramp.paths.deep import DeepPath
from offramp.paths.demote import Demoter
from offramp.paths.documents import document_of, step_of
from offramp.paths.fast import FastPath
from offramp.paths.health import Readiness
from offramp.paths.live import LiveRun, LiveRuns, Watcher
from offramp.paths.patience import Patience
from offramp.paths.process import Process
from offramp.paths.replay import Case, Replayed, Verdict, check_all, check_parts, replay
from offramp.paths.retrying import Retrier
from offramp.paths.roster import Roster
from offramp.paths.signalling import Sent, is_awaited
from offramp.paths.slo import ServiceLevel
from offramp.paths.stats import Answers, Found
from offramp.paths.submission import Accepted, Retrial, Submission
from offramp.paths.submit import Submitter, Waits, patiently
from offramp.paths.upkeep import CatchingUp, Counting, ObjectProbe, Purging
from offramp.paths.webhooks import WebhookDispatcher
from offramp.ports.engine import Engine
from offramp.ports.limits import Level
from offramp.ports.listing import RunFilter
from offramp.ports.parts import Part, close_all, drain_all, start_all
from offramp.ports.store import Owner
from offramp.settings import Settings
from offramp.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from offramp.telemetry.tracing import Tracing

logger = logging.getLogger("offramp")

ARRIVING_LOOK_S = 0.02
"""The interval at which a drain checks for runs that were still being accepted or claimed when it began."""


class Service:
    """One process of the service: gateway, worker, or both.

    `process`, `live`, `deep` and `engine` are attributes for tests; HTTP and the command line call the methods alone.

    Args:
        name: the app's name.
        process: its declarations, settings and adapters.
        live: its executing runs.
        deep: its part of the deep path.
        engine: drives deep runs.
        dispatcher: delivers webhooks, if this process does.
        roster: describes the processes.
        warming: makes this process ready for steps.
        close: closes the adapters of `process`, last.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        live: LiveRuns,
        demoter: Demoter,
        deep: DeepPath,
        engine: Engine,
        dispatcher: WebhookDispatcher | None,
        *,
        roster: Roster,
        warming: Warming,
        close: Callable[[], None],
    ) -> None:
        self.app_name = name
        self.process = process
        self.tenancy = process.tenancy
        """How tenants share the queue and this process; the surface that admits requests decides on keys."""
        self.live = live
        self.deep = deep
        self.engine = engine
        self._close = close
        self.roster = roster
        self.crew = Crewing(process, roster.present, engine.backlog)
        """Looks how many workers are needed, in a process that serves requests."""
        self._changes = Changes(process)
        self._routes: Answers[list[dict[str, Any]]] = Answers(process.clock)
        self.warming = warming
        self.on_joined: Callable[[], object] = lambda: None
        """Called by `start` once this process is among the others; it may still have to get ready."""
        self.demoter = demoter
        self._fast = FastPath(process, live, demoter)
        self._patience = Patience(process.settings.write_timeout, process.store.trouble)
        self._submitter = Submitter(process, live, demoter, self._fast, engine, self._patience)
        self._retrier = Retrier(process, self._submitter, self._patience, self._get)
        self.parts: list[Part] = [
            live.stats,
            live.learning,
            live.levels,
            CatchingUp(process),
            Purging(process),
            ObjectProbe(process),
            *([Counting(process)] if live.levels.shows else []),
            *engine.parts,
            *([] if dispatcher is None else [dispatcher]),
            roster,
            *([self.crew] if live.levels.shows else []),
            self._changes,
        ]
        """The parts in the order of their start; they close in the reverse order."""
        self._draining: Future[None] | None = None
        self.readiness = Readiness(
            engine,
            process.control,
            lambda: self._submitter.closed,
            process.lanes.shortage,
            self._patience.trouble,
        )

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.process.settings

    @property
    def pipelines(self) -> Mapping[str, PipelineSpec]:
        """The pipelines by name."""
        return self.process.pipelines

    @property
    def classes(self) -> Mapping[str, SLA]:
        """The SLA classes by name."""
        return self.process.classes

    @property
    def metrics(self) -> Metrics:
        """The metrics of this process."""
        return self.process.metrics

    @property
    def collectors(self) -> list[Any]:
        """Prometheus collectors of this process."""
        return self.process.metrics.collectors

    @property
    def tracing(self) -> Tracing | None:
        """The spans of this process, None if tracing is off."""
        return self.process.tracing

    @property
    def id(self) -> str:
        """The name of this process in leases and in `run.resumed`."""
        return self.process.id

    async def start(self) -> None:
        """Get ready for steps, join the service, and begin to work.

        A process that takes deep runs joins when it is ready for them, any other before.

        Raises:
            StartFailed: an `on_start` hook or a process lane failed, or the start took longer than `start_timeout`.
        """
        self.process.metrics.open()
        if self.process.limits is not None:
            self.process.limits.start()
        if not self.warming.joins_first:
            await self.warming.run()
            self.deep.ready_at = self.process.clock.time()
        await self.process.control.run(start_all(self.parts))
        self.on_joined()
        if self.warming.joins_first:
            await self.warming.run()

    async def submit(
        self,
        submission: Submission,
        watcher: Watcher | None = None,
        waits: Waits = patiently,
        wait_s: float = math.inf,
    ) -> Accepted:
        """Take a request; see `Submitter.submit`."""
        return await self._submitter.submit(submission, watcher, waits, wait_s)

    async def quota_use(self, quota: Quota) -> Use:
        """What of an API key's quota is in use.

        Raises:
            StoreError: the store cannot be asked, or did not answer in time.
        """
        return await self._patience.read(self._submitter.room.use(quota))

    async def decide(self, submission: Submission) -> Decision:
        """The decision for a request now; see `Submitter.decide`."""
        return await self._submitter.decide(submission)

    async def get(self, run_id: str, tenant: str = "") -> RunRecord:
        """A run's record.

        Raises:
            UnknownRun: it does not exist, or belongs to another tenant.
            StoreTimeout: the store did not answer in time.
        """
        return await self._patience.read(self._get(run_id, tenant))

    async def _get(self, run_id: str, tenant: str) -> RunRecord:
        record = await self.process.store.get(run_id, tenant)
        if record is None:
            raise _unknown(run_id)
        return record

    async def whole_result(self, record: RunRecord) -> bytes | None:
        """A run's result, including one stored as an object.

        Raises:
            ObjectLost: the object no longer exists.
            ObjectsUnavailable: the object cannot be read now.
        """
        return None if record.result is None else await self.process.values.whole(record.result)

    def result_parts(self, reference: Reference) -> AsyncGenerator[bytes, None]:
        """A result that is stored as an object, in parts; raises as `whole_result` does."""
        return self.process.values.stream(reference)

    def is_due(self, record: RunRecord) -> bool:
        """Whether a run's data may already be removed."""
        kept_until = (record.finished_at or math.inf) + record.retention_s
        return kept_until <= self.process.clock.time()

    async def document(
        self, run_id: str, tenant: str = "", prefix: str = "", include: frozenset[Include] = NOTHING
    ) -> dict[str, Any]:
        """A run's document; `prefix` is the mount of the gateway. Raises as `get` does."""

        async def read() -> dict[str, Any]:
            record = await self._get(run_id, tenant)
            return await document_of(self.process.store, record, prefix, Showing(include))

        return await self._patience.read(read())

    async def step(self, run_id: str, key: str, tenant: str = "", prefix: str = "") -> dict[str, Any]:
        """One step of a run, by its journal key, with what went in and out. Raises as `get` and `step_of` do."""

        async def read() -> dict[str, Any]:
            record = await self._get(run_id, tenant)
            return await step_of(self.process.store, self.process.values, record, key, prefix)

        return await self._patience.read(read())

    def follow(self, run_id: str, after: int = 0, idle: float | None = None) -> AsyncGenerator[list[Frame], None]:
        """Events numbered above `after`, in order, until the terminal one; [] after `idle` seconds of silence.

        Ends early when this process stops; the reader then continues in another process, after its last number.

        Raises:
            RunGone: the run's events were removed at the end of its retention.
        """
        return self.process.feed.follow(self.process.store, run_id, after, idle)

    async def is_read(self, record: RunRecord, seq: int) -> bool:
        """Whether a finished run has no event after the number `seq`.

        Raises:
            StoreTimeout: the store did not answer in time.
        """
        return not await self._patience.read(self.process.store.events(record.id, seq))

    async def replay(self, run_id: str) -> Replayed:
        """Replay a run's pipeline with its journal, without writing.

        Raises:
            UnknownRun: the run does not exist.
        """
        record = await self.process.store.get(run_id)
        if record is None:
            raise _unknown(run_id)
        return await replay(self.process, record, await self.deep.whole_history(run_id, 0.0))

    async def repeat(self, case: Case) -> Replayed:
        """Replay a run whose case is given."""
        return await replay(self.process, case.record, case.history())

    async def check(self) -> AsyncGenerator[Verdict, None]:
        """Check for every unfinished run whether the present code can finish it. Executes no step, writes nothing.

        Raises:
            ObjectsUnavailable: recorded results of a run are stored as objects, and cannot be read now.
        """
        async for verdict in check_all(self.process, self.deep):
            yield verdict

    async def fits(self, case: Case) -> Verdict:
        """Check a finished run whose case is given, as if interrupted at any place."""
        return await check_parts(self.process, case)

    async def cancel(self, run_id: str, tenant: str = "") -> RunRecord:
        """Cancel a run.

        Raises:
            UnknownRun: it does not exist, or belongs to another tenant.
            RunConflict: it has already ended.
            StoreTimeout: the store did not answer in time; the run may be cancelled all the same.
        """
        return await self._patience.write(self._cancel, run_id, tenant)

    async def _cancel(self, run_id: str, tenant: str) -> RunRecord:
        await self._get(run_id, tenant)
        record = await self.engine.cancel(run_id)
        if record is None:
            raise _unknown(run_id)
        if record.finished:
            raise RunConflict(f"{run_id} has already ended: it is {record.status}")
        return record

    async def signal(
        self, run_id: str, name: str, value: bytes = b"null", tenant: str = "", key: str | None = None
    ) -> Sent:
        """Send a run a signal: an encoded JSON value for the next `offramp.signal(name)` that has none yet.

        A repeated idempotency key with the same signal changes nothing.

        Raises:
            UnknownRun: the run does not exist, or belongs to another tenant.
            InputError: the run waits for a signal of this name, and the value does not fit its schema.
            RunConflict: the run has ended, or has as many signals as it may have.
            IdempotencyMismatch: the key was used with another signal.
            StoreTimeout: the store did not answer in time; the signal may have been taken.
        """
        return await self._patience.write(self._signal, run_id, name, value, tenant, key)

    async def _signal(self, run_id: str, name: str, value: bytes, tenant: str, key: str | None) -> Sent:
        until = self._patience.until()
        before = await self._get(run_id, tenant)
        awaited = await is_awaited(self.process.store, before, name, value, keyed=key is not None)
        self._patience.require(until)
        record = await self.engine.signal(run_id, name, value, None if key is None else key_digest(key))
        if record is None:
            raise _unknown(run_id)
        return Sent(record, awaited and not record.finished)

    async def retry(self, asked: Retrial) -> Accepted:
        """Start a run that retries one which has ended, with what is recorded of it, on the deep path.

        Raises:
            UnknownRun: the run does not exist, or belongs to another tenant.
            RunGone: its retention has ended.
            RunConflict: it has not ended; or it has completed, and the request names no step and is not fresh.
            UnknownPipeline: its pipeline no longer exists.
            InputError: its pipeline no longer takes its input; or it has no such step.
            ObjectLost: a large result of it no longer exists.
            ObjectsUnavailable: a large result of it cannot be copied now.
            Others as `submit`.
        """
        return await self._retrier.retry(asked)

    async def routes(self) -> list[dict[str, Any]]:
        """What is believed of each pipeline and class, what was decided, and how often that was right.

        Raises:
            StoreError: what other processes have learned cannot be read.
        """
        return await self._routes.get((), self._read_routes)

    async def _read_routes(self) -> list[dict[str, Any]]:
        await self.process.control.run(self.live.learning.sync())
        return self.live.verdicts.report()

    def unwritten_s(self, run_id: str) -> float:
        """Seconds for which a run that executed here has waited for its outcome, or its demotion, to be written."""
        return self.live.unwritten_s(run_id)

    async def secure(self, run_id: str) -> None:
        """Return when what is recorded of a run is on disk, so that it can be promised to a client that leaves it.

        Raises:
            StoreTimeout: the store did not answer in time.
            StoreError: it cannot write the run.
        """
        run = self.live.get(run_id)
        if run is not None:  # any other has ended or left, which waited for the disk
            with contextlib.suppress(LeaseLost):  # it is on disk: another process continues it
                await self._patience.read(run.log.durable())

    def disconnected(self, run_id: str) -> None:
        """Handle a disconnect of the client that started this run."""
        self._fast.disconnected(run_id)

    @property
    def now(self) -> float:
        """The time, in epoch seconds."""
        return self.process.clock.time()

    async def secret(self) -> bytes:
        """What every process of the store signs with.

        Raises:
            StoreError: it cannot be read, or the store did not answer in time.
        """
        offered = self.process.clock.random_bytes(SECRET_BYTES)
        return await self._patience.read(self.process.store.secret(offered))

    async def ready(self) -> tuple[bool, str]:
        """Whether runs are accepted and a worker is warm, and otherwise the reason.

        Raises:
            StoreError: the store cannot be asked, or does not answer in time.
        """
        if self._submitter.closed:
            return False, "stopping"
        trouble = self.readiness.trouble()
        if trouble is not None:
            return False, trouble
        if not await self._patience.read(self.engine.ready()):
            return False, "no worker is warm yet"
        return self.readiness.has_threads()

    async def service_levels(self, tenant: str = "") -> list[ServiceLevel]:
        """Every class with a target, and the share of the tenant's runs that met it; of all runs for an empty tenant.

        Counts of other processes are up to `WRITE_EVERY_S` late.

        Raises:
            StoreError: the counts cannot be read.
        """
        return await self._patience.read(self.live.levels.report(tenant))

    async def place_in_changes(self, last_id: str | None) -> tuple[Era, int]:
        """Where a reader of the changes of runs begins; see `Changes.place`."""
        return await self._patience.read(self._changes.place(last_id))

    def changes(self, after: int, wanted: Wanted, idle: float) -> AsyncGenerator[list[Frame], None]:
        """The changes of all runs that a reader wants; see `Changes.follow`."""
        return self._changes.follow(after, wanted, idle)

    async def statistics(self, window: str, tenant: str = "") -> Found:
        """The statistics of a tenant's runs in a window of `core.stats.WINDOWS`; of all runs for an empty tenant.

        Outcomes in other processes are up to `WRITE_EVERY_S` late.

        Raises:
            StoreError: the counts cannot be read.
        """
        return await self._patience.read(self.live.stats.report(window, tenant))

    async def lift(self, run_id: str) -> None:
        """The calling code waits for a run: where a step of a run of a higher class does, its permits are as urgent."""
        limits, ambient = self.process.limits, current.get()
        if limits is None or not isinstance(ambient, Attempt):
            return
        facts, record = ambient.scope.facts, None
        with contextlib.suppress(StoreError):  # the wait itself needs no store
            record = await self._patience.read(self.process.store.get(run_id))
        if record is not None and not record.finished and record.priority < facts.priority:
            limits.lift(run_id, facts.sla, facts.priority)

    async def resources(self) -> tuple[float, Sequence[Level]]:
        """The time, in epoch seconds, and the app's resources as all processes use them then.

        Raises:
            StoreError: nothing that keeps the limits answers in time.
        """
        limits = self.process.limits
        levels = () if limits is None else await limits.levels()
        return self.process.clock.time(), levels

    async def workers(self) -> Sequence[Owner]:
        """The processes that hold a lease, the oldest first; what runs in them is up to `ABOUT_EVERY_S` late.

        Raises:
            StoreError: they cannot be read.
        """
        return await self._patience.read(self.roster.present())

    async def retire(self, owner: str) -> int:
        """Release the runs of a dead process at once; returns their number."""
        return await self.engine.retire(owner)

    async def drain(self) -> None:
        """Accept no more work; demote or hand over the runs here, for at most `drain_timeout` seconds.

        If the first caller is cancelled, the drain is cut short; further ones wait for its end.
        """
        if self._draining is None:
            self._draining = Future()
            self._draining.set_running_or_notify_cancel()  # a caller that waits for it cannot cancel it
            self._submitter.close()
            try:
                await self.process.control.run(self._drain())
            finally:
                self._draining.set_result(None)
        else:
            await asyncio.wrap_future(self._draining)

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self.settings.drain_timeout):
                await drain_all(self.parts)
                await self._send_all_away()
        except TimeoutError:
            if late := len(self.live.all()):
                logger.warning("steps in flight at the end of the drain are executed again; runs: %d", late)
        for run in self.live.all():
            self.live.drop(run)
        self.process.feed.end()

    async def _send_all_away(self) -> None:
        """Send every run away, including runs that were arriving when the drain began."""
        leaving: dict[LiveRun, asyncio.Task[None]] = {}
        try:
            while True:
                # Read first: a run is live once it is no longer arriving.
                arriving = self._submitter.arriving + self.deep.starting
                for run in self.live.all():
                    if run not in leaving:
                        leaving[run] = asyncio.ensure_future(self._send_away(run))
                waiting = [task for task in leaving.values() if not task.done()]
                if waiting:
                    await asyncio.wait(waiting, timeout=ARRIVING_LOOK_S if arriving else None)
                elif arriving:
                    await asyncio.sleep(ARRIVING_LOOK_S)
                else:
                    return
        finally:
            for task in leaving.values():
                task.cancel()

    async def _send_away(self, run: LiveRun) -> None:
        away = self.demoter
        leaving = asyncio.ensure_future(away.demote(run, "drain") if run.record.path == "fast" else away.hand_over(run))
        try:
            await run.left
            if run.state != "ended":
                await leaving  # the run has left; this gives it back
                self.process.feed.handed_over(run.record.id)
        finally:
            leaving.cancel()

    async def stop(self) -> None:
        """Drain, leave the service, and close everything."""
        await self.drain()
        await self.process.control.run(close_all(self.parts))
        await self.close()

    async def close(self) -> None:
        """Close what this process opened; enough for a service that was not started."""
        await self.process.store.close()
        await asyncio.get_running_loop().run_in_executor(None, self._close)
        self.process.metrics.close()

    async def list(
        self, wanted: RunFilter, prefix: str = "", include: frozenset[Include] = NOTHING
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of documents in the filter's order, and the next page start.

        Results above `RESULT_INLINE_BYTES_MAX` are left out. With several filters a page may hold fewer than
        `wanted.limit` documents and still have a next page.
        """

        async def read() -> tuple[list[dict[str, Any]], str | None]:
            store, showing = self.process.store, Showing(include)
            page = await store.runs(wanted)
            return [await document_of(store, record, prefix, showing) for record in page.runs], page.after

        return await self._patience.read(read())


def _unknown(run_id: str) -> UnknownRun:
    return UnknownRun(f"no run {run_id[:100]!r}; runs are listed at /v1/runs")
