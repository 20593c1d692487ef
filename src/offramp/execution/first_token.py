"""Bounds an attempt's code: by the step's timeout, and by what is expected of its first token.

The first token is the first emit, the first byte of an answer, or the end of the code, whichever comes first.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from offramp.ports.commit import call_threadsafe

if TYPE_CHECKING:
    from offramp.core.call import Call, FirstToken
    from offramp.ports.clock import Clock, Timer

T = TypeVar("T")


class Bounded(Protocol):
    """The part of an attempt that this uses."""

    first: First | None
    limit: asyncio.Timeout | None

    @property
    def call(self) -> Call:
        """Its call."""

    @property
    def clock(self) -> Clock:
        """The injected clock."""

    def timed_out(self) -> Exception:
        """The error of an attempt that reached one of its limits."""

    def is_slow(self, after_s: float) -> None:
        """Note that its first token has not come within this time."""


class First(Protocol):
    """What an attempt tells of its first token."""

    came: bool
    """Whether there has been one."""
    is_late: bool
    """Whether the code was cancelled because there was none."""

    def token(self) -> None:
        """There is one now; from any thread."""


async def bounded(work: Awaitable[T], attempt: Bounded) -> T:
    """The result of the code of an attempt, unless that is cancelled because it, or its first token, is late.

    Raises:
        FirstTokenTimeout: the first token was late, and another target is left.
        StepTimeout: the code took longer than the step's timeout.
    """
    policy = attempt.call.policy
    try:
        async with asyncio.timeout(policy.timeout) as limit:
            attempt.limit = limit
            if policy.first is None:
                return await work
            with Watching(attempt, policy.first, limit):
                return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise attempt.timed_out() from error


class Watching:
    """Watches for the first token of an attempt while its code runs; entered on the attempt's loop."""

    __slots__ = ("_attempt", "_expected", "_limit", "_loop", "_timers", "came", "is_late", "then")

    def __init__(self, attempt: Bounded, expected: FirstToken, limit: asyncio.Timeout) -> None:
        self._attempt: Bounded | None = attempt
        self._expected = expected
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._timers: list[Timer] = []
        self.came = self.is_late = False
        self.then: Callable[[], object] | None = None
        """Called with the first token, from any thread."""

    def __enter__(self) -> None:
        if self._attempt is not None:
            self._attempt.first, clock = self, self._attempt.clock
            self._after(clock, self._expected.slow_after, self._slow)
            self._after(clock, self._expected.within, self._late)

    def _after(self, clock: Clock, seconds: float | None, call: Callable[[], object]) -> None:
        if seconds is not None:
            on_loop = functools.partial(call_threadsafe, self._loop, call)
            self._timers.append(clock.call_at(clock.monotonic() + seconds, on_loop))

    def token(self) -> None:
        """There is one now; from any thread."""
        self.came = True
        for timer in self._timers:
            timer.cancel()
        if self.then is not None:
            self.then()

    def __exit__(self, *_: object) -> None:
        self.then = self._attempt = None  # which refers to this
        self.token()

    def _slow(self) -> None:
        if not self.came and self._attempt is not None:
            self._attempt.is_slow(self._expected.slow_after or 0.0)

    def _late(self) -> None:
        if not self.came and self._attempt is not None and not self._limit.expired():
            self.is_late = True
            self._attempt.is_slow(self._expected.within or 0.0)
            self._limit.reschedule(self._loop.time())
