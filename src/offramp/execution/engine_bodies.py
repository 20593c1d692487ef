"""A body that an engine executes in any process: the engine also picks a process for each of its steps.

The journal side is that of all executions (`Scope`); nothing here touches threads, the store or the wall clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from offramp.core.attempts import Failed
from offramp.core.ending import STRUCK, EndedBy, ended_by
from offramp.core.failure import exception_of, failure_of
from offramp.core.run import Outcome
from offramp.errors import BodyNotRepeatable
from offramp.execution.body_loop import give_body_timers
from offramp.execution.ending import log_failure
from offramp.execution.history import history_of
from offramp.execution.making import fail, first
from offramp.execution.notes import Notes
from offramp.execution.observer import Observer
from offramp.execution.run_facts import RunFacts
from offramp.execution.runner import Execution
from offramp.execution.scope import Scope
from offramp.execution.steps import Steps
from offramp.execution.turns import Turns
from offramp.ports.bodies import BodyExecution, BodyRuntime, Facts, Known, StepCall
from offramp.ports.store import Lease

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.core.spec import PipelineSpec
    from offramp.execution.attempt import Executing
    from offramp.ports.clock import Timer
    from offramp.telemetry.metrics import Metrics
    from offramp.telemetry.run_trace import RunTrace

_WAITED_FOR = {"step", "sleep", "signal"}
BOUND_AFTER_TURNS = 50
"""Loop turns that an ending body gets before it costs a timer."""
_LOOP_METHODS = "asyncio/events.py"


class _Counted:
    """The metrics of a body, which may fail the same step in every repetition."""

    def __init__(self, metrics: Metrics, runtime: BodyRuntime) -> None:
        self._metrics = metrics
        self._runtime = runtime

    def step(self, pipeline: str, step: str, outcome: Literal["completed", "failed"]) -> None:
        if not self._runtime.repeats:
            self._metrics.step(pipeline, step, outcome)


class RemoteSteps(Steps):
    """Steps in processes that the engine picks: one call of the runtime returns the recorded end of a step."""

    keeps_timers = True
    permits = None

    def __init__(self, runtime: BodyRuntime) -> None:
        self._runtime = runtime

    @property
    def repeats(self) -> bool:
        """Whether the engine repeats the body up to its last position."""
        return self._runtime.repeats

    async def execute(self, scope: Executing, call: Call) -> Any:
        """The result of a step that the engine executes."""
        attempt = await first(scope, call)
        if isinstance(attempt, Failed):
            raise attempt.error
        number, decides = attempt.number, attempt.call is not call
        await scope.gate.enter(attempt)
        at = scope.clock.time()
        failed: Failed | None = None
        try:
            asked = StepCall(call.name, call.key, number, decides, attempt.cleans_up)
            entry = await self._runtime.step(asked, call.arguments)
        except Exception as error:  # noqa: BLE001 - it was not executed
            failed = fail(scope, call, number, error, at, 0.0)
        finally:
            scope.leave(attempt)
        if failed is not None:
            raise failed.error
        scope.replay.journal.add(msgspec.structs.replace(entry, value=None))  # a body never asks for a new entry
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return call.codec.decode_result(entry.value or b"null")

    async def in_order(self) -> None:
        """Wait for the writes of all earlier records: a step writes its entry in its own process."""
        await self._runtime.written()

    @contextlib.contextmanager
    def traced_wait(self, scope: Executing, what: str) -> Iterator[None]:
        """A wait, recorded once it has ended: no span could stay open while the engine drops the body."""
        began, over = scope.clock.time(), False
        try:
            yield
            over = True
        finally:
            if not self._runtime.repeats:
                self._runtime.waited(what, began, over=over)


def _scope_of(
    facts: Facts, known: Known, runtime: BodyRuntime, metrics: Metrics, trace: RunTrace | None, observer: Observer
) -> Scope:
    """The journal side of a body whose steps the engine executes, on the running loop."""
    history = history_of(known)
    notes = Notes(Lease(facts.run_id, "", 0), runtime.record)
    counted = cast("Metrics", _Counted(metrics, runtime))
    run, clock, loop = RunFacts.deep(facts, runtime.clock), runtime.clock, asyncio.get_running_loop()
    scope = Scope(run, notes, RemoteSteps(runtime), clock, history, counted, trace=trace, observer=observer)
    scope.replay.result_order.turns = Turns(loop)
    scope.replay.result_order.branch()  # this loop does not report tasks that a body begins
    if runtime.keeps_timers:
        give_body_timers(loop)
    return scope


class EngineBody(BodyExecution, Observer):
    """One execution of a pipeline's body; starts with its construction, in the running loop."""

    def __init__(
        self,
        spec: PipelineSpec,
        facts: Facts,
        encoded_input: bytes,
        known: Known,
        runtime: BodyRuntime,
        metrics: Metrics,
        *,
        result_bytes_max: int,
        cancel_grace_s: float,
        trace: RunTrace | None,
    ) -> None:
        self._facts = facts
        self._scope = _scope_of(facts, known, runtime, metrics, trace, self)
        self._cancel_grace_s = cancel_grace_s
        self._timers: list[Timer] = []
        self._outcome: Outcome | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._execution = Execution(spec, encoded_input, self._scope, self._ended, result_bytes_max)
        self._task = asyncio.get_running_loop().create_task(
            self._execution.run(), name=facts.run_id, context=contextvars.Context()
        )
        self._task.add_done_callback(self._stop_waiting)

    @property
    def over(self) -> bool:
        """Whether it has ended, or was cut. From any thread."""
        return self._over.done()

    def _stop_waiting(self, _task: object = None) -> None:
        for timer in self._timers:
            timer.cancel()
        if not self._over.done():
            self._over.set_result(None)

    def _ended(self, outcome: Outcome, error: BaseException | None) -> None:
        self._outcome = outcome
        if self._scope.gate.ending.outcome is not None:
            if error is not None and not self._scope.steps.repeats:
                log_failure(self._facts.run_id, outcome, error)
        elif (misused := _misused(error)) is not None:
            unrepeatable = BodyNotRepeatable(
                f"the body of pipeline {self._facts.pipeline!r} used {misused}, which cannot be repeated: move what "
                "needs it (threads, sockets, files, subprocesses) into a step"
            )
            at = None if error is None else error.__traceback__
            self._outcome = Outcome("failed", error=failure_of(unrepeatable.with_traceback(at)))
        self._stop_waiting()

    async def ended(self) -> Outcome | None:
        """Wait for the outcome; None if `cut` ended it instead."""
        await asyncio.wait([self._over])
        return self._outcome

    def signals(self, received: Sequence[tuple[str, bytes]]) -> None:
        """Pass on the signals of the run."""
        self._scope.waits.mailbox.put(received)

    def cancel(self) -> None:
        """End it `cancelled`."""
        self._end("cancelled")

    def expire(self) -> None:
        """End it `expired`."""
        self._end("expired")

    def _end(self, status: EndedBy) -> None:
        if self._execution.end(ended_by(status, self._facts.deadline_at)):
            self._execution.strike()

    def ending_changed(self) -> None:
        """Bound an ending body, unless it ends in a few turns: a timer would be in its history."""
        self._scope.replay.result_order.turns.after(BOUND_AFTER_TURNS, self._bound)

    def _bound(self) -> None:
        ending, clock = self._scope.gate.ending, self._scope.clock
        due = ending.until(self._cancel_grace_s)
        if self.over or ending.outcome is None:
            return
        if due <= clock.monotonic():
            self.give_up()
        elif ending.cleanups or ending.outcome.status == "expired":  # the engine has a timer for a cancellation
            self._timers.append(clock.call_at(due, self._bound))

    def give_up(self) -> None:
        """End it with the requested outcome, whatever its code does, unless it cleans up."""
        ending = self._scope.gate.ending
        if self.over or ending.outcome is None or ending.until(self._cancel_grace_s) > self._scope.clock.monotonic():
            return
        self._execution.finish(ending.outcome)
        self._task.cancel()

    def stop_at_boundary(self) -> None:
        """Let no further step start."""
        self._scope.move("leave")

    def seen(self) -> list[str]:
        """The keys of the results that it saw, in order."""
        journal = self._scope.replay.journal
        new = journal.entries[journal.replayable :]
        return [entry.key for entry in new if entry.kind in _WAITED_FOR or entry.key == STRUCK]

    def cut(self) -> bool:
        """End it without an outcome unless a step is under way."""
        if not self._scope.move("give_back"):
            return False
        self._task.cancel()
        return True


def _misused(error: BaseException | None) -> str | None:
    """The method missing in the engine's loop with which a body failed, if it did."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for cause in error.exceptions if (found := _misused(cause))), None)
    if not isinstance(error, NotImplementedError):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    inside = last is not None and last.filename.replace("\\", "/").endswith(_LOOP_METHODS)
    return f"{last.name}() of its event loop" if last is not None and inside else None
