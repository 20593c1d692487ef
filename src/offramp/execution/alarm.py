"""Many timed calls on one loop by one timer of a clock, which sees few of them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from offramp.ports.commit import call_threadsafe

if TYPE_CHECKING:
    from offramp.ports.clock import Clock, Timer

DEAD_MIN = 64
"""Cancelled calls that an alarm keeps before it takes the time to remove them."""


class _Call:
    """A call that an alarm makes; cancelled when `callback` is None."""

    __slots__ = ("_alarm", "callback")

    def __init__(self, alarm: Alarm, callback: Callable[[], object]) -> None:
        self._alarm = alarm
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Cancel the call."""
        if self.callback is not None:
            self.callback = None
            self._alarm.dropped()


class Alarm:
    """Timed calls on one loop; most are cancelled before their time, which costs the clock nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, _Call]] = []
        self._order = itertools.count()
        self._dead = 0
        self._timer: Timer | None = None
        self._armed = math.inf

    def __len__(self) -> int:
        """How many calls are kept, with those that were cancelled and cost least if they are left."""
        return len(self._heap)

    def call_at(self, when: float, callback: Callable[[], object]) -> _Call:
        """Call back on the running loop, at this monotonic time of the clock."""
        call = _Call(self, callback)
        heapq.heappush(self._heap, (when, next(self._order), call))
        if when < self._armed:
            self._arm(when)
        return call

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = when
        loop = asyncio.get_running_loop()
        self._timer = self._clock.call_at(when, lambda: call_threadsafe(loop, self._ring))

    def _ring(self) -> None:
        self._timer, self._armed = None, math.inf
        now = self._clock.monotonic()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].callback is None):
            call = heapq.heappop(self._heap)[2]
            callback, call.callback = call.callback, None
            if callback is None:
                self._dead -= 1
            else:
                callback()
        if self._heap and self._heap[0][0] < self._armed:
            self._arm(self._heap[0][0])

    def dropped(self) -> None:
        """A call was cancelled."""
        self._dead += 1
        if self._dead == len(self._heap):
            self._heap.clear()
            self._dead = 0
        elif self._dead > DEAD_MIN and self._dead * 2 > len(self._heap):
            self._heap = [each for each in self._heap if each[2].callback is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def close(self) -> None:
        """Cancel all calls. From any thread."""
        timer = self._timer
        if timer is not None:
            timer.cancel()
