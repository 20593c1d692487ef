"""The wait of requests for the store: at most `write_timeout`, for every store and every fault.

A write continues after its request was refused: it is done whole, or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from offramp.errors import StoreTimeout

T = TypeVar("T")
P = ParamSpec("P")
logger = logging.getLogger("offramp")


class Patience:
    """The patience of one process, by the system's clock, which the store also uses.

    Args:
        timeout_s: how long a request waits.
        trouble: the reason why the store accepts no writes, None while it does.
    """

    def __init__(self, timeout_s: float, trouble: Callable[[], str | None]) -> None:
        self._timeout_s = timeout_s
        self._trouble = trouble
        self._left: dict[asyncio.Task[Any], float] = {}
        """Writes whose requests were refused, with their start times."""

    async def read(self, work: Awaitable[T]) -> T:
        """The result of a read, which is abandoned at the timeout.

        Raises:
            StoreTimeout: the read took too long.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise StoreTimeout(f"the store did not answer within {self._timeout}; try again") from None

    async def write(self, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a write, which continues after the timeout.

        Raises:
            StoreTimeout: the write took too long.
        """
        began, loop = time.monotonic(), asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(_answered(answer, work, *args, **kwargs))
        timer = loop.call_later(self._timeout_s, self._refuse, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            if not task.done():
                self._left[task] = began
                task.add_done_callback(self._ended)

    def _refuse(self, answer: asyncio.Future[Any]) -> None:
        if answer.done():
            return
        logger.warning("a request was refused: the store did not take it within %s", self._timeout)
        answer.set_exception(
            StoreTimeout(
                f"the store did not answer within {self._timeout}: the operation may or may not have happened. Try "
                "again: the same Idempotency-Key prevents a repetition"
            )
        )

    def until(self) -> float:
        """The time, on the system's monotonic clock, at which a request that begins to wait now is refused."""
        return time.monotonic() + self._timeout_s

    def require(self, until: float) -> None:
        """Prevent further work for a request that was refused meanwhile.

        Raises:
            StoreTimeout: the request was refused.
        """
        if time.monotonic() >= until:
            raise StoreTimeout(f"the request waited for the store for {self._timeout}; nothing was begun")

    @property
    def _timeout(self) -> str:
        return f"{self._timeout_s:g} s (OFFRAMP_WRITE_TIMEOUT)"

    def _ended(self, task: asyncio.Task[Any]) -> None:
        waited_s = time.monotonic() - self._left.pop(task)
        error = None if task.cancelled() else task.exception()
        logger.info("a write whose request was refused took %.1f s: %s", waited_s, error or "done")

    def trouble(self) -> str | None:
        """The reason why requests wait or are refused, None while they are not."""
        waited_s = time.monotonic() - min(list(self._left.values()), default=time.monotonic())
        if waited_s >= self._timeout_s:
            return f"the store has kept a request waiting for {waited_s:.0f} s"
        return self._trouble()


async def _answered(
    answer: asyncio.Future[T], work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
) -> None:
    """Pass the end of a write to the request that waits for it, in one turn of the loop; raise it if none waits."""
    try:
        result = await work(*args, **kwargs)
    except BaseException as error:
        if answer.done() or not isinstance(error, Exception):
            answer.cancel()
            raise
        answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(result)
