"""Waits that need no process: for a time, or for a signal from outside.

While a run does nothing but wait here, it can be parked: it is executed again when what it waits for is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offramp.ports.clock import Clock


class Waits:
    """What one executing run waits for; begun and ended on its run loop, looked at from the control loop."""

    def __init__(self) -> None:
        self._due: dict[object, float] = {}

    @contextlib.contextmanager
    def until(self, due: float | None) -> Iterator[Callable[[], object]]:
        """A wait that ends at the latest at `due`, in epoch seconds, None for no end; call what it gives to end it."""
        mark = object()
        self._due[mark] = math.inf if due is None else due
        end = functools.partial(self._due.pop, mark, None)
        try:
            yield end
        finally:
            end()

    def earliest(self) -> float | None:
        """When the first of the waits ends by itself, `inf` if none does; None when nothing is waited for."""
        due = list(self._due.values())  # one atomic copy: the run loop changes it meanwhile
        return min(due) if due else None


class Mailbox:
    """The signals sent to one run, by name in the order they came; used on the run's loop only."""

    def __init__(self, received: Sequence[tuple[str, bytes]]) -> None:
        self._values: dict[str, list[bytes]] = {}
        self._waiting: dict[tuple[str, int], tuple[asyncio.Future[None], Callable[[], object]]] = {}
        self.seen = 0
        """How many signals were received. Grows after the waits that they end have ended: see `Scope.parks`."""
        self.put(received)

    def put(self, received: Sequence[tuple[str, bytes]]) -> None:
        """All signals of the run so far; those that are known already are skipped."""
        for name, value in received[self.seen :]:
            values = self._values.setdefault(name, [])
            values.append(value)
            waiting = self._waiting.get((name, len(values) - 1))
            if waiting is not None:
                future, end = waiting
                end()
                _set(future)
        self.seen = max(self.seen, len(received))

    def get(self, name: str, number: int) -> bytes | None:
        """The signal of this name with this number, from 0, if it came."""
        values = self._values.get(name, ())
        return values[number] if number < len(values) else None

    async def wait(
        self, clock: Clock, name: str, number: int, due: float | None, end: Callable[[], object]
    ) -> bytes | None:
        """The signal, or None when `due`, in epoch seconds, passed without it; `end` is called as soon as it came."""
        if (value := self.get(name, number)) is not None:
            return value
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[name, number] = future, end
        timer = None
        if due is not None:
            ends = clock.monotonic() + max(0.0, due - clock.time())
            timer = clock.call_at(ends, _threadsafe(loop, future))
        try:
            await future
        finally:
            self._waiting.pop((name, number), None)
            if timer is not None:
                timer.cancel()
        return self.get(name, number)


async def sleep_for(clock: Clock, seconds: float) -> None:
    """Wait by the clock that was injected, on the running loop."""
    if seconds <= 0:
        return
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    timer = clock.call_at(clock.monotonic() + seconds, _threadsafe(loop, future))
    try:
        await future
    finally:
        timer.cancel()


def _threadsafe(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> Callable[[], object]:
    return lambda: loop.call_soon_threadsafe(_set, future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
