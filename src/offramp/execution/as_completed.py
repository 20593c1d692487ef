"""`asyncio.as_completed` with an order that a replay repeats; and the detection of the plain one in a rehearsal.

Plain asyncio creates its tasks in the order of a set of coroutines, that of their addresses: branches that draw values,
or make equal calls, would swap them in a replay.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def as_completed(fs: Iterable[Awaitable[T]], *, timeout: float | None = None) -> AsCompleted[T]:
    """Yield awaitables as they end: `asyncio.as_completed` for bodies, which starts its tasks in the given order.

    A plain iteration yields coroutines, one for each of `fs`, and each returns the next result. `async for` yields the
    futures themselves, as they end. Works outside runs too.

    Args:
        fs: coroutines, tasks or futures, in an order that a replay repeats: a list or a generator, no set.
        timeout: seconds for all of them; None for no end.

    Raises:
        TypeError: `fs` is a set, whose order differs in each process, or a single awaitable.
        TimeoutError: while iterating, if not all end in time.
    """
    return AsCompleted(fs, timeout)


class AsCompleted(Iterator[Coroutine[Any, Any, T]], AsyncIterator["asyncio.Future[T]"]):
    """See `as_completed`."""

    def __init__(self, fs: Iterable[Awaitable[T]], timeout: float | None) -> None:
        if asyncio.isfuture(fs) or inspect.isawaitable(fs):
            raise TypeError(f"as_completed takes several awaitables, for example a list of them; got {fs!r}")
        if isinstance(fs, (set, frozenset)):
            raise TypeError("as_completed takes a list: the order of a set differs in each process")
        loop = asyncio.get_running_loop()
        self._running = dict.fromkeys(asyncio.ensure_future(each, loop=loop) for each in dict.fromkeys(fs))
        self._left = len(self._running)
        self._ended: asyncio.Queue[asyncio.Future[T] | None] = asyncio.Queue()
        self._timer = loop.call_later(timeout, self._expire) if timeout is not None and self._running else None
        for future in self._running:
            future.add_done_callback(self._end)

    def _end(self, future: asyncio.Future[T]) -> None:
        if future in self._running:
            del self._running[future]
            self._ended.put_nowait(future)
            if not self._running and self._timer is not None:
                self._timer.cancel()

    def _expire(self) -> None:
        for future in self._running:
            future.remove_done_callback(self._end)
            self._ended.put_nowait(None)
        self._running.clear()

    def __iter__(self) -> AsCompleted[T]:
        return self

    def __next__(self) -> Coroutine[Any, Any, T]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._result()

    def __aiter__(self) -> AsCompleted[T]:
        return self

    async def __anext__(self) -> asyncio.Future[T]:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return await self._next()

    async def _result(self) -> T:
        return (await self._next()).result()

    async def _next(self) -> asyncio.Future[T]:
        future = await self._ended.get()
        if future is None:
            raise TimeoutError
        return future


FRAMES_MAX = 10
"""The most frames between the creation of a task and asyncio's own code that requested it."""


def _plain() -> CodeType:
    """The code in which asyncio creates these tasks: a generator function, from Python 3.13 on a class."""
    made = getattr(asyncio.tasks, "_AsCompletedIterator", None)
    code: CodeType = (asyncio.as_completed if made is None else made.__init__).__code__
    return code


class Races:
    """Detects bodies that start several coroutines by the plain `asyncio.as_completed`; called for each task."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._code = _plain()
        self._last: FrameType | None = None

    def __call__(self) -> None:
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented, and available in CPython
        for _ in range(FRAMES_MAX):
            if frame is None or frame.f_code is self._code:
                break
            frame = frame.f_back
        if frame is None or frame.f_code is not self._code:
            return
        if frame is self._last and self.problem is None:
            caller = frame.f_back
            while caller is not None and caller.f_code.co_filename == self._code.co_filename:
                caller = caller.f_back
            where = "" if caller is None else f" at {caller.f_code.co_filename}:{caller.f_lineno}"
            self.problem = (
                f"asyncio.as_completed{where} begins its coroutines in the order of a set, which differs in a replay: "
                "use offramp.as_completed"
            )
        self._last = frame
