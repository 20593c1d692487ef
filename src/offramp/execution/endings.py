"""What is no `Exception` and yet ends a step or a body: its own doing, or that of who cancels it.

A cancellation counts as asked for where the task was told to cancel while the step executed.
"""

from __future__ import annotations

import asyncio

from offramp.core.failure import failure_of
from offramp.errors import Aborted

_CANCELLATION = "though nothing cancelled it: what it awaited was cancelled. Catch that, and raise an Exception"
_OTHER = "which is no Exception. Catch it there, and raise an Exception that says what failed"


class ExecutionOver(BaseException):
    """Control flow: this execution is over, and the run continues elsewhere or has ended.

    A BaseException, so that `except Exception` in a pipeline cannot eat it.
    """


class Watch:
    """The task of a step, looked at before it waits for the first time: until then nothing can cancel it.

    Args:
        loop: the one that runs. To ask which does is a system call.
    """

    __slots__ = ("_before", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.task = task = asyncio.current_task(loop)
        self._before = 0 if task is None else task.cancelling()
        if self._before and getattr(task, "_must_cancel", False):
            self._before -= 1  # the last one is still to come: it is raised where the task waits next

    def asked(self) -> bool:
        """Whether the task was told to cancel since then."""
        return self.task is not None and self.task.cancelling() > self._before

    def is_left(self) -> bool:
        """Whether another task executes now, or none: a coroutine that was thrown away is being closed."""
        try:
            return asyncio.current_task() is not self.task
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
