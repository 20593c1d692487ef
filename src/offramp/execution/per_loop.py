"""One object per event loop, for async clients bound to the loop of their first use."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
# Of the process, as its loops are: each loop that executes runs gets its objects before the first run.
_declared: weakref.WeakValueDictionary[int, PerLoop[Any]] = weakref.WeakValueDictionary()
_numbers = itertools.count()
logger = logging.getLogger("offramp")


class PerLoop(Generic[T]):
    """Call it inside a coroutine to get the object of the running loop."""

    def __init__(self, factory: Callable[[], T]) -> None:
        self.factory = factory
        """Makes an object for a loop."""
        _declared[next(_numbers)] = self
        self._made: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()

    def __call__(self) -> T:
        """The running loop's object, made at the first call.

        Raises:
            RuntimeError: no event loop is running here.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            # Not in the context of the first run: the tasks that it starts serve others too.
            self._made[loop] = contextvars.Context().run(self.factory)
        return self._made[loop]

    def __repr__(self) -> str:
        return f"per_loop({getattr(self.factory, '__qualname__', self.factory)})"


def per_loop(factory: Callable[[], T]) -> PerLoop[T]:
    """Wrap a factory of loop-bound clients.

    After `client = per_loop(httpx.AsyncClient)`, write `await client().get(url)`.

    The object of the first run loop is made before the process is ready, if the factory is wrapped at import; a factory
    that fails there is called again by the first step that needs it.

    A process executes runs on one loop unless a step blocks it; new runs then go to a spare loop, where a client of the
    first one would fail or hang.
    """
    return PerLoop(factory)


async def make_clients() -> None:
    """Make the running loop's object of each `per_loop` that exists."""
    for declared in list(_declared.values()):
        try:
            declared()
        except Exception as error:  # noqa: BLE001 - a step that needs it will raise it
            logger.warning("%r has no object yet: %s: %s", declared, type(error).__name__, error)
