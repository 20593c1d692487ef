"""One object per event loop, for async clients bound to the loop of their first use."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Call it inside a coroutine to get the object of the running loop."""

    def __init__(self, factory: Callable[[], T]) -> None:
        self._factory = factory
        self._made: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()

    def __call__(self) -> T:
        """The running loop's object, made at the first call.

        Raises:
            RuntimeError: no event loop is running here.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            # Not in the context of the first run: the tasks that it starts serve others too.
            self._made[loop] = contextvars.Context().run(self._factory)
        return self._made[loop]


def per_loop(factory: Callable[[], T]) -> PerLoop[T]:
    """Wrap a factory of loop-bound clients.

    After `client = per_loop(httpx.AsyncClient)`, write `await client().get(url)`.

    A process executes runs on one loop unless a step blocks it; new runs then go to a spare loop, where a client of the
    first one would fail or hang.
    """
    return PerLoop(factory)
