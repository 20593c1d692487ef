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


class Asked:
    """How often the running task has been told to cancel, when this is made."""

    __slots__ = ("_task", "_times")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._times = _delivered(self._task)

    def more(self) -> bool:
        """Whether it was told so again since."""
        return self._task is not None and self._task.cancelling() > self._times

    def elsewhere(self) -> bool:
        """Whether another task, or none, executes now: a coroutine is being closed that was thrown away."""
        try:
            return asyncio.current_task() is not self._task
        except RuntimeError:  # no loop is running
            return True


def _delivered(task: asyncio.Task[Any] | None) -> int:
    # One that was asked for and is raised at the next await only is still to come.
    return 0 if task is None else task.cancelling() - bool(getattr(task, "_must_cancel", False))


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
