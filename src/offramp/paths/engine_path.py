"""The deep path in a process of an engine that calls bodies itself: bodies, single attempts of steps, outcomes.

This process writes the run's logs, under the lease that the engine shares; the engine decides which process executes
which part.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NoReturn

import msgspec

from offramp.core import events
from offramp.core.attempts import AttemptOutcome, Interrupted, Postponed, RetryLater
from offramp.core.events import Draft, StepState
from offramp.core.failure import Failure, failure_of
from offramp.core.journal import Entry
from offramp.core.names import did_you_mean
from offramp.core.ownership import ENGINE, FIRST_TURN
from offramp.core.reference import reference_in
from offramp.core.run import Outcome, RunRecord
from offramp.core.spec import StepSpec
from offramp.core.timestamps import rfc3339
from offramp.errors import LeaseLost, UnknownPipeline
from offramp.execution.attempt import Attempt
from offramp.execution.endings import ExecutionOver, aborted
from offramp.execution.engine_bodies import EngineBody
from offramp.execution.history import History, known_of
from offramp.execution.loops import RunLoop
from offramp.execution.making import first
from offramp.execution.notes import Notes
from offramp.execution.observer import Observer
from offramp.execution.quarantine import Quarantine
from offramp.execution.run_facts import RunFacts
from offramp.execution.scope import Scope
from offramp.execution.steps import LocalSteps
from offramp.paths.deep import DeepPath, steps_of
from offramp.paths.live import LiveRuns
from offramp.paths.outcomes import UNKNOWN
from offramp.paths.process import Process
from offramp.ports.bodies import (
    AttemptContext,
    BodyExecution,
    BodyHost,
    BodyRuntime,
    Facts,
    Known,
    StepCall,
    StepTerms,
    TraceContext,
    TryAgain,
)
from offramp.ports.commit import Commit, call_threadsafe
from offramp.ports.store import Claim, Lease, RunLog

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.telemetry.run_trace import RunTrace, StepTrace


class EnginePath(DeepPath, BodyHost):
    """Executes bodies and attempts of steps for an engine, and claimed runs as every process does.

    Args:
        process: this process.
        live: the runs that execute here as a whole: those of the fast path.
        steps: the declared steps by name.
    """

    def __init__(self, process: Process, live: LiveRuns, steps: Mapping[str, StepSpec]) -> None:
        super().__init__(process, live)
        self._steps = steps
        self._attempts: dict[Lease, _Attempt] = {}
        self._bodies: weakref.WeakSet[EngineBody] = weakref.WeakSet()
        self._bodies_lock = threading.Lock()
        self._quarantine = Quarantine()
        process.metrics.live("deep", self._under_way)

    def _under_way(self) -> int:
        with self._bodies_lock:
            bodies = list(self._bodies)
        return sum(1 for body in bodies if not body.over)

    def places(self) -> tuple[int, int]:
        """The places for steps that are taken here, and how many there are."""
        return len(self._attempts), self._process.settings.worker_runs

    def terms(self, step: str) -> StepTerms | None:
        """A step's declaration."""
        spec = self._steps.get(step)
        return None if spec is None else StepTerms(spec.policy.timeout, spec.policy.short)

    def play(
        self, facts: Facts, encoded_input: bytes, known: Known, runtime: BodyRuntime, part: TraceContext | None
    ) -> BodyExecution:
        """Begin to execute a body."""
        process = self._process
        spec = process.pipelines.get(facts.pipeline)
        if spec is None:
            raise UnknownPipeline(
                f"no pipeline {facts.pipeline!r} here; {did_you_mean(facts.pipeline, self.pipelines)}"
            )
        trace = None
        if process.tracing is not None and part is not None:
            trace = process.tracing.part(facts.run_id, part, lambda: runtime.repeats)
        body = EngineBody(
            spec,
            facts,
            encoded_input,
            known,
            runtime,
            process.metrics,
            result_bytes_max=process.settings.max_result_bytes,
            cancel_grace_s=process.settings.cancel_grace,
            trace=trace,
        )
        with self._bodies_lock:
            self._bodies.add(body)
        return body

    async def known(self, run_id: str) -> Known:
        """A run's history in the store."""
        return known_of(await self.history(run_id))

    def began(self, claim: Claim, replayed_steps: int, *, first: bool) -> TraceContext | None:
        """Count a run that this process takes up; returns its place in the trace."""
        process, record = self._process, claim.record
        since = record.created_at if record.demotion is None else record.demotion.at
        waited_s = process.clock.time() - since
        if first:
            self._began(record)
        if first and record.demotion is None:
            process.metrics.waited(record, waited_s)
        elif first:
            self._live.first_events.of_demoted(record)
        if process.tracing is None:
            return None
        return process.tracing.take_up(record, replayed_steps, waited_s if first else None, time.time_ns())

    def took_over(self, facts: Facts, replayed_steps: int, part: TraceContext) -> None:
        """Record in the trace that a body resumes here."""
        if self._process.tracing is not None:
            self._process.tracing.taken_over(facts.run_id, facts.pipeline, part, replayed_steps)

    def waited(self, facts: Facts, part: TraceContext, what: str, began: float, *, over: bool) -> None:
        """Record in the trace that a body waited until now."""
        if self._process.tracing is not None:
            self._process.tracing.waited(facts.run_id, part, what, began, over=over)

    async def resumed(
        self, lease: Lease, replayed_steps: int, reason: Literal["demotion", "retry"] | None = None
    ) -> None:
        """Write that this process resumes a run."""
        body = events.RunResumed(self._process.id, replayed_steps, reason)
        runlog = self._process.store.log(lease)
        runlog.append(None, events.draft(body, rfc3339(self._process.clock.time())))
        await runlog.durable()

    async def attempt(
        self, lease: Lease, record: RunRecord, call: StepCall, arguments: bytes, context: AttemptContext
    ) -> Entry:
        """Execute one attempt of a step."""
        process = self._process
        before, deaths = None, 0
        if lease.turn > FIRST_TURN or call.attempt > 1:
            before = (await steps_of(process.store, lease.run_id)).get(call.key)
        if before is not None and before.status == "running":
            deaths = max(0, before.starts - before.left - context.left)
            if deaths >= process.settings.process_deaths:
                await self._give_up(lease, record, before, deaths, context.part)
        if context.opens and record.demotion is None:
            self._live.first_events.of_new(record)
        async with self._quarantine.place(deaths):
            return await self._executed(lease, record, call, arguments, context, before)

    async def _executed(
        self,
        lease: Lease,
        record: RunRecord,
        call: StepCall,
        arguments: bytes,
        context: AttemptContext,
        before: StepState | None,
    ) -> Entry:
        process, trace = self._process, None
        if process.tracing is not None and context.part is not None:
            trace = process.tracing.part(record.id, context.part)
        facts = RunFacts.deep(Facts.of(record), process.clock)
        history = History(interrupted={} if before is None else {call.key: before})
        spec = self._steps[call.name]
        chosen = (spec.on_unknown if call.decides else None) or spec
        log: RunLog = process.store.log(lease)
        scope = Scope(
            facts,
            _Gathered(log) if spec.policy.short else log,
            process.steps,
            process.clock,
            history,
            process.metrics,
            store_value=process.values.of(record.id),
            observer=_Watches(context.says, lambda: self._live.cold_started(record)),
        )
        scope.record_arguments = process.settings.record_arguments
        scope.suspects.watched = lease.turn > FIRST_TURN
        attempt = self._attempts[lease] = _Attempt(
            scope, process.steps, chosen.call(call.key, arguments, None), call.attempt, trace, context
        )
        process.loops.submit(attempt.begin)
        try:
            return await attempt.done
        finally:
            del self._attempts[lease]
            attempt.stop()

    async def _give_up(
        self, lease: Lease, record: RunRecord, step: StepState, deaths: int, part: TraceContext | None
    ) -> NoReturn:
        """End a run whose step takes down its processes."""
        died = msgspec.structs.replace(record, deaths=deaths, deaths_alone=deaths, deaths_silent=UNKNOWN)
        outcome = self._given_up(died, self._process.store.log(lease), History(interrupted={step.key: step}))
        whole = Lease(lease.run_id, lease.owner, lease.token)
        await self.conclude(Claim(record, whole, fresh=False), outcome, part)
        raise LeaseLost(f"{record.id} has ended: {step.name!r} took down {deaths} processes")

    async def conclude(self, claim: Claim, outcome: Outcome, part: TraceContext | None = None) -> None:
        """Write a run's outcome."""
        process, record = self._process, claim.record
        if outcome.result is not None and reference_in(outcome.result) is None:
            kept = await process.values.of(record.id)(outcome.result, "the pipeline")
            outcome = msgspec.structs.replace(outcome, result=kept)
        await self._live.conclude(record, process.store.log(claim.lease), outcome, elsewhere=True)
        process.control.spawn(self._live.ended_elsewhere(record, outcome))
        if process.tracing is not None:
            part = part or self.began(claim, 0, first=claim.fresh)
            if part is not None:
                process.tracing.ran(record, part, outcome)

    def lost(self, lease: Lease) -> None:
        """Stop the execution that holds this lease, or the attempt that has this turn."""
        if lease.owner != ENGINE:
            super().lost(lease)
            return
        attempt = self._attempts.get(lease)
        if attempt is not None:
            attempt.stop()


