"""The workflow: a pipeline's body, called by Temporal. Named after the pipeline, it schedules steps and nothing else.

Runs in Temporal's deterministic loop, without its sandbox (docs/decisions/0009). What it writes of the run goes through
local activities, in order; what it must not repeat is in the journal that it begins with, or in Temporal's history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import msgspec
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from offramp.core.events import Draft
from offramp.core.failure import failure_of
from offramp.core.journal import TIMER, Entry, mark
from offramp.core.run import Outcome
from offramp.engines.temporal.clock import WorkflowClock
from offramp.engines.temporal.held import DELIVERED, GO, HeldSteps
from offramp.engines.temporal.known import (
    BEGIN,
    FINISH,
    FINISH_LARGE,
    RECORD,
    RETRY_SOON,
    local,
    signals_after,
    value_of_step,
    whole,
    with_value,
)
from offramp.engines.temporal.payloads import (
    Begin,
    Begun,
    End,
    Notes,
    Start,
    Ticket,
    failure_in,
    raw,
    read,
    require_fit,
    value_in,
)
from offramp.errors import ObjectLost
from offramp.ports.bodies import PAYLOAD_BYTES_MAX, BodyHost, Facts, Known, Outside, Part, Playing, StepCall, StepTerms

WAKE = "offramp.wake"
"""The signal that tells a body to look for what it was sent."""
LOST = "LeaseLost"
"""Type of the error of a local activity or a step whose run is not this workflow's any more."""

STEP_MARGIN_S = 300.0
"""What a step's activity gets past the step's own timeout, which counts from when its code begins."""
STEP_S_MAX = 10 * 365 * 86_400.0
"""The same for a step without a timeout; a worker that dies is noticed by its heartbeats."""
SHORT_MARGIN_S = 5.0
RETRY = RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_interval=timedelta(seconds=30))
"""Of what fails outside a step's own code, such as a store that is away; a step's own retries name their delays."""
T = TypeVar("T")


class Home(Protocol):
    """What a worker process hands to the bodies that it executes."""

    heartbeat_s: float
    cancel_grace_s: float
    history_events_max: int
    objects_wait_s: float | None
    """How long a step may wait for its result to be kept; None where there is no place for what is large."""

    @property
    def host(self) -> BodyHost:
        """What executes bodies."""

    def has_had(self, run_id: str) -> bool:
        """Whether this process executed the run's body before; from now on it did."""

    def resumed(self, facts: Facts, token: int, replayed_steps: int, part: Part | None) -> None:
        """A body that another process began goes on here; returns at once."""


_home: ContextVar[Home] = ContextVar("offramp_home")


class HomeInterceptor(Interceptor):
    """Gives bodies their process: a workflow class has to be global, and a process has no globals of ours."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Set the process where a workflow begins."""
        home = self._home

        class Inbound(WorkflowInboundInterceptor):
            async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
                _home.set(home)
                return await super().execute_workflow(input)

        return Inbound


