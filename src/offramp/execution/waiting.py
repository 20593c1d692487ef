"""Waits that need no process: for a time by the injected clock, or for a signal from outside."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from offramp.ports.clock import Clock


class Received(NamedTuple):
    """A signal: its place among those of its run, from 1, and its value as JSON."""

    number: int
    value: bytes


class Taker(NamedTuple):
    """How a call takes a signal.

    Attributes:
        fits: whether it takes this one.
        came: called when it gets one.
        settled: awaited before that is returned: until then, the call may be cancelled.
    """

    fits: Callable[[Received], bool]
    came: Callable[[], object]
    settled: Callable[[], Awaitable[object]]


class Mailbox:
    """The signals sent to one run; each goes to one call, in order by name. Used on the run's loop only."""

    def __init__(self, received: Sequence[tuple[str, bytes]]) -> None:
        self._untaken: dict[str, deque[Received]] = {}
        self.waiting: dict[str, deque[_Waiter]] = {}
        """The calls that wait for a signal, by its name."""
        self.seen = 0
        """How many signals were received."""
        self.put(received)

    def put(self, received: Sequence[tuple[str, bytes]]) -> None:
        """Add all signals of the run so far; known ones are skipped."""
        for number, (name, value) in enumerate(received[self.seen :], self.seen + 1):
            signal = Received(number, value)
            if not self._handed(name, signal):
                self._untaken.setdefault(name, deque()).append(signal)
        self.seen = max(self.seen, len(received))

    def _handed(self, name: str, signal: Received) -> bool:
        """Add a signal; returns whether a call waited for it."""
        waiting = self.waiting.get(name, ())
        for waiter in list(waiting):
            if waiter.how.fits(signal):
                self.waiting[name].remove(waiter)
                waiter.give(signal)
                return True
        return False

    def skip(self, name: str, value: bytes) -> None:
        """Note that a signal went to a call whose journal entry was replayed: not always the first, see `take`."""
        untaken = self._untaken[name]
        untaken.remove(next(signal for signal in untaken if signal.value == value))

    async def take(self, clock: Clock, name: str, due: float | None, how: Taker) -> bytes | None:
        """The first signal that fits, or None if `due`, in epoch seconds, passes without one."""
        loop = asyncio.get_running_loop()
        waiter, timer = _Waiter(loop.create_future(), how), None
        untaken = self._untaken.get(name, ())
        early = next((signal for signal in untaken if how.fits(signal)), None)
        waiting = self.waiting.setdefault(name, deque())
        if early is not None:
            self._untaken[name].remove(early)
            waiter.give(early)
        else:
            waiting.append(waiter)
            if due is not None:
                ends = clock.monotonic() + max(0.0, due - clock.time())
                timer = clock.call_at(ends, _threadsafe(loop, waiter.future))
        try:
            await waiter.future
            await how.settled()
        except BaseException:
            # Cancelled: another call receives it.
            if waiter.signal is not None and not self._handed(name, waiter.signal):
                self._untaken.setdefault(name, deque()).appendleft(waiter.signal)
            raise
        finally:
            if waiter in waiting:
                waiting.remove(waiter)
            if timer is not None:
                timer.cancel()
        return None if waiter.signal is None else waiter.signal.value


class _Waiter:
    """A call that waits for a signal."""

    def __init__(self, future: asyncio.Future[None], how: Taker) -> None:
        self.future = future
        self.how = how
        self.signal: Received | None = None

    def give(self, signal: Received) -> None:
        """Give it its signal."""
        self.signal = signal
        self.how.came()
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
