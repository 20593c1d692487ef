"""Executes one run: calls the pipeline's function with its journal, on a run loop, and says how it ended.

Owns the local coroutine tree and nothing durable; the paths decide what an ending means.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from offramp.core.failure import annotate, failure_of
from offramp.core.run import Outcome
from offramp.errors import Divergence, RunCancelled
from offramp.execution.body import Body
from offramp.execution.context import current
from offramp.execution.lanes import RESULT_BYTES_MAX
from offramp.execution.scope import Scope
from offramp.ports.commit import call_threadsafe

if TYPE_CHECKING:
    from offramp.core.spec import PipelineSpec
    from offramp.execution.loops import RunLoop, RunLoops

Ended = Callable[[Outcome, BaseException | None], object]
_OWN = str(Path(__file__).resolve().parent.parent)


class Execution:
    """One run executing in this process.

    Args:
        spec: the pipeline.
        encoded_input: its arguments as a JSON object.
        scope: the journal side.
        ended: called once, on the run loop, with the outcome and the exception behind it; not called after a
            handoff.
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
        self._task: asyncio.Task[None] | None = None
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
            self._task = on.loop.create_task(self._main(), name=self.scope.facts.run_id)
            return self._task

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

    def cancel(self) -> None:
        """End the run `cancelled`: steps are cancelled, none starts any more."""
        self.scope.facts.cancelled = True
        self.scope.stop_at_boundary()
        self.stop_tree()

    async def _main(self) -> None:
        self._began = True
        current.set(Body(self.scope))
        if self.scope.trace is not None:
            self.scope.trace.enter()
        try:
            if self._stop_requested:
                raise asyncio.CancelledError
            signature = self.spec.signature
            value = await signature.call(self.spec.function, list(signature.decode_input(self._input).values()))
            self._require_no_divergence()
            encoded = signature.bounded(signature.encode_result(value), self._result_bytes_max)
            outcome, error = Outcome("completed", await self.scope.kept(encoded, "the pipeline")), None
        except BaseException as raised:  # noqa: BLE001 - whatever the pipeline raised is its outcome
            if self.scope.state == "closed":
                return
            outcome, error = self._failed(raised), raised
        if self.scope.diverged is not None:
            error = Divergence(f"{self.scope.diverged}. {self._versions()}")
            outcome = Outcome("failed", error=failure_of(error))
        if self.scope.facts.cancelled:  # however the pipeline took it
            outcome, error = Outcome("cancelled", error=failure_of(RunCancelled("the run was cancelled"))), None
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
            first = missed[0]
            raise Divergence(
                f"the journal holds {len(missed)} finished step(s) that this replay did not ask for; the first is "
                f"{first.name!r} ({first.key}). {self._versions()}"
            )

    def _versions(self) -> str:
        began, here = self.scope.facts.version, self.spec.version
        changed = "" if began == here else f" (the run began with version {began!r}, here is {here!r})"
        return (
            f"Either the pipeline's code changed while the run was on its way{changed}, or it depends on something "
            "that is not journaled (time, randomness, global state): use offramp.now(), uuid4() and random(), and do "
            "everything else in steps"
        )

    def _failed(self, error: BaseException) -> Outcome:
        facts = self.scope.facts
        _show_to_user(error, f"pipeline {facts.pipeline!r}, run {facts.run_id}")
        return Outcome("failed", error=failure_of(error))


def _show_to_user(error: BaseException, where: str) -> None:
    """Say in a note where an exception comes from, and take the runtime's own frames out of its traceback."""
    step, attempt = getattr(error, "__offramp_step__", (None, 1))
    error.with_traceback(_user_traceback(error.__traceback__))
    annotate(error, f"in {where}" if step is None else f"in step {step!r} (attempt {attempt}) of {where}")
    if isinstance(error, BaseExceptionGroup):
        for cause in error.exceptions:
            _show_to_user(cause, where)


def _user_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of the runtime itself; unchanged if nothing else would be left."""
    frames = []
    step = traceback
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(_OWN):
            frames.append(step)
        step = step.tb_next
    kept: TracebackType | None = None
    for frame in reversed(frames):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept or traceback
