"""Executes one run: calls the pipeline's function with its journal, on a run loop, and reports its end.

Owns the local coroutine tree and nothing durable; the paths decide what an ending means.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from offramp.core.divergence import differs
from offramp.core.ending import STRUCK, ended_by, struck_by
from offramp.core.failure import failure_of
from offramp.core.leaving import OVER
from offramp.core.run import Outcome
from offramp.core.spec import as_awaitable
from offramp.errors import Divergence
from offramp.execution.body import Body
from offramp.execution.context import current
from offramp.execution.endings import ExecutionOver, aborted
from offramp.execution.lanes import RESULT_BYTES_MAX
from offramp.execution.scope import Scope
from offramp.execution.shown import missing, shown
from offramp.execution.striking import strike
from offramp.ports.commit import call_threadsafe

if TYPE_CHECKING:
    from offramp.core.spec import PipelineSpec
    from offramp.execution.loops import RunLoop, RunLoops

Ended = Callable[[Outcome, BaseException | None], object]


class Execution:
    """One run executing in this process.

    Args:
        spec: the pipeline.
        encoded_input: its arguments as a JSON object.
        scope: the journal side.
        ended: called once, on the run loop, with the outcome and the exception behind it, or the exception of a
            cancelled body; not called after a handoff.
        result_bytes_max: the limit of the encoded result.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        encoded_input: bytes,
        scope: Scope,
        ended: Ended,
        result_bytes_max: int = RESULT_BYTES_MAX,
    ) -> None:
        self._result_bytes_max = result_bytes_max
        self.spec = spec
        self.scope = scope
        scope.home = spec.function.__module__.partition(".")[0]
        self._input = encoded_input
        self._on_end: Ended | None = ended
        self._task: asyncio.Task[Any] | None = None
        self._striking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began = False

    def start(self, loops: RunLoops) -> None:
        """Begin on a run loop, soon."""
        loops.submit(self._begin)

    def _begin(self, on: RunLoop) -> asyncio.Task[None]:
        self._loop, self.scope.replay.result_order.turns = on.loop, on.turns
        task = on.loop.create_task(self._main(), name=self.scope.facts.run_id, context=contextvars.Context())
        self._task = task
        return task

    async def run(self) -> None:
        """Execute in the running task, on a loop other than a run loop."""
        await self._main()

    def _stop(self) -> None:
        """Cancel the local coroutine tree."""
        # A task cancelled before its first step never runs, and would report no end.
        if self._task is not None and self._began:
            self._task.cancel()

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call on the run's loop, unless the run has not begun there, or the loop is over."""
        if self._loop is not None:
            call_threadsafe(self._loop, function, *args)

    def end(self, outcome: Outcome) -> bool:
        """End the run with this: cancels its body, and lets only cleanup steps start. False if it ends already."""
        scope = self.scope
        is_replaying = scope.replay.began_before and (scope.replay.journal.missing > 0 or not self._began)
        if not scope.gate.end_from_outside(outcome, replays=is_replaying):
            return False
        if scope.gate.state == "detached":
            self.call(self._stop)
        else:
            self.call(self.strike)
        scope.gate.observer.ending_changed()
        return True

    def strike(self) -> None:
        """On the run's loop: strike the body of an ending run."""
        if self.scope.gate.state in OVER or self.scope.gate.state == "detached" or self._striking is not None:
            return
        if self._began and self._task is not None:  # otherwise its start does so
            striking = strike(self.scope, self._task.cancel)
            self._striking = asyncio.get_running_loop().create_task(striking, context=contextvars.Context())

    def _take_up_end(self) -> None:
        """Strike a run whose body was struck in an earlier execution, or whose end was requested before that."""
        scope = self.scope
        known = scope.replay.journal.find(STRUCK)
        if known is not None and scope.gate.ending.outcome is None:
            self.end(ended_by(struck_by(known), scope.facts.deadline_at))
        if scope.gate.ending.outcome is not None:
            # Outside the body's own context, in which a new task would count as a branch of it.
            asyncio.get_running_loop().call_soon(self.strike, context=contextvars.Context())

    async def _main(self) -> None:
        if self._task is None:
            self._task = asyncio.current_task()
        self._began = True
        self._take_up_end()
        try:
            await self._called()
        finally:
            if self._striking is not None:
                self._striking.cancel()

    async def _called(self) -> None:
        current.set(Body(self.scope))
        if self.scope.trace is not None:
            self.scope.trace.enter()
        gate, let_go = self.scope.gate, False
        try:
            if gate.state in OVER or (gate.ending.outcome is not None and not self.scope.replay.began_before):
                raise asyncio.CancelledError  # the body is not called at all
            signature = self.spec.signature
            given = list(signature.decode_input(self._input).values())
            value = await as_awaitable(signature.call(self.spec.function, given))
            self._require_no_divergence()
            encoded = signature.bounded(signature.encode_result(value), self._result_bytes_max)
            outcome, error = Outcome("completed", await self.scope.store_value(encoded, "the pipeline")), None
        except BaseException as raised:  # noqa: BLE001 - whatever the pipeline raised is its outcome
            if gate.state in OVER:
                return
            let_go = isinstance(raised, (asyncio.CancelledError, ExecutionOver))
            outcome, error = self._failed(raised)
        if self.scope.replay.diverged is not None:
            error, let_go = Divergence(f"{self.scope.replay.diverged}. {self._versions()}"), False
            outcome = Outcome("failed", error=failure_of(error))
        ending = gate.ending.outcome
        if ending is not None:  # however the pipeline reacted
            outcome, error = ending, None if let_go or not gate.ending.struck else error
        self.finish(outcome, error)

    def finish(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Report the end, once; not if a handoff, a deadline or a cancellation came first."""
        if not self.scope.move("end"):
            return
        # Dropped: it refers to the run, which refers to this; a cycle would wait for the garbage collector.
        ended, self._on_end = self._on_end, None
        if ended is not None:
            ended(outcome, error)

    def give_up(self, outcome: Outcome) -> None:
        """End the run with this at once, whatever its code does; a detached run is over here without an outcome."""
        self.finish(outcome)
        self.drop()

    def drop(self) -> bool:
        """Stop executing: the run is not written any more. False if it was over already. From any thread."""
        was_dropped = self.scope.move("drop")
        self.call(self._stop)
        return was_dropped

    def _require_no_divergence(self) -> None:
        missed = self.scope.replay.journal.unasked()
        if missed:
            more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
            raise Divergence(f"{differs(missed[0], 'returned')}{more}. {self._versions()}")

    def _versions(self) -> str:
        began, here = self.scope.facts.version, self.spec.version
        changed = "" if began == here else f" (the run began with version {began!r}, this process has {here!r})"
        return (
            f"Either the pipeline's code changed while the run was executing{changed}, or it depends on something "
            "that is not journaled (time, randomness, global state, the order of a set): use offramp.now(), uuid4() "
            "and random(), sort unordered collections, and do everything else in steps"
        )

    def _failed(self, raised: BaseException) -> tuple[Outcome, BaseException]:
        facts = self.scope.facts
        where = f"pipeline {facts.pipeline!r}"
        error = raised if isinstance(raised, Exception) else aborted(raised, f"the body of {where}")
        failure, hint = failure_of(error, function=self.spec.function), missing(error)
        if hint is not None:
            failure = msgspec.structs.replace(failure, message=f"{failure.message}: {hint}")
        outcome = Outcome("failed", error=failure)
        return outcome, shown(error, f"{where}, run {facts.run_id}")
