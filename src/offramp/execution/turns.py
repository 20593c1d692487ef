"""Gives results to a pipeline's body one at a time, in the order in which they were recorded.

The first execution and every replay do so alike: between two results the body gets a few turns of the loop to see the
first one alone. So races end as they did, and parallel branches take their calls in the same order. A body that has one
task only waits for nothing. A replay waits only while it makes progress: an entry that is never asked for (the code
changed) delays the others by a few turns and no more.
"""

from __future__ import annotations

import asyncio

SETTLE_TURNS = 10
"""Loop turns that a result has to reach whoever waits for it, through `wait`, `gather` and nested task groups."""
IDLE_TURNS_MAX = 20
"""Loop turns without progress after which the earliest waiting call of a replay goes ahead."""


class Turnstile:
    """The way of one run's results into its body; used on the run's loop only.

    Args:
        recorded: entries in the journal that this execution began with, at the positions below that number.
    """

    def __init__(self, recorded: int) -> None:
        self._recorded = recorded
        self._given = [False] * recorded
        self._next = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._settled: list[asyncio.Future[None]] = []
        self._quiet = 0
        self._looking = False
        self._branched = False
        self.passed = 0
        """How many results went into the body."""

    @property
    def waiting(self) -> bool:
        """Whether a result is on its way into the body. From any thread."""
        return bool(self._waiting)

    def branch(self) -> None:
        """The body began another task: from here on it can see the order of results."""
        self._branched = True
        self._stir()

    async def turn(self, position: int) -> bool:
        """Return when every entry before `position` has gone in and was seen, or the replay stands still.

        Gives whether that had to be waited for.
        """
        settled = not self._waiting and (self._quiet >= SETTLE_TURNS or not self._branched)
        waits = not settled or min(position, self._recorded) > self._next
        if waits:
            future = self._waiting[position] = asyncio.get_running_loop().create_future()
            self._look_on()
            try:
                await future
            finally:
                del self._waiting[position]
                self.skip(position)  # also where the body gave the call up meanwhile
        else:
            self.skip(position)
        if self._branched:
            self._stir()
        return waits

    def skip(self, position: int) -> None:
        """This entry goes in without waiting for its turn."""
        self.passed += 1
        if position < self._recorded:
            self._given[position] = True
            while self._next < self._recorded and self._given[self._next]:
                self._next += 1

    async def settled(self) -> None:
        """Return when nothing is on its way into the body any more."""
        while self._waiting or (self._branched and self._quiet < SETTLE_TURNS):
            future = asyncio.get_running_loop().create_future()
            self._settled.append(future)
            self._look_on()
            await future

    def _stir(self) -> None:
        self._quiet = 0
        self._look_on()

    def _look_on(self) -> None:
        if not self._looking:
            self._looking = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quiet += 1
        if self._quiet >= SETTLE_TURNS:
            if not self._waiting:
                self._looking = False
                woken, self._settled = self._settled, []
                for future in woken:
                    _wake(future)
                return
            first = min(self._waiting)
            if min(first, self._recorded) <= self._next or self._quiet >= IDLE_TURNS_MAX:
                _wake(self._waiting[first])
        loop.call_soon(self._look, loop)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
