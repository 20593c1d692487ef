"""Exceptions outside `Exception` that end a step or a body: raised by it, or by its cancellation.

A cancellation counts as requested if the task was asked to cancel while the step executed.
"""

from __future__ import annotations

import asyncio

from offramp.core.failure import failure_of
from offramp.errors import Aborted

_CANCELLATION = "though nothing cancelled it: what it awaited was cancelled. Catch that, and raise an Exception"
_OTHER = "which is not an Exception. Catch it there, and raise an Exception that says what failed"


class ExecutionOver(BaseException):
    """Control flow: this execution is over, and the run continues in another process or has ended.

    A BaseException, so that `except Exception` in a pipeline cannot catch it.
    """


class Watch:
    """The task of a step, seen before its first wait: until then nothing can cancel it.

    Args:
        loop: the running loop, which would take a system call to find.
    """

    __slots__ = ("_before", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.task = task = asyncio.current_task(loop)
        self._before = 0 if task is None else task.cancelling()
        if self._before and getattr(task, "_must_cancel", False):
            self._before -= 1  # the last one is pending: it is raised at the next wait of the task

    def asked(self) -> bool:
        """Whether the task was asked to cancel since then."""
        return self.task is not None and self.task.cancelling() > self._before

    def is_left(self) -> bool:
        """Whether another task executes now, or none: an abandoned coroutine is being closed."""
        try:
            return asyncio.current_task() is not self.task
        except RuntimeError:  # no loop is running
            return True


def is_cancellation(error: BaseException) -> bool:
    """Whether it consists of cancellations alone."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_cancellation, error.exceptions))
    return isinstance(error, asyncio.CancelledError)


def aborted(error: BaseException, what: str) -> Aborted:
    """The exception to raise instead; `what` names the step or the body."""
    message = failure_of(error).message
    made = Aborted(f"{what} ended with {message}, {_CANCELLATION if is_cancellation(error) else _OTHER}")
    made.__cause__ = error
    return made.with_traceback(error.__traceback__)
