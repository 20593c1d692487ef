"""Code that continues after its step is over: counts it, logs the line where it stands, and reports it to probes.

Reports only, and decides nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any

from offramp.execution.stacks import is_user_code, stack_of
from offramp.execution.threads import Threads
from offramp.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt

logger = logging.getLogger("offramp")

LINES_MAX = 5
"""The most lines of held threads that a log line and `/readyz` name; lines with the most threads come first."""
_CLOSED = "its coroutine was closed there: let CancelledError pass, and keep awaits after it short"
_HELD = (
    "its thread cannot be stopped: give the client that it calls a timeout of its own, or check current_run().cancelled"
)


class Leftovers:
    """The leftovers of one process.

    Args:
        threads: its threads for plain steps.
        metrics: counts them.
        grace_s: seconds after which they are reported.
        elsewhere: calls on a thread that may wait for the log.
    """

    def __init__(self, threads: Threads, metrics: Metrics, grace_s: float, elsewhere: Callable[..., object]) -> None:
        self._threads = threads
        self._metrics = metrics
        self._grace_s = grace_s
        self._elsewhere = elsewhere
        self._is_short = False
        metrics.threads_held(lambda: len(threads.held))
        threads.changed = self._held_changed

    def abandoned(self, attempt: Attempt, code: Coroutine[Any, Any, Any] | int) -> None:
        """Count code that continues, and log where it stands."""
        if isinstance(code, int):
            self._elsewhere(self._report, attempt, line_of_thread(code), _HELD)
        else:
            self._report(attempt, line_of(_frames(code)), _CLOSED)

    def _report(self, attempt: Attempt, line: str, cure: str) -> None:
        facts, step = attempt.scope.facts, attempt.call.name
        self._metrics.abandoned(facts.pipeline, step)
        logger.warning(
            "%s: attempt %d of step %r still runs %g s after its timeout or cancellation, at %s; %s",
            facts.run_id,
            attempt.number,
            step,
            self._grace_s,
            line,
            cure,
            extra={"run_id": facts.run_id, "pipeline": facts.pipeline, "step": step, "attempt": attempt.number},
        )

    def shortage(self) -> str | None:
        """The reason why plain steps wait for threads that will not return by themselves; None if enough are left."""
        if not self._threads.is_short:
            return None
        held = self._threads.held
        lines = Counter(f"{line_of_thread(place.thread_id)} (step {place.step!r})" for place in held)
        named = "; ".join(f"{count} at {line}" for line, count in lines.most_common(LINES_MAX))
        more = len(lines) - LINES_MAX
        return (
            f"{len(held)} threads are held by steps that timed out or were cancelled, and no more are started for "
            f"others: {named}{f'; and {more} other lines' if more > 0 else ''}. Give the clients that these call "
            "timeouts of their own"
        )

    def _held_changed(self) -> None:
        self._elsewhere(self._look)

    def _look(self) -> None:
        shortage = self.shortage()
        if (shortage is not None) == self._is_short:
            return
        self._is_short = shortage is not None
        if shortage is None:
            logger.warning("enough threads are free again: %d are held", len(self._threads.held))
        else:
            logger.error("%s", shortage)


def line_of_thread(thread_id: int) -> str:
    """The line where a thread stands now."""
    return line_of(stack_of(thread_id))


def line_of(frames: list[FrameType]) -> str:
    """`file:line in function` of the innermost user code in these, or of the innermost code without any.

    Args:
        frames: the innermost last.
    """
    mine = [frame for frame in frames if is_user_code(frame.f_code.co_filename)] or frames
    if not mine:
        return "a line that has left its stack"
    code = mine[-1].f_code
    return f"{code.co_filename}:{mine[-1].f_lineno} in {code.co_name}"


def _frames(coroutine: Any) -> list[FrameType]:
    """The frames of suspended code: a coroutine, and the coroutines it awaits."""
    found: list[FrameType] = []
    while coroutine is not None:
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(coroutine, f"{prefix}_frame", None)
            if frame is not None:
                found.append(frame)
                break
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return found
