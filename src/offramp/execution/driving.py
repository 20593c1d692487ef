"""Drives the coroutine of an async step in the task that calls it, and lets go of one that will not be cancelled.

It has a context of its own there, but the task is its caller's: another one would cost several times as much, and what
a step awaits takes the running task for its own. A step that never waits costs no more than a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
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


def begin(context: Context, made: Awaitable[Any]) -> Any:
    """Execute a step's code as far as it goes without waiting: what it returns, or `Begun`."""
    work: Work = made if inspect.iscoroutine(made) else _awaited(made)
    try:
        return Begun(context.run, work, context.run(work.send, None))
    except StopIteration as ended:
        return ended.value


class Begun(NamedTuple):
    """A step's code that waits for something; `run` calls in its context."""

    run: Callable[..., Any]
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
        task = asyncio.current_task()
        before = _asked(task)
        try:
            is_over, value = await _followed(self, task, before)
        except Exception as error:
            if _asked(task) == before:
                raise
            raise asyncio.CancelledError from error
        if _asked(task) == before:
            return value
        if not is_over and not await _ends(self._replace(waits_for=value), attempt.clock, grace_s):
            gives_up(attempt, self.work)
            with contextlib.suppress(BaseException):  # whatever it does about that is of no interest any more
                self.run(self.work.close)
        raise asyncio.CancelledError


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


def _asked(task: asyncio.Task[Any] | None) -> int:
    if isinstance(task, RunTask):
        return task.asked
    return 0 if task is None else task.cancelling()


@types.coroutine
def _followed(begun: Begun, task: asyncio.Task[Any] | None, before: int) -> Generator[Any, Any, tuple[bool, Any]]:
    """Follow the code to its end: true and its result. If it goes on after a cancellation: false and what it awaits."""
    run, work, waits_for = begun
    try:
        while _asked(task) == before:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - passed on
                waits_for = run(work.throw, error)
            else:
                waits_for = run(work.send, sent)
    except StopIteration as ended:
        return True, ended.value
    return False, waits_for


async def _ends(begun: Begun, clock: Clock, grace_s: float) -> bool:
    """Let cancelled code go on; whether it ends within the grace."""
    run, work, waits_for = begun
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
                    waits_for = run(work.throw, again)
                continue
            if over.done() and (waits_for is None or not waits_for.done()):
                return False
            waits_for = run(work.send, None)
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - also StopIteration: it has returned
        return True
    finally:
        timer.cancel()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
