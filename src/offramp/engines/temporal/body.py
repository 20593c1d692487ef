"""The workflow: a pipeline's body, called by Temporal. Named after the pipeline, it schedules steps and nothing else.

Runs in Temporal's deterministic loop, without its sandbox (docs/contributing/decisions/0009). It writes records of the
run by local activities, in order. Work that it must not repeat is in the journal that it begins with, or in Temporal's
history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from offramp.core.events import Draft, key_in
from offramp.core.failure import failure_of
from offramp.core.journal import TAKEN, TIMER, Entry, mark
from offramp.core.run import Outcome
from offramp.engines.temporal.anew import Strayed
from offramp.engines.temporal.clock import WorkflowClock
from offramp.engines.temporal.exits import outlast_exits
from offramp.engines.temporal.held import DELIVERED, GO, HeldSteps
from offramp.engines.temporal.home import Home, home_of
from offramp.engines.temporal.known import (
    BEGIN,
    FINISH,
    FINISH_LARGE,
    RECORD,
    RETRY_SOON,
    VALUE,
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
    answered,
    failure_in,
    raw,
    read,
    require_fit,
    value_in,
)
from offramp.errors import ObjectLost
from offramp.ports.bodies import PAYLOAD_BYTES_MAX, BodyExecution, BodyRuntime, Known, StepCall, StepTerms

WAKE = "offramp.wake"
"""The signal on which a body looks for signals sent to its run."""
LOST = "LeaseLost"
"""Error type of a local activity or step whose run this workflow has lost."""

WAITS = "Waits"
"""Error type of a local activity whose step has to wait before it begins: it is scheduled as another activity."""

STEP_MARGIN_S = 300.0
"""The extra time of a step's activity beyond the step's own timeout, which counts from the start of its code."""
STEP_S_MAX = 10 * 365 * 86_400.0
"""The timeout of an activity whose step has none; missed heartbeats reveal a dead worker."""
SHORT_MARGIN_S = 5.0
DRAWN_MAX = 100
"""The most values of the body that a step's activity carries; more are recorded before it."""
RETRY = RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_interval=timedelta(seconds=30))
"""The retry policy of failures outside a step's own code, such as an unavailable store; a step's own retries name their
delays."""
T = TypeVar("T")


