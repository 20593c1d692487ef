"""Executes one run: calls the pipeline's function with its journal, on a run loop, and says how it ended.

Owns the local coroutine tree and nothing durable; the paths decide what an ending means.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from offramp.core.divergence import differs
from offramp.core.ending import STRUCK, ended_by, struck_by
from offramp.core.failure import failure_of
from offramp.core.run import Outcome
from offramp.core.spec import as_awaitable
from offramp.errors import Divergence
from offramp.execution.body import Body
from offramp.execution.context import current
from offramp.execution.endings import aborted
from offramp.execution.gate import Handoff
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
        ended: called once, on the run loop, with the outcome and the exception behind it, or the one that a body
            raised which was cancelled; not called after a handoff.
        result_bytes_max: of the encoded result.
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
        self._stop_requested = False
        self._began = False
        self._finished = False
        self._lock = threading.Lock()

    def start(self, loops: RunLoops) -> None:
        """Begin on a run loop, soon."""
        loops.submit(self._begin)

    def _begin(self, on: RunLoop) -> asyncio.Task[None]:
        with self._lock:
            self._loop = on.loop
            self.scope.turnstile.turns = on.turns
            task = on.loop.create_task(self._main(), name=self.scope.facts.run_id, context=contextvars.Context())
            self._task = task
            return task

    def detach(self) -> bool:
        """Let what is in flight end, and the body see nothing of it: it goes on elsewhere. False if it ended here."""
        with self._lock:
            if self._finished or self.scope.state != "stopping":
                return False
            self.scope.state = "detached"
            return True

    async def run(self) -> None:
        """Execute in the running task, on a loop that is not a run loop."""
        await self._main()

    def stop_tree(self) -> None:
        """Cancel the local coroutine tree, from any thread."""
        with self._lock:
            self._stop_requested = True
            loop = self._loop
        if loop is not None:
            call_threadsafe(loop, self._stop)

    def _stop(self) -> None:
        # A task that is cancelled before its first step never runs, and would report no end.
        if self._task is not None and self._began:
            self._task.cancel()

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call on the run's loop, unless it is over."""
        with self._lock:
            loop = self._loop
        if loop is not None:
            call_threadsafe(loop, function, *args)

    def end(self, outcome: Outcome) -> bool:
        """Have the run end so: its body is cancelled, and no step starts but to clean up. False if it ends already."""
        scope = self.scope
        with self._lock:
            if self._finished or scope.ending.outcome is not None:
                return False
            is_replaying = scope.began_before and (scope.journal.missing > 0 or not self._began)
            scope.end_from_outside(outcome, replays=is_replaying)
            if not self._began and not scope.began_before:
                self._stop_requested = True  # the body is not called at all
        if scope.state == "detached":
            self.stop_tree()
        else:
            self.call(self.strike)
        scope.ending.on_change()
        return True

    def strike(self) -> None:
        """On the run's loop, of a run that is to end: see that its body is told."""
        if self._finished or self._stop_requested or self._striking is not None:
            return
        if self._began and self._task is not None:  # else its beginning sees to it
            striking = strike(self.scope, self._task.cancel)
            self._striking = asyncio.get_running_loop().create_task(striking, context=contextvars.Context())

    def _take_up_end(self) -> None:
        """The run is to end: an earlier execution was told, or this one before its body began."""
        scope = self.scope
        known = scope.journal.find(STRUCK)
        if known is not None and scope.ending.outcome is None:
            self.end(ended_by(struck_by(known), scope.facts.deadline_at))
        if scope.ending.outcome is not None:
            # Not in the body's own context, where a new task would count as a branch of it.
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
        let_go = False
        try:
            if self._stop_requested:
                raise asyncio.CancelledError
            signature = self.spec.signature
            given = list(signature.decode_input(self._input).values())
            value = await as_awaitable(signature.call(self.spec.function, given))
            self._require_no_divergence()
            encoded = signature.bounded(signature.encode_result(value), self._result_bytes_max)
            outcome, error = Outcome("completed", await self.scope.kept(encoded, "the pipeline")), None
        except BaseException as raised:  # noqa: BLE001 - whatever the pipeline raised is its outcome
            if self.scope.state == "closed":
                return
            let_go = isinstance(raised, (asyncio.CancelledError, Handoff))
            outcome, error = self._failed(raised)
        if self.scope.diverged is not None:
            error, let_go = Divergence(f"{self.scope.diverged}. {self._versions()}"), False
            outcome = Outcome("failed", error=failure_of(error))
        ending = self.scope.ending.outcome
        if ending is not None:  # however the pipeline took it
            outcome, error = ending, None if let_go or not self.scope.ending.struck else error
        self.finish(outcome, error)

    def finish(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Report the end, once; the loser of a race with a handoff, a deadline or a cancellation says nothing."""
        with self._lock:
            if self._finished or self.scope.state in {"closed", "detached"}:
                return
            self._finished = True
            # Not kept: it refers to the run, which refers to this; a cycle would wait for the garbage collector.
            ended, self._on_end = self._on_end, None
        self.scope.close()  # tasks that the pipeline left behind start no step any more
        if ended is not None:
            ended(outcome, error)

    @property
    def finished(self) -> bool:
        """Whether the end was reported."""
        return self._finished

    def _require_no_divergence(self) -> None:
        missed = self.scope.journal.unasked()
        if missed:
            more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
            raise Divergence(f"{differs(missed[0], 'returned')}{more}. {self._versions()}")

    def _versions(self) -> str:
        began, here = self.scope.facts.version, self.spec.version
        changed = "" if began == here else f" (the run began with version {began!r}, here is {here!r})"
        return (
            f"Either the pipeline's code changed while the run was on its way{changed}, or it depends on something "
            "that is not journaled (time, randomness, global state, the order of a set): use offramp.now(), uuid4() "
            "and random(), sort what has no order, and do everything else in steps"
        )

    def _failed(self, raised: BaseException) -> tuple[Outcome, BaseException]:
        facts = self.scope.facts
        where = f"pipeline {facts.pipeline!r}"
        error = raised if isinstance(raised, Exception) else aborted(raised, f"the body of {where}")
        failure, hint = failure_of(error), missing(error)
        if hint is not None:
            failure = msgspec.structs.replace(failure, message=f"{failure.message}: {hint}")
        outcome = Outcome("failed", error=failure)
        return outcome, shown(error, f"{where}, run {facts.run_id}")