@workflow.defn(dynamic=True)
class PipelineWorkflow:
    """Any pipeline: the workflow's type is its name."""

    def __init__(self) -> None:
        self._woken = 0
        self._may_go = False
        self._delivered = 0
        self._cancelled = False
        self._start: Start
        self._input = b""

    @workflow.signal(name=WAKE)
    def wake(self) -> None:
        """Something came for the run."""
        self._woken += 1

    @workflow.signal(name=GO)
    def go(self) -> None:
        """The run is the engine's."""
        self._may_go = True

    @workflow.signal(name=DELIVERED)
    def delivered(self) -> None:
        """A step has ended where it was in flight."""
        self._delivered += 1

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> str:
        """Returns the run's status; its result is in the store, not in history."""
        home = _home.get()
        self._start = read(args[0], Start)
        start, held = self._start, HeldSteps(self._start.held, home.heartbeat_s, local, lambda: self._delivered)
        if start.held is not None and start.part is None:
            await self._unbroken(held.let_go(lambda: self._may_go))
        begun = await self._unbroken(local(BEGIN, Begin(start.fresh, start.part, start.held, start.seen), Begun))
        if begun.over:
            return "over"
        self._cancelled = self._cancelled or begun.cancel
        try:
            self._input = value_in(args[1])
            known = await self._unbroken(whole(begun))
        except ObjectLost as error:
            outcome = Outcome("failed", error=failure_of(error))
            return await self._finish(End(Notes(begun.token), outcome, begun.part))
        outside = _Outside(home, start, begun, len(known.entries), held)
        playing = home.host.play(start.facts, self._input, known, outside, begun.part)
        ended = await self._play(home, playing, outside, known)
        if ended is None:
            return "taken over"
        notes = Notes(begun.token, await self._unbroken(outside.rest()))
        return await self._finish(End(notes, ended, begun.part))

    async def _finish(self, end: End) -> str:
        result, status = end.outcome.result, end.outcome.status
        if result is None or len(result) <= PAYLOAD_BYTES_MAX:
            await self._unbroken(local(FINISH, [end], type(None)))
        else:
            end = msgspec.structs.replace(end, outcome=msgspec.structs.replace(end.outcome, result=None))
            await self._unbroken(local(FINISH_LARGE, [end, raw(result, by_name=True)], type(None)))
        return status

    async def _play(self, home: Home, playing: Playing, outside: _Outside, known: Known) -> Outcome | None:
        """Wait for the body's end, and pass on what comes from outside meanwhile."""
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        deadline = self._start.facts.deadline_at
        if deadline is not None:
            timers.append(loop.call_later(max(0.0, deadline - workflow.time()), playing.expire))
        end = loop.create_task(playing.ended())
        received, looked, told, stopping = list(known.signals), 0, False, False

        def full() -> bool:
            info = workflow.info()
            crowded = info.get_current_history_length() >= home.history_events_max
            return crowded or info.is_continue_as_new_suggested()

        def look() -> bool:
            outside.look()
            return (
                end.done()
                or outside.lost
                or outside.broken is not None
                or self._woken > looked
                or (self._cancelled and not told)
                or (outside.under_way == 0 if stopping else full())
            )

        try:
            while not end.done():
                await self._unbroken(workflow.wait_condition(look))
                if outside.lost:
                    return None
                if outside.broken is not None:
                    return Outcome("failed", error=failure_of(outside.broken))
                if self._cancelled and not told:
                    told = True
                    playing.cancel()
                    timers.append(loop.call_later(home.cancel_grace_s, playing.give_up))
                if self._woken > looked:
                    looked = self._woken
                    received += await self._unbroken(signals_after(len(received)))
                    playing.signals(received)
                if stopping and not end.done() and outside.under_way == 0 and playing.cut():
                    await self._go_on_anew(outside, playing)
                elif full() and not stopping:
                    stopping = True
                    playing.stop_at_boundary()
            return end.result()
        finally:
            for timer in timers:
                timer.cancel()

    async def _go_on_anew(self, outside: _Outside, playing: Playing) -> None:
        """Begin a new history: the journal holds what this one did."""
        rest = await self._unbroken(outside.rest())
        if rest:
            await self._unbroken(local(RECORD, Notes(outside.token, rest), type(None)))
        seen = [mark(key) for key in playing.seen()] if outside.parallel else []
        start = msgspec.structs.replace(self._start, fresh=False, part=outside.part, seen=seen, timers=True)
        workflow.continue_as_new(args=[start, raw(self._input)])

    async def _unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what a cancellation of the workflow must not interrupt; it is noted, and told to the body."""
        task = asyncio.get_running_loop().create_task(work)
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                self._cancelled = True
        return task.result()


class _Outside(Outside):
    """What a body reaches: activities, timers, and the run's log by way of local activities."""

    def __init__(self, home: Home, start: Start, begun: Begun, replayed_steps: int, held: HeldSteps) -> None:
        self.token = begun.token
        self.part = begun.part
        self.lost = False
        self.broken: ObjectLost | None = None
        """What is missing, so that the run cannot go on."""
        self.under_way = 0
        self.parallel = False
        self._home = home
        self._facts = start.facts
        self.keeps_timers = start.timers
        self._held = held
        self._steps = replayed_steps
        self._clock = WorkflowClock()
        # A short step is executed again without a trace in history where a workflow task was lost, and only there: the
        # body is then rebuilt from history, or begins anew on another worker.
        self._first = begun.first and not self.repeats
        self._rebuilt = not home.has_had(workflow.info().workflow_id) and self.repeats
        self._pending: list[tuple[Entry | None, Draft | None]] = []
        self._writing: asyncio.Task[None] | None = None

    @property
    def clock(self) -> WorkflowClock:
        """Workflow time."""
        return self._clock

    @property
    def repeats(self) -> bool:
        """Whether Temporal replays history."""
        return workflow.unsafe.is_replaying()

    def look(self) -> None:
        """Say once that the run goes on here, if another process began it."""
        if self._rebuilt and not self.repeats:
            self._rebuilt = False
            self._home.resumed(self._facts, self.token, self._steps, self.part)

    def record(self, entry: Entry | None, event: Draft | None) -> None:
        """Write an event or a timer's end soon, and before it what came before it."""
        self._pending.append((entry, event))
        fired = entry is not None and entry.name == TIMER  # before the steps that follow from that
        self.parallel |= fired
        if (event is not None or fired) and self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    def waited(self, what: str, began: float, *, over: bool) -> None:
        """The body waited until now."""
        if self.part is not None:
            self._home.host.waited(self._facts, self.part, what, began, over=over)

    async def _write(self) -> None:
        try:
            while self._pending:
                notes, self._pending = Notes(self.token, self._pending), []
                await local(RECORD, notes, type(None))
        except ActivityError as error:
            if not _is_lost(error):
                raise
            self.lost = True
        finally:
            self._writing = None

    async def rest(self) -> list[tuple[Entry | None, Draft | None]]:
        """What is not written yet, once nothing is being written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        return self._pending

    async def step(self, call: StepCall, arguments: bytes) -> Entry:
        """Have Temporal schedule the step."""
        if self._home.objects_wait_s is None:
            require_fit(arguments, f"step {call.name!r}: its arguments")
        terms = self._home.host.terms(call.name)
        if terms is None:
            raise AssertionError(f"step {call.name!r} is called here, but not declared here")
        self.under_way += 1
        self.parallel |= self.under_way > 1
        try:
            held = call.key in self._held
            delivered = await self._held.outcome(call.key, self.token) if held else None
            if delivered is not None:
                self._steps += 1
                return await with_value(delivered)
            first = (self._first or not terms.short) and not held
            ticket = Ticket(self.token, call.key, call.attempt, call.decides, first, self._steps == 0, self.part)
            value: RawValue = await self._scheduled(call.name, terms, [raw(arguments), ticket])
            self._steps += 1
            return Entry(call.key, call.name, "step", value_of_step(call.name, value))
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise asyncio.CancelledError from error
            cause = error.cause
            if _is_lost(error):
                self.lost = True
                await asyncio.get_running_loop().create_future()  # the workflow ends instead
            if not isinstance(cause, ApplicationError) or not cause.details:
                raise
            return Entry(call.key, call.name, "step", None, failure_in(cause.details[0]))
        except ObjectLost as error:
            self.broken = error
        finally:
            self.under_way -= 1
        await asyncio.get_running_loop().create_future()  # the workflow ends instead
        raise AssertionError("a run went on without what it had finished")

    def _scheduled(self, name: str, terms: StepTerms, args: list[Any]) -> Any:
        waits_s = self._home.objects_wait_s or 0.0
        if terms.short:
            limit = (terms.timeout or 0.0) + SHORT_MARGIN_S + waits_s
            return workflow.start_local_activity(
                name,
                args=args,
                result_type=RawValue,
                start_to_close_timeout=timedelta(seconds=limit),
                retry_policy=RETRY_SOON,
            )
        limit = STEP_S_MAX if terms.timeout is None else terms.timeout + STEP_MARGIN_S + waits_s
        return workflow.start_activity(
            name,
            args=args,
            result_type=RawValue,
            start_to_close_timeout=timedelta(seconds=limit),
            heartbeat_timeout=timedelta(seconds=self._home.heartbeat_s),
            retry_policy=RETRY,
        )


def _is_lost(error: ActivityError) -> bool:
    return isinstance(error.cause, ApplicationError) and error.cause.type == LOST
