"""What a process of the service can do, in one place: the edge (HTTP, command line, tests) calls only this."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from offramp.core.events import Frame
from offramp.core.reference import Reference
from offramp.core.routing import Decision
from offramp.core.run import RunRecord, document, key_digest
from offramp.core.sla import SLA
from offramp.core.spec import PipelineSpec
from offramp.errors import RunConflict, UnknownRun
from offramp.paths.deep import DeepPath, steps_of
from offramp.paths.demote import Demoter
from offramp.paths.fast import FastPath
from offramp.paths.health import Readiness
from offramp.paths.live import LiveRun, LiveRuns, Watcher
from offramp.paths.patience import Patience
from offramp.paths.process import Process
from offramp.paths.replay import Case, Replayed, Verdict, check_all, check_parts, replay
from offramp.paths.slo import ServiceLevel
from offramp.paths.submission import Accepted, Submission
from offramp.paths.submit import Submitter
from offramp.paths.upkeep import CatchingUp, Learning, ObjectProbe, Purging
from offramp.paths.webhooks import WebhookDispatcher
from offramp.ports.engine import Engine
from offramp.ports.listing import RunFilter
from offramp.ports.parts import Part, close_all, drain_all, start_all
from offramp.settings import Settings
from offramp.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from offramp.telemetry.tracing import Tracing

logger = logging.getLogger("offramp")

ARRIVING_LOOK_S = 0.02
"""How often a drain looks for runs that were still being accepted or claimed when it began."""


class Service:
    """One process of the service: gateway, worker, or both.

    `process`, `live`, `deep` and `engine` are attributes for tests; HTTP and the command line call the methods alone.

    Args:
        name: the app's name.
        process: what this process has.
        live: its executing runs.
        deep: its end of the deep path.
        engine: what drives deep runs.
        dispatcher: delivers webhooks, in a process that does.
        close: closes what `process` holds, last.
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
        close: Any,
    ) -> None:
        self.app_name = name
        self.process = process
        self.tenancy = process.tenancy
        """How tenants share the queue and what this process has; what lets them in says whether they need keys."""
        self.live = live
        self.deep = deep
        self.engine = engine
        self._close = close
        self.demoter = demoter
        self._fast = FastPath(process, live, demoter)
        self._patience = Patience(process.settings.write_timeout, process.store.trouble)
        self._submitter = Submitter(process, live, demoter, self._fast, engine, self._patience)
        self.parts: list[Part] = [
            live.levels,
            Learning(process, live.durations),
            CatchingUp(process),
            Purging(process),
            ObjectProbe(process),
            *engine.parts,
            *([] if dispatcher is None else [dispatcher]),
        ]
        """In the order in which they start; they close in the reverse order."""
        self._drained = False
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
        """What is counted in this process."""
        return self.process.metrics

    @property
    def collectors(self) -> list[Any]:
        """Prometheus collectors of this process."""
        return self.process.metrics.collectors

    @property
    def tracing(self) -> Tracing | None:
        """The spans of this process, None where tracing is off."""
        return self.process.tracing

    @property
    def id(self) -> str:
        """How this process is called in leases and in `run.resumed`."""
        return self.process.id

    async def start(self) -> None:
        """Join the service and begin to work."""
        self.process.metrics.open()
        await self.process.control.run(start_all(self.parts))

    async def submit(self, submission: Submission, watcher: Watcher | None = None) -> Accepted:
        """Take a request; see `Submitter.submit`."""
        return await self._submitter.submit(submission, watcher)

    def decide(self, submission: Submission) -> Decision:
        """What would become of a request now; see `Submitter.decide`."""
        return self._submitter.decide(submission)

    async def get(self, run_id: str, tenant: str = "") -> RunRecord:
        """A run's record.

        Raises:
            UnknownRun: there is none, or it is another tenant's.
            StoreTimeout: the store did not answer in time.
        """
        return await self._patience.read(self._get(run_id, tenant))

    async def _get(self, run_id: str, tenant: str) -> RunRecord:
        record = await self.process.store.get(run_id, tenant)
        if record is None:
            raise _unknown(run_id)
        return record

    async def whole_result(self, record: RunRecord) -> bytes | None:
        """A run's result, wherever it is kept.

        Raises:
            ObjectLost: it is not there any more.
            ObjectsUnavailable: it cannot be told now.
        """
        return None if record.result is None else await self.process.values.whole(record.result)

    def result_parts(self, reference: Reference) -> AsyncGenerator[bytes, None]:
        """A result that is kept elsewhere, in parts; raises as `whole_result` does."""
        return self.process.values.stream(reference)

    def is_due(self, record: RunRecord) -> bool:
        """Whether a run's data may be removed by now."""
        kept_until = (record.finished_at or math.inf) + record.retention_s
        return kept_until <= self.process.clock.time()

    async def document(self, run_id: str, tenant: str = "", prefix: str = "") -> dict[str, Any]:
        """A run's document; `prefix` is where the gateway is mounted. Raises as `get` does."""

        async def read() -> dict[str, Any]:
            return await self._document(await self._get(run_id, tenant), prefix)

        return await self._patience.read(read())

    async def _document(self, record: RunRecord, prefix: str) -> dict[str, Any]:
        steps = await steps_of(self.process.store, record.id, finished=record.finished)
        return document(record, [step.document() for step in steps.values()], prefix)

    def follow(self, run_id: str, after: int = 0, idle: float | None = None) -> AsyncGenerator[list[Frame], None]:
        """Events numbered above `after`, in order, until the terminal one; [] after `idle` seconds of silence.

        Ends early when this process stops; the reader then goes on elsewhere from the last number it has.

        Raises:
            RunGone: the run's events were removed at the end of its retention.
        """
        return self.process.feed.follow(self.process.store, run_id, after, idle)

    async def replay(self, run_id: str) -> Replayed:
        """Call a run's pipeline again with its journal, writing nothing.

        Raises:
            UnknownRun: there is no such run.
        """
        record = await self.process.store.get(run_id)
        if record is None:
            raise _unknown(run_id)
        return await replay(self.process, record, await self.deep.whole_history(run_id, 0.0))

    async def repeat(self, case: Case) -> Replayed:
        """The same of a run that is known from elsewhere."""
        return await replay(self.process, case.record, case.history())

    async def check(self) -> AsyncGenerator[Verdict, None]:
        """Say of every unfinished run whether the code that is here can finish it. Executes no step, writes nothing.

        Raises:
            ObjectsUnavailable: a run's recorded results are kept elsewhere, and cannot be read now.
        """
        async for verdict in check_all(self.process, self.deep):
            yield verdict

    async def fits(self, case: Case) -> Verdict:
        """The same of a finished run, which is known from elsewhere and may have been interrupted anywhere."""
        return await check_parts(self.process, case)

    async def cancel(self, run_id: str, tenant: str = "") -> RunRecord:
        """Have a run end `cancelled`.

        Raises:
            UnknownRun: there is none, or it is another tenant's.
            RunConflict: it has its outcome.
            StoreTimeout: the store did not answer in time; it may be cancelled all the same.
        """
        return await self._patience.write(self._cancel(run_id, tenant))

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
    ) -> RunRecord:
        """Send a run a signal: an encoded JSON value for the next `offramp.signal(name)` that has none yet.

        With an idempotency key that came with it before, it was sent already, and nothing is changed.

        Raises:
            UnknownRun: there is no such run, or it is another tenant's.
            RunConflict: it has ended, or was sent as many signals as it may.
            IdempotencyMismatch: the key came with another signal.
            StoreTimeout: the store did not answer in time; the signal may have been taken.
        """
        return await self._patience.write(self._signal(run_id, name, value, tenant, key))

    async def _signal(self, run_id: str, name: str, value: bytes, tenant: str, key: str | None) -> RunRecord:
        until = self._patience.until()
        await self._get(run_id, tenant)
        self._patience.require(until)
        record = await self.engine.signal(run_id, name, value, None if key is None else key_digest(key))
        if record is None:
            raise _unknown(run_id)
        return record

    def unwritten_s(self, run_id: str) -> float:
        """For how many seconds a run that executed here has waited for its outcome, or its demotion, to be written."""
        return self.live.unwritten_s(run_id)

    def disconnected(self, run_id: str) -> None:
        """The client that started this run went away."""
        self._fast.disconnected(run_id)

    async def ready(self) -> tuple[bool, str]:
        """Whether runs are taken and a worker is warm, else why not.

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
        """Every class with a target and the tenant's runs that kept it, those of all for an empty one.

        Those of other processes are up to `WRITE_EVERY_S` behind.

        Raises:
            StoreError: they cannot be read.
        """
        return await self._patience.read(self.live.levels.report(tenant))

    async def retire(self, owner: str) -> int:
        """Release at once what a dead process held; how many runs that was."""
        return await self.engine.retire(owner)

    async def drain(self) -> None:
        """Take nothing more; demote or hand over what runs here, for at most `drain_timeout` seconds."""
        if self._drained:
            return
        self._drained = True
        self._submitter.close()
        await self.process.control.run(self._drain())

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
        """Every run, also those that were on their way in when the drain began."""
        leaving: dict[LiveRun, asyncio.Task[None]] = {}
        try:
            while True:
                # Looked at first: they are live when they are not.
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
                await leaving  # it left, and is given back now
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

    async def list(self, wanted: RunFilter, prefix: str = "") -> tuple[list[dict[str, Any]], str | None]:
        """A page of documents, newest first, without results above `RESULT_INLINE_BYTES_MAX`; where the next begins.

        With several filters a page may hold fewer than `wanted.limit`, though there is a next one.
        """

        async def read() -> tuple[list[dict[str, Any]], str | None]:
            page = await self.process.store.runs(wanted)
            return [await self._document(record, prefix) for record in page.runs], page.after

        return await self._patience.read(read())


def _unknown(run_id: str) -> UnknownRun:
    return UnknownRun(f"no run {run_id[:100]!r}; runs are listed at /v1/runs")