class _Gathered(Notes):
    """The log of a short step: its start is written with its end, in one transaction, unless it emits earlier."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(log.lease, log.append)
        self._written = log.durable
        self._waiting: list[tuple[Entry | None, Draft | None]] = []

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Hold it back until an entry must be visible at once."""
        self._waiting.append((entry, event))
        if durable or (event is not None and event.type in {"step.delta", "step.waiting"}):
            self._flush()

    def durable(self) -> Commit[None]:
        """Write everything; resolves when it is on disk."""
        self._flush()
        return self._written()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            super().append(*each)


class _Watches(Observer):
    """Reports the reason for which an attempt waits before it begins, and a wait for a process to start."""

    __slots__ = ("_cold_started", "_says")

    def __init__(self, says: Callable[[str | None], object], cold_started: Callable[[], object]) -> None:
        self._says = says
        self._cold_started = cold_started

    def cold_started(self) -> None:
        """Count it."""
        self._cold_started()

    def step_waits(self, what: str | None) -> None:
        """Report the reason for which a step waits; None once it waits no more."""
        self._says(what)


class _Attempt:
    """One attempt of a step, on a run loop."""

    def __init__(
        self, scope: Scope, steps: LocalSteps, call: Call, number: int, trace: RunTrace | None, context: AttemptContext
    ) -> None:
        self.done: Commit[Entry] = Commit()
        self._trace = trace
        self._context = context
        self._scope = scope
        self._steps = steps
        self._call = call
        self._number = number
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, on: RunLoop) -> asyncio.Task[None]:
        """Execute it on this run loop."""
        self._loop, self._scope.replay.result_order.turns = on.loop, on.turns
        self._task = on.loop.create_task(self._run(), name=self._call.name, context=contextvars.Context())
        return self._task

    def stop(self) -> None:
        """Cancel it, from any thread; it writes no more."""
        self._scope.facts.cancelled = True
        self._scope.move("drop")
        if self._loop is not None and self._task is not None and not self._task.done():
            call_threadsafe(self._loop, self._task.cancel)

    async def _run(self) -> None:
        entry: Entry | None = None
        error: Exception | None = None
        if self._trace is not None:
            self._trace.enter()
        try:
            entry = await self._executed()
        except (asyncio.CancelledError, ExecutionOver):
            error = LeaseLost(f"step {self._call.name!r} was stopped here")
        except Exception as raised:  # noqa: BLE001 - the engine judges it
            error = raised
        except BaseException as raised:  # noqa: BLE001 - user code may decode arguments
            error = aborted(raised, f"step {self._call.name!r}")
        self.done.resolve(entry, error)

    async def _executed(self) -> Entry:
        scope = self._scope
        scope.gate.require_here()
        attempt = await first(scope, self._call)
        if isinstance(attempt, Attempt):
            attempt.number, attempt.patience_s = max(self._number, attempt.number), self._context.patience_s
            attempt.stays = self._context.stays
            outcome = await self._made(attempt)
            if isinstance(outcome, RetryLater):
                await scope.log.durable()
                raise TryAgain(failure_of(outcome.error), outcome.delay_s)
            if isinstance(outcome, Postponed):
                delay_s = max(0.0, outcome.until - scope.clock.time())
                why = Failure(events.POSTPONED, "the attempt has not begun", self._call.name, attempt.number)
                raise TryAgain(why, delay_s)
        await scope.log.durable()
        return scope.replay.journal.entries[-1]

    async def _made(self, attempt: Attempt) -> AttemptOutcome:
        """The attempt's outcome; raises the error that stopped it."""
        with self._traced(attempt.call) as attempt.trace:
            outcome = await self._steps.attempt(attempt)
            if isinstance(outcome, Interrupted):
                raise outcome.by
            if attempt.trace is not None:
                attempt.trace.ended(outcome)
        return outcome

    @contextlib.contextmanager
    def _traced(self, call: Call) -> Iterator[StepTrace | None]:
        if self._trace is None or not self._trace.recording:
            yield None
            return
        with self._trace.step(call) as trace:
            trace.queued(self._context.queued_s)
            yield trace