@workflow.defn(dynamic=True)
class PipelineWorkflow:
    """The workflow of every pipeline, whose name is the workflow's type."""

    def __init__(self) -> None:
        self._woken = 0
        self._may_go = False
        self._delivered = 0
        self._cancelled = False
        self._start: Start
        self._input = b""

    @workflow.signal(name=WAKE)
    def wake(self) -> None:
        """The run was sent a signal."""
        self._woken += 1

    @workflow.signal(name=GO)
    def go(self) -> None:
        """The engine owns the run."""
        self._may_go = True

    @workflow.signal(name=DELIVERED)
    def delivered(self) -> None:
        """A step in flight in the gateway has ended."""
        self._delivered += 1

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> str:
        """Execute the body; returns the run's status, as the result is in the store and not in history."""
        home = home_of.get()
        outlast_exits(asyncio.get_running_loop())
        self._start = read(args[0], Start)
        start, held = self._start, HeldSteps(self._start.held, home.heartbeat_s, local, lambda: self._delivered)
        if start.held is not None and start.part is None and not start.anew:
            await self._unbroken(held.let_go(lambda: self._may_go))
        begun = await self._unbroken(local(BEGIN, Begin(start.fresh, start.part, start.held, start.seen), Begun))
        if begun.over:
            return "over"
        self._cancelled = self._cancelled or begun.cancel
        try:
            self._input = value_in(args[1])
            known = await self._unbroken(whole(begun))
            known = msgspec.structs.replace(known, elsewhere=held.keys)
        except ObjectLost as error:
            outcome = Outcome("failed", error=failure_of(error))
            return await self._finish(End(Notes(begun.token), outcome, begun.part))
        runtime = _Outside(home, start, begun, len(known.entries), held)
        playing = home.host.play(start.facts, self._input, known, runtime, begun.part)
        ended = await self._play(home, playing, runtime, known)
        if ended is None:
            return "taken over"
        notes = Notes(begun.token, await self._unbroken(runtime.rest()))
        return await self._finish(End(notes, ended, begun.part))

    async def _finish(self, end: End) -> str:
        result, status = end.outcome.result, end.outcome.status
        if result is None or len(result) <= PAYLOAD_BYTES_MAX:
            await self._unbroken(local(FINISH, [end], type(None)))
        else:
            end = msgspec.structs.replace(end, outcome=msgspec.structs.replace(end.outcome, result=None))
            await self._unbroken(local(FINISH_LARGE, [end, raw(result, by_name=True)], type(None)))
        return status

    async def _play(self, home: Home, playing: BodyExecution, runtime: _Outside, known: Known) -> Outcome | None:
        """Wait for the body's end, and pass on signals and cancellations meanwhile."""
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
            runtime.look()
            return (
                end.done()
                or runtime.lost
                or runtime.broken is not None
                or self._woken > looked
                or (self._cancelled and not told)
                or (runtime.under_way == 0 if stopping else full())
            )

        try:
            while not end.done():
                await self._unbroken(workflow.wait_condition(look))
                if runtime.lost:
                    return None
                if runtime.broken is not None:
                    return Outcome("failed", error=failure_of(runtime.broken))
                if self._cancelled and not told:
                    told = True
                    playing.cancel()
                    timers.append(loop.call_later(home.cancel_grace_s, playing.give_up))
                if self._woken > looked:
                    looked = self._woken
                    received += await self._unbroken(signals_after(len(received)))
                    playing.signals(received)
                if stopping and not end.done() and runtime.under_way == 0 and playing.cut():
                    await self._go_on_anew(runtime, playing)
                elif full() and not stopping:
                    stopping = True
                    playing.stop_at_boundary()
            return end.result()
        finally:
            for timer in timers:
                timer.cancel()

    async def _go_on_anew(self, runtime: _Outside, playing: BodyExecution) -> None:
        """Begin a new history: the journal holds the results of this one."""
        rest = await self._unbroken(runtime.rest())
        if rest:
            await self._unbroken(runtime.put(rest))
        seen = [mark(key) for key in playing.seen()] if runtime.parallel else []
        goes_on = {"fresh": False, "part": runtime.part, "seen": seen, "anew": False}
        start = msgspec.structs.replace(self._start, **goes_on, keyed=True, timers=True)
        workflow.continue_as_new(args=[start, raw(self._input)])

    async def _unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that a cancellation of the workflow must not interrupt; the body receives the cancellation."""
        task = asyncio.get_running_loop().create_task(work)
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                self._cancelled = True
        return task.result()


class _Outside(BodyRuntime):
    """The runtime of a body: activities, timers, and the run's log through local activities."""

    def __init__(self, home: Home, start: Start, begun: Begun, replayed_steps: int, held: HeldSteps) -> None:
        self.token = begun.token
        self.part = begun.part
        self.lost = False
        self.broken: ObjectLost | None = None
        """The error of the missing object that stops the run."""
        self.under_way = 0
        self.parallel = False
        self._home = home
        self._facts = start.facts
        self._keyed = start.keyed
        self._anew = start.anew  # a worker of the last history may be at any step
        self._writes = 0
        self.keeps_timers = start.timers
        self._held = held
        self._steps = replayed_steps
        self._clock = WorkflowClock()
        # A short step is executed again without a trace in history only after the loss of a workflow task: the
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
        """Report once that this process continues the run, if another process began it."""
        if self._rebuilt and not self.repeats:
            self._rebuilt = False
            self._home.resumed(self._facts, self.token, self._steps, self.part)

    def record(self, entry: Entry | None, event: Draft | None) -> None:
        """Write an event or a timer's end soon, after all earlier records."""
        self._pending.append((entry, event))
        seen = entry is not None and entry.name in {TIMER, TAKEN}  # before the steps that depend on it
        self.parallel |= seen
        if (event is not None or seen) and self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    def waited(self, what: str, began: float, *, over: bool) -> None:
        """Record a wait of the body that ends now."""
        if self.part is not None:
            self._home.host.waited(self._facts, self.part, what, began, over=over)

    async def _write(self) -> None:
        try:
            while self._pending:
                written, self._pending = self._pending, []
                await self.put(written)
        except ActivityError as error:
            if not _is_lost(error):
                raise
            self.lost = True
        finally:
            self._writing = None

    async def put(self, notes: list[tuple[Entry | None, Draft | None]]) -> None:
        """Write the records of the body; a replay has to make the same."""
        self._writes += 1
        made = " ".join(entry.key if entry is not None else key_in(event) for entry, event in notes)
        what = f"{RECORD}:{self._writes}:{mark(made)}" if self._keyed else None
        await local(RECORD, Notes(self.token, notes), type(None), what)

    async def written(self) -> None:
        """Write all records of the body so far."""
        if self._pending and self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def rest(self) -> list[tuple[Entry | None, Draft | None]]:
        """The unwritten records, once no write is under way."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        return self._pending

    async def step(self, call: StepCall, arguments: bytes) -> Entry:
        """Schedule the step with Temporal."""
        if self._home.objects_wait_s is None:
            require_fit(arguments, f"step {call.name!r}: its arguments")
        terms = self._home.host.terms(call.name)
        if terms is None:
            raise AssertionError(f"step {call.name!r} is called by the pipeline, but this worker does not declare it")
        self.under_way += 1
        self.parallel |= self.under_way > 1
        try:
            held = call.key in self._held
            delivered = await self._held.outcome(call.key, self.token) if held else None
            if delivered is not None:
                self._steps += 1
                return await with_value(delivered, f"{VALUE}:{call.key}" if self._keyed else None)
            first = (self._first or not terms.short) and not held and not self._anew
            drawn = await self._drawn()
            ticket = Ticket(
                self.token,
                call.key,
                call.attempt,
                call.decides,
                first,
                opens=self._steps == 0,
                part=self.part,
                drawn=drawn,
                cleans_up=call.cleans_up,
            )
            value = await self._made(call, terms, raw(arguments), ticket)
            await self._require_answer(call, answered(value))
            self._steps += 1
            written = {entry.key for entry in drawn}
            self._pending = [made for made in self._pending if made[0] is None or made[0].key not in written]
            return Entry(call.key, call.name, "step", value_of_step(call.name, value))
        except (ActivityError, ApplicationError) as error:  # a local activity's own error is raised unwrapped
            if is_cancelled_exception(error):
                raise asyncio.CancelledError from error
            cause = error.cause if isinstance(error, ActivityError) else error
            if _is_lost(error):
                self.lost = True
                await asyncio.get_running_loop().create_future()  # the workflow ends instead
            if not isinstance(cause, ApplicationError) or not cause.details:
                raise
            await self._require_answer(call, str(cause.details[1]) if len(cause.details) > 1 else "")
            return Entry(call.key, call.name, "step", None, failure_in(cause.details[0]))
        except ObjectLost as error:
            self.broken = error
        finally:
            self.under_way -= 1
        await asyncio.get_running_loop().create_future()  # the workflow ends instead
        raise AssertionError("a run continued without its finished steps")

    async def _drawn(self) -> list[Entry]:
        """The values recorded with the next step, so that the journal suffices for a restart."""
        while self._keyed and len(self._pending) > DRAWN_MAX:  # the oldest histories lack these writes
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._write())
            await asyncio.wait([self._writing])
        return [entry for entry, event in self._pending if entry is not None and event is None]

    async def _require_answer(self, call: StepCall, answers: str) -> None:
        """Check that the result which history has in this place answers this call."""
        if answers and answers != call.key:
            info = workflow.info()
            why = f"it calls {call.key} where history has the answer to {answers}"
            self._home.strayed(Strayed(info.workflow_id, info.run_id, why))
            await asyncio.get_running_loop().create_future()  # the body must not use it

    async def _made(self, call: StepCall, terms: StepTerms, arguments: RawValue, ticket: Ticket) -> RawValue:
        if terms.short:
            try:
                here: RawValue = await self._scheduled_here(call, terms, [arguments, ticket])
            except (ActivityError, ApplicationError) as error:
                if _type_of(error) != WAITS:
                    raise
            else:
                return here
            ticket = msgspec.structs.replace(ticket, first=False, opens=False)
        value: RawValue = await self._scheduled(call, terms, [arguments, ticket])
        return value

    def _scheduled_here(self, call: StepCall, terms: StepTerms, args: list[Any]) -> Any:
        waits_s = self._home.cancel_grace_s + (self._home.objects_wait_s or 0.0)
        limit = (terms.timeout or 0.0) + SHORT_MARGIN_S + waits_s
        return workflow.start_local_activity(
            call.name,
            args=args,
            activity_id=call.key if self._keyed else None,
            result_type=RawValue,
            start_to_close_timeout=timedelta(seconds=limit),
            retry_policy=RETRY_SOON,
        )

    def _scheduled(self, call: StepCall, terms: StepTerms, args: list[Any]) -> Any:
        waits_s = self._home.cancel_grace_s + (self._home.objects_wait_s or 0.0)
        limit = STEP_S_MAX if terms.timeout is None else terms.timeout + STEP_MARGIN_S + waits_s
        return workflow.start_activity(
            call.name,
            args=args,
            activity_id=call.key if self._keyed else None,
            result_type=RawValue,
            start_to_close_timeout=timedelta(seconds=limit),
            heartbeat_timeout=timedelta(seconds=self._home.heartbeat_s),
            retry_policy=RETRY,
        )


def _is_lost(error: ActivityError | ApplicationError) -> bool:
    return _type_of(error) == LOST


def _type_of(error: ActivityError | ApplicationError) -> str | None:
    cause = error.cause if isinstance(error, ActivityError) else error
    return cause.type if isinstance(cause, ApplicationError) else None
