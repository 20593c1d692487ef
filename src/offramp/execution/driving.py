"""Drives the coroutine of an async step in the task of its caller, and abandons one that ignores its cancellation.

It has a context of its own there, but its caller's task: another task would cost several times as much, and awaited
code takes the running task for its own. A step that never waits costs no more than a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple

from offramp.core.spec import as_awaitable
from offramp.execution.context import current
from offramp.ports.commit import call_threadsafe

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt
    from offramp.ports.clock import Clock

Work = Coroutine[Any, Any, Any]


class RunTask(asyncio.Task[Any]):
    """A task of a run, which counts its cancellations, except those by the step that executes in it.

    A step's own `asyncio.timeout`, task group or cancel scope cancels the task too; the step handles these itself.
    """

    asked = 0
    attempt: Attempt | None = None
    """The attempt whose code it drives now."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel, as every task."""
        if self.attempt is None or current.get() is not self.attempt:
            self.asked += 1
        return super().cancel(msg)


def begin(attempt: Attempt, context: Context, code: Callable[[], Any]) -> Any:
    """Execute a step's code in its own context until it waits; returns its result, or `Begun`."""
    work, made = context.run(_begun, attempt, code)
    return made if work is None else Begun(context.run, work, made)


def _begun(attempt: Attempt, code: Callable[[], Any]) -> tuple[Work | None, Any]:
    """No work and the result of the step; or its work and the future that it awaits."""
    current.set(attempt)
    made = code()
    if not attempt.call.is_async:
        return None, made
    work: Work = made if type(made) is types.CoroutineType else _awaited(as_awaitable(made))
    try:
        return work, work.send(None)
    except StopIteration as ended:
        return None, ended.value


class Begun(NamedTuple):
    """A step's code that waits; `run` calls in its context."""

    run: Callable[..., Any]
    work: Work
    waits_for: Any

    async def rest(self, attempt: Attempt, grace_s: float, gives_up: Callable[[Attempt, Work], object]) -> Any:
        """Drive the code to its end; returns its result.

        Args:
            attempt: the attempt that executes it.
            grace_s: seconds it may continue after a cancellation.
            gives_up: receives code that did not end by then, before it is closed.

        Raises:
            CancelledError: it was cancelled, however it reacted.
            Exception: any exception of the code.
        """
        task = attempt.waits().task
        before = _asked(task)
        if isinstance(task, RunTask):
            task.attempt = attempt
        try:
            is_over, value = await _followed(self, task, before)
        except Exception as error:
            if _asked(task) == before:
                raise
            raise asyncio.CancelledError from error
        finally:
            if isinstance(task, RunTask):
                task.attempt = None
        if _asked(task) == before:
            return value
        if not is_over and not await _ends(self._replace(waits_for=value), attempt.clock, grace_s):
            gives_up(attempt, self.work)
            with contextlib.suppress(BaseException):  # its reaction no longer matters
                self.run(self.work.close)
        raise asyncio.CancelledError


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


def _running_task() -> asyncio.Task[Any] | None:
    """The task of this code; None in a forked child, which no loop runs: it ends when it returns control."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _asked(task: asyncio.Task[Any] | None) -> int:
    if isinstance(task, RunTask):
        return task.asked
    return 0 if task is None else task.cancelling()


@types.coroutine
def _followed(begun: Begun, task: asyncio.Task[Any] | None, before: int) -> Generator[Any, Any, tuple[bool, Any]]:
    """Drive the code to its end: true and its result. If it ignores a cancellation: false and the future it awaits."""
    run, work, waits_for = begun
    try:
        while _asked(task) == before:
            try:
                if type(waits_for) is not asyncio.Future and _is_awaitable(waits_for):
                    yield from _done(waits_for)
                else:
                    yield waits_for
            except BaseException as error:  # noqa: BLE001 - passed on
                waits_for = _interrupted(run, work, waits_for, error)
            else:
                waits_for = run(work.send, None)
    except StopIteration as ended:
        return True, ended.value
    return False, waits_for


def _is_awaitable(waits_for: Any) -> bool:
    """Whether a task of this loop can await this; a task that awaits anything else raises."""
    task = _running_task()
    if task is None or not asyncio.isfuture(waits_for) or waits_for is task:
        return False
    return waits_for.get_loop() is asyncio.get_running_loop()


async def _done(waits_for: Any, *others: asyncio.Future[None]) -> None:
    """Return when one of these is done; unlike a task that awaits them, wake at once on a cancellation.

    A cancelled future is done, but an awaited task may refuse to be cancelled.
    """
    waits_for._asyncio_future_blocking = False  # noqa: SLF001 - the protocol between futures and tasks
    await asyncio.wait((waits_for, *others), return_when=asyncio.FIRST_COMPLETED)


def _interrupted(run: Callable[..., Any], work: Work, waits_for: Any, error: BaseException) -> Any:
    """Throw an exception into code as a task does: a cancellation first cancels the awaited future."""
    if isinstance(error, asyncio.CancelledError) and waits_for is not None and waits_for.cancel():
        return waits_for
    return run(work.throw, error)


async def _ends(begun: Begun, clock: Clock, grace_s: float) -> bool:
    """Let cancelled code continue; returns whether it ends within the grace."""
    run, work, waits_for = begun
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = clock.call_at(clock.monotonic() + grace_s, lambda: call_threadsafe(loop, _set, over))
    try:
        while True:
            try:
                if waits_for is None:
                    await asyncio.sleep(0)
                elif _is_awaitable(waits_for):
                    await _done(waits_for, over)
                else:
                    return False
            except asyncio.CancelledError as again:
                waits_for = _interrupted(run, work, waits_for, again)
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
