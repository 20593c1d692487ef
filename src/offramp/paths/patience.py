"""How long requests wait for the store: as long as `write_timeout` says, whichever store it is and whatever it does.

What is to be written goes on when its request has been refused: it is done whole, or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from offramp.errors import StoreTimeout

T = TypeVar("T")
logger = logging.getLogger("offramp")


class Patience:
    """Of one process. It goes by the system's clock, as the store does.

    Args:
        timeout_s: how long a request waits.
        trouble: why the store itself says that writes do not go through, None while they do.
    """

    def __init__(self, timeout_s: float, trouble: Callable[[], str | None]) -> None:
        self._timeout_s = timeout_s
        self._trouble = trouble
        self._left: dict[asyncio.Task[Any], float] = {}
        """What nobody waits for any more, and since when it is under way."""

    async def read(self, work: Awaitable[T]) -> T:
        """The result of what changes nothing, and is given up at the timeout.

        Raises:
            StoreTimeout: it took too long.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise StoreTimeout(f"the store did not answer within {self._said}; try again") from None

    async def write(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what changes something, and goes on after the timeout.

        Raises:
            StoreTimeout: it took too long.
        """
        began, task = time.monotonic(), asyncio.ensure_future(work)
        try:
            await asyncio.wait((task,), timeout=self._timeout_s)
        finally:
            if not task.done():
                self._left[task] = began
                task.add_done_callback(self._ended)
        if task.done():
            return task.result()
        logger.warning("a request was refused: the store did not take it within %s", self._said)
        raise StoreTimeout(
            f"the store did not answer within {self._said}: what was asked for may or may not have been done. Ask "
            "again: with the same Idempotency-Key nothing is done twice"
        )

    def until(self) -> float:
        """When a request that begins to wait now is refused, on the system's monotonic clock."""
        return time.monotonic() + self._timeout_s

    def require(self, until: float) -> None:
        """Begin nothing more for a request that was refused meanwhile.

        Raises:
            StoreTimeout: it was.
        """
        if time.monotonic() >= until:
            raise StoreTimeout(f"it waited for the store for {self._said}; nothing was begun")

    @property
    def _said(self) -> str:
        return f"{self._timeout_s:g} s (OFFRAMP_WRITE_TIMEOUT)"

    def _ended(self, task: asyncio.Task[Any]) -> None:
        waited_s = time.monotonic() - self._left.pop(task)
        error = None if task.cancelled() else task.exception()
        told = "it is done now" if error is None else error
        logger.info("what a request no longer waited for took %.1f s: %s", waited_s, told)

    def trouble(self) -> str | None:
        """Why a request would have to wait or be refused, None while none would."""
        waited_s = time.monotonic() - min(list(self._left.values()), default=time.monotonic())
        if waited_s >= self._timeout_s:
            return f"the store has kept a request waiting for {waited_s:.0f} s"
        return self._trouble()
