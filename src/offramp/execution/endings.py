"""What is no `Exception` and yet ends a step or a body: its own doing, or that of who cancels it.

A cancellation counts as asked for where the task was told to cancel while the step executed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from offramp.core.failure import failure_of
from offramp.errors import Aborted

_CANCELLATION = "though nothing cancelled it: what it awaited was cancelled. Catch that, and raise an Exception"
_OTHER = "which is no Exception. Catch it there, and raise an Exception that says what failed"


def asked_before(task: asyncio.Task[Any] | None) -> int:
    """How often a task was told to cancel, of what it has been told by now."""
    times = 0 if task is None else task.cancelling()
    # The last one may still be to come: it is raised where the task waits next.
    return times - bool(getattr(task, "_must_cancel", False)) if times else 0


def asked_since(task: asyncio.Task[Any] | None, before: int) -> bool:
    """Whether it was told so again, since it was `before` times."""
    return task is not None and task.cancelling() > before


def is_closed_by_another(task: asyncio.Task[Any] | None) -> bool:
    """Whether another task than this one executes now, or none: a coroutine that was thrown away is being closed."""
    try:
        return asyncio.current_task() is not task
    except RuntimeError:  # no loop is running
        return True


def is_cancellation(error: BaseException) -> bool:
    """Whether it is nothing but cancellation."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_cancellation, error.exceptions))
    return isinstance(error, asyncio.CancelledError)


def aborted(error: BaseException, what: str) -> Aborted:
    """What is raised instead; `what` names the step or the body."""
    said = failure_of(error).message
    made = Aborted(f"{what} ended with {said}, {_CANCELLATION if is_cancellation(error) else _OTHER}")
    made.__cause__ = error
    return made.with_traceback(error.__traceback__)
