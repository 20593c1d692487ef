"""Drives the coroutine of an async step in the task that calls it, and lets go of one that will not be cancelled.

The task stays the step's own, so whatever asks for `asyncio.current_task()` works; a step that never waits costs no
more than a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from offramp.execution.attempt import Attempt
from offramp.execution.context import current
from offramp.ports.commit import call_threadsafe

if TYPE_CHECKING:
    from offramp.ports.clock import Clock

Work = Coroutine[Any, Any, Any]


class RunTask(asyncio.Task[Any]):
    """A task of a run, which counts how often it was cancelled by others than the step that executes in it.

    A step's own `asyncio.timeout`, task group or cancel scope cancels the task too; that is between the step and them.
    """

    asked = 0

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel, as every task."""
        if not isinstance(current.get(), Attempt):
            self.asked += 1
        return super().cancel(msg)


def begin(made: Awaitable[Any]) -> Any:
    """Execute a step's code as far as it goes without waiting: what it returns, or `Begun`."""
    work: Work = made if inspect.iscoroutine(made) else _awaited(made)
    try:
        return Begun(work, work.send(None))
    except StopIteration as ended:
        return ended.value


class Begun(NamedTuple):
    """A step's code that waits for something."""

    work: Work
    waits_for: Any

    async def rest(self, attempt: Attempt, grace_s: float, gives_up: Callable[[Attempt, Work], object]) -> Any:
        """What it returns.

        Args:
            attempt: which this is.
            grace_s: seconds it may go on after a cancellation.
            gives_up: told of code that did not end by then; it is closed after that.

        Raises:
            CancelledError: it was cancelled, whatever it made of that.
            Exception: what it raised.
        """
        token = current.set(attempt)
        try:
            return await self._rest(attempt, grace_s, gives_up)
        finally:
            current.reset(token)

    async def _rest(self, attempt: Attempt, grace_s: float, gives_up: Callable[[Attempt, Work], object]) -> Any:
        work, task = self.work, asyncio.current_task()
        before = _asked(task)
        try:
            is_over, value = await _followed(work, self.waits_for, task, before)
        except Exception as error:
            if _asked(task) == before:
                raise
            raise asyncio.CancelledError from error
        if _asked(task) == before:
            return value
        if not is_over and not await _ends(work, value, attempt.clock, grace_s):
            gives_up(attempt, work)
            with contextlib.suppress(BaseException):  # whatever it does about that is of no interest any more
                work.close()
        raise asyncio.CancelledError


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


def _asked(task: asyncio.Task[Any] | None) -> int:
    if isinstance(task, RunTask):
        return task.asked
    return 0 if task is None else task.cancelling()


@types.coroutine
def _followed(
    work: Work, waits_for: Any, task: asyncio.Task[Any] | None, before: int
) -> Generator[Any, Any, tuple[bool, Any]]:
    """Follow the code to its end: true and its result. If it goes on after a cancellation: false and what it awaits."""
    try:
        while _asked(task) == before:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - passed on
                waits_for = work.throw(error)
            else:
                waits_for = work.send(sent)
    except StopIteration as ended:
        return True, ended.value
    return False, waits_for


async def _ends(work: Work, waits_for: Any, clock: Clock, grace_s: float) -> bool:
    """Let cancelled code go on; whether it ends within the grace."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = clock.call_at(clock.monotonic() + grace_s, lambda: call_threadsafe(loop, _set, over))
    try:
        while True:
            try:
                if waits_for is None:
                    await asyncio.sleep(0)
                else:
                    # What a task does for what it waits for; here the end of the grace is waited for, too.
                    waits_for._asyncio_future_blocking = False  # noqa: SLF001 - the protocol of futures and tasks
                    await asyncio.wait((waits_for, over), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError as again:
                if waits_for is None or not waits_for.cancel():
                    waits_for = work.throw(again)
                continue
            if over.done() and (waits_for is None or not waits_for.done()):
                return False
            waits_for = work.send(None)
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - also StopIteration: it has returned
        return True
    finally:
        timer.cancel()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
