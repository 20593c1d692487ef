"""Waits that need no process: for a time by the injected clock, or for a signal from outside."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offramp.ports.clock import Clock


class Mailbox:
    """The signals sent to one run; each goes to one call, in order by name. Used on the run's loop only."""

    def __init__(self, received: Sequence[tuple[str, bytes]]) -> None:
        self._values: dict[str, deque[bytes]] = {}
        self.waiting: dict[str, deque[_Waiter]] = {}
        """The calls that wait for a signal, by its name."""
        self.seen = 0
        """How many signals were received."""
        self.put(received)

    def put(self, received: Sequence[tuple[str, bytes]]) -> None:
        """Add all signals of the run so far; known ones are skipped."""
        for name, value in received[self.seen :]:
            if not self._handed(name, value):
                self._values.setdefault(name, deque()).append(value)
        self.seen = max(self.seen, len(received))

    def _handed(self, name: str, value: bytes) -> bool:
        """Add a signal; returns whether a call waited for it."""
        waiting = self.waiting.get(name)
        if not waiting:
            return False
        waiting.popleft().give(value)
        return True

    def skip(self, name: str, value: bytes) -> None:
        """Note that a signal went to a call whose journal entry was replayed: not always the first, see `take`."""
        self._values[name].remove(value)

    async def take(
        self,
        clock: Clock,
        name: str,
        due: float | None,
        came: Callable[[], object],
        settled: Callable[[], Awaitable[object]],
    ) -> bytes | None:
        """The next signal, or None if `due`, in epoch seconds, passes without one.

        `came` is called when it comes, and `settled` is awaited before it is returned: until then, the call may be
        cancelled.
        """
        loop = asyncio.get_running_loop()
        waiter, timer = _Waiter(loop.create_future(), came), None
        values = self._values.get(name)
        waiting = self.waiting.setdefault(name, deque())
        if values:
            waiter.give(values.popleft())
        else:
            waiting.append(waiter)
            if due is not None:
                ends = clock.monotonic() + max(0.0, due - clock.time())
                timer = clock.call_at(ends, _threadsafe(loop, waiter.future))
        try:
            await waiter.future
            await settled()
        except BaseException:
            # Cancelled: another call receives it.
            if waiter.value is not None and not self._handed(name, waiter.value):
                self._values.setdefault(name, deque()).appendleft(waiter.value)
            raise
        finally:
            if waiter in waiting:
                waiting.remove(waiter)
            if timer is not None:
                timer.cancel()
        return waiter.value


class _Waiter:
    """A call that waits for a signal."""

    def __init__(self, future: asyncio.Future[None], came: Callable[[], object]) -> None:
        self.future = future
        self.value: bytes | None = None
        self._came = came

    def give(self, value: bytes) -> None:
        """Give it its signal."""
        self.value = value
        self._came()
        _set(self.future)


async def sleep_for(clock: Clock, seconds: float) -> None:
    """Wait by the injected clock, on the running loop."""
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
    def wake() -> None:
        # A clock may belong to the loop, and such a loop may not support threads (Temporal's does not).
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - documented; get_running_loop raises where none is
            _set(future)
        else:
            loop.call_soon_threadsafe(_set, future)

    return wake


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
