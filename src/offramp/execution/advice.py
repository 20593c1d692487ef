"""Asks the user's rules, classifier and feature functions: each under a time limit, off every loop of the gateway.

A plain function runs in a thread, an async one on a run loop, both in an empty context. One that raises, is late, or
returns nonsense is passed over: counted, and logged once in a while without any value.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, cast

from offramp.core.advisers import Adviser
from offramp.core.routing import Unusable
from offramp.core.spec import as_awaitable
from offramp.core.tracebacks import FRAMES_BYTES_MAX, frames_of
from offramp.execution.loops import RunLoop, RunLoops
from offramp.execution.threads import Threads
from offramp.ports.commit import call_threadsafe

CALLS_MAX = 16
"""Calls of one plain function at once, each in a thread; the others wait, within their time limit."""
STUCK_MAX = 4
"""Calls of one function that were late and have not returned; with so many it is not called."""
LOGGED_EVERY_S = 60.0
"""The interval at which the log names a function that is passed over."""

Result = Literal["answered", "none", "failed", "invalid", "late", "skipped"]
T = TypeVar("T")
logger = logging.getLogger("offramp")


class _Reply(NamedTuple):
    """The outcome of one call; `why` is for the log, of one that is passed over."""

    result: Result
    value: Any = None
    why: str = ""


class _LoopCall:
    """One call of an async function on a run loop, and the loop that waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[_Reply] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._is_left = False
        self.has_ended = False

    def start(self, loop: RunLoop) -> asyncio.Task[None]:
        """Begin, on the run loop."""
        task = contextvars.Context().run(loop.loop.create_task, self._run())
        task.add_done_callback(self._ended)
        self._task = task
        if self._is_left:
            task.cancel()
        return task

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self.has_ended = True

    async def _run(self) -> None:
        call_threadsafe(self._loop, _settle, self.reply, await self._work())

    def leave(self) -> None:
        """Cancel it: no code waits for it any more."""
        self._is_left = True
        if self._task is not None and not self.has_ended:
            call_threadsafe(self._task.get_loop(), self._task.cancel)


class Consultant:
    """One function of the user's, ready to be asked from any loop.

    Args:
        adviser: the function.
        limit_s: how long one call may take.
        loops: where async functions run.
        count: called with the result of each call.
    """

    def __init__(self, adviser: Adviser, limit_s: float, loops: RunLoops, count: Callable[[Result], object]) -> None:
        self.what = adviser.what
        self._adviser = adviser
        self._limit_s = limit_s
        self._loops = loops
        self._count = count
        self._threads = Threads(CALLS_MAX)
        self._late: list[_LoopCall] = []
        self._logged_at = -math.inf
        self._unlogged = 0

    @property
    def stuck(self) -> int:
        """Calls that were late and have not returned."""
        self._late = [call for call in self._late if not call.has_ended]
        return len(self._late) + len(self._threads.held)

    async def ask(self, read: Callable[[Any], T | None], *args: Any, **kwargs: Any) -> T | None:
        """What `read` makes of its answer; None if it is passed over. `read` runs where the function does."""
        reply = await self._reply(functools.partial(self._read, read), args, kwargs)
        self._count(reply.result)
        if reply.result not in ("answered", "none"):
            self._log(reply)
        return cast("T | None", reply.value)

    async def _reply(self, read: Callable[[Any], _Reply], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Reply:
        if self.stuck >= STUCK_MAX:
            return _Reply("skipped", why=f"{STUCK_MAX} calls of it were late and have not returned")
        asked = self._on_run_loop if self._adviser.is_async else self._in_thread
        try:
            async with asyncio.timeout(self._limit_s) as limit:
                return await asked(read, args, kwargs)
        except TimeoutError:
            if not limit.expired():
                raise
            return _Reply("late", why=f"no answer within {self._limit_s:g} s")
        except RuntimeError as error:  # the system has no more threads
            return _Reply("failed", why=str(error))

    async def _in_thread(self, read: Callable[[Any], _Reply], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Reply:
        def call() -> _Reply:
            try:
                returned = self._adviser.function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - whatever it raises, the request is decided without it
                return _Reply("failed", why=_named(error))
            return read(returned)

        place = self._threads.place(self.what)
        try:
            await place.given()
            reply: _Reply = await place.run(functools.partial(contextvars.Context().run, call))
            return reply
        finally:
            place.leave()

    async def _on_run_loop(
        self, read: Callable[[Any], _Reply], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Reply:
        async def work() -> _Reply:
            try:
                returned = await as_awaitable(self._adviser.function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - as above; SystemExit would end the loop
                return _Reply("failed", why=_named(error))
            return read(returned)

        call = _LoopCall(work)
        self._loops.submit(call.start)
        try:
            return await call.reply
        finally:
            if not call.reply.done() or call.reply.cancelled():
                self._late.append(call)
                call.leave()

    def _read(self, read: Callable[[Any], Any], returned: Any) -> _Reply:
        try:
            value = read(returned)
        except Unusable as error:
            return _Reply("invalid", why=str(error))
        except BaseException as error:  # noqa: BLE001 - an object of the user's may raise anything
            return _Reply("invalid", why=_named(error))
        return _Reply("none" if value is None else "answered", value)

    def _log(self, reply: _Reply) -> None:
        self._unlogged += 1
        if time.monotonic() < self._logged_at + LOGGED_EVERY_S:
            return
        logger.warning("%s was passed over (%d since the last line): %s", self.what, self._unlogged, reply.why)
        self._logged_at, self._unlogged = time.monotonic(), 0

    def close(self) -> None:
        """End its idle threads."""
        self._threads.close()


class Advice(NamedTuple):
    """The functions of one app that its entry asks; `features` by pipeline."""

    rules: list[Consultant]
    classifier: Consultant | None
    features: Mapping[str, Consultant]

    def close(self) -> None:
        """End their idle threads."""
        for each in (*self.rules, *([] if self.classifier is None else [self.classifier]), *self.features.values()):
            each.close()


NO_ADVICE = Advice([], None, {})


def _named(error: BaseException) -> str:
    """The class of an exception and the line of the user's code; its text may hold a part of the input."""
    trace = frames_of(error, FRAMES_BYTES_MAX)
    where = next((each for each in reversed(trace.frames if trace else []) if each.is_user), None)
    return type(error).__name__ + ("" if where is None else f" in {where.file}, line {where.line}")


def _settle(future: asyncio.Future[_Reply], reply: _Reply) -> None:
    if not future.done():
        future.set_result(reply)
