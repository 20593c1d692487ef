"""Gives results to a pipeline's body one at a time, in the order in which they were recorded.

The first execution and every replay do the same: between two results the body gets a few turns of the loop to see the
first one alone. So races repeat their result, and parallel branches make their calls in the same order. A body with a
single task never waits. A replay waits only while it makes progress: an entry that the body never asks for (the code
changed) delays the others by only a few turns.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

SETTLE_TURNS = 10
"""Loop turns for a result to reach the code that waits for it, through `wait`, `gather` and nested task groups."""
IDLE_TURNS_MAX = 20
"""Loop turns without progress after which the earliest waiting call of a replay goes ahead."""


class Turns:
    """Counts the turns of an event loop while a caller needs it, with one callback per turn for all callers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self.now = 0

    def after(self, turns: int, callback: Callable[[], object]) -> None:
        """On the loop: call back so many turns from now."""
        if not self._due:
            self.loop.call_soon(self._next)
        heapq.heappush(self._due, (self.now + turns, next(self._order), callback))

    def _next(self) -> None:
        self.now += 1
        while self._due and self._due[0][0] <= self.now:
            heapq.heappop(self._due)[2]()
        if self._due:
            self.loop.call_soon(self._next)


class ResultOrder:
    """The order in which one run's results go into its body; used on the run's loop only.

    Args:
        recorded: the number of entries in the journal at the start, at the positions below that number.
    """

    turns: Turns
    """The turns of the run's loop; set when the run begins."""

    def __init__(self, recorded: int) -> None:
        self._recorded = recorded
        self._given = [False] * recorded
        self._next = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._settling: list[asyncio.Future[None]] = []
        self._stirred = -SETTLE_TURNS
        self._looking = False
        self._branched = False
        self._timers: set[int] = set()
        self.passed = 0
        """How many results went into the body."""
        self.on_stall: Callable[[], object] = lambda: None
        """Called when a recorded firing waits for its turn in a stalled replay."""

    @property
    def fires(self) -> bool:
        """Whether a recorded firing of a timer is on its way into the body."""
        return bool(self._timers)

    @property
    def waiting(self) -> bool:
        """Whether a result is on its way into the body. From any thread."""
        return bool(self._waiting)

    @property
    def replays(self) -> bool:
        """Whether something recorded has not gone in yet."""
        return self._next < self._recorded

    def branch(self) -> None:
        """Note that the body began another task: from here on it can see the order of results."""
        self._branched = True
        self._stir()

    async def turn(self, position: int) -> bool:
        """Return when every entry before `position` has gone in and was seen, or the replay stalls.

        Returns whether it had to wait.
        """
        if self.passes(position):
            return False
        future = self._waiting[position] = asyncio.get_running_loop().create_future()
        self._look_on()
        try:
            await future
        finally:
            del self._waiting[position]
            self._enter(position)  # also if the body gave the call up meanwhile
        return True

    def passes(self, position: int) -> bool:
        """Let this entry go in if it is its turn; False if it has to wait."""
        if min(position, self._recorded) > self._next or not self._is_settled():
            return False
        self._enter(position)
        return True

    def call(
        self, position: int, callback: Callable[[], object], *, at_once: bool = False
    ) -> asyncio.Future[None] | None:
        """Call back at this entry's turn; `at_once` calls directly if that has come, and then returns None.

        If the returned future is cancelled, the entry goes in without the call. Unlike a result, a firing does not go
        ahead of earlier entries after a few turns: it would end the block that it bounds.
        """
        if at_once and self.passes(position):
            self._stir()  # two timers due at once are two results, also for a body with one task
            callback()
            return None
        future = self._waiting[position] = asyncio.get_running_loop().create_future()
        if position < self._recorded:
            self._timers.add(position)

        def let_in(future: asyncio.Future[None]) -> None:
            del self._waiting[position]
            self._timers.discard(position)
            self._enter(position)
            self._stir()
            if not future.cancelled():
                callback()

        future.add_done_callback(let_in)
        self._look_on()
        return future

    def hurry(self, passed: int) -> None:
        """Let firings go ahead too, if no result went in since so many had `passed`."""
        if self.passed == passed:
            self._timers.clear()
        self._look_on()

    def _enter(self, position: int) -> None:
        self.skip(position)
        if self._branched or self._waiting:
            self._stir()

    def skip(self, position: int) -> None:
        """Let this entry go in without waiting for its turn."""
        self.passed += 1
        if position < self._recorded:
            self._given[position] = True
            while self._next < self._recorded and self._given[self._next]:
                self._next += 1

    async def settled(self) -> None:
        """Return when no result is on its way into the body, and all given ones were seen."""
        while not self._is_settled():
            future = asyncio.get_running_loop().create_future()
            self._settling.append(future)
            self._look_on()
            await future

    def _is_settled(self) -> bool:
        return not self._waiting and self.turns.now - self._stirred >= SETTLE_TURNS

    def _stir(self) -> None:
        self._stirred = self.turns.now
        self._look_on()

    def _look_on(self) -> None:
        self._look_after(SETTLE_TURNS)

    def _look_after(self, turns: int) -> None:
        if not self._looking:
            self._looking = True
            self.turns.after(turns, self._look)

    def _look(self) -> None:
        """Let in the entry whose turn it is, and look again when it may be another's."""
        self._looking = False
        quiet = self.turns.now - self._stirred
        if quiet < SETTLE_TURNS:
            self._look_after(SETTLE_TURNS - quiet)
        elif self._waiting:
            first = min(self._waiting)
            if min(first, self._recorded) <= self._next or (quiet >= IDLE_TURNS_MAX and first not in self._timers):
                _wake(self._waiting[first])  # which stirs, and so keeps looking
            elif quiet < IDLE_TURNS_MAX:
                self._look_after(IDLE_TURNS_MAX - quiet)
            else:
                self.on_stall()
        else:
            woken, self._settling = self._settling, []
            for future in woken:
                _wake(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
