"""Gives recorded results back in the order in which they were recorded, so that races end as they did.

Between two results for different tasks the pipeline gets a few turns of the loop to see the first one alone. A call
waits for its turn only while the replay makes progress: an entry that is never asked for (the code changed) delays the
others by a few turns and no more.
"""

from __future__ import annotations

import asyncio

SETTLE_TURNS = 10
"""Loop turns that a result has to reach whoever waits for it, through `wait`, `gather` and nested task groups."""
IDLE_TURNS_MAX = 20
"""Loop turns without progress after which the earliest waiting call goes ahead."""


class ReplayOrder:
    """The turnstile of one run's replay; used on the run's loop only."""

    def __init__(self, count: int) -> None:
        self._given = [False] * count
        self._next = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._quiet = SETTLE_TURNS
        self._looking = False
        self._last: asyncio.Task[object] | None = None

    async def turn(self, position: int) -> None:
        """Return when every entry before `position` has been given back and seen, or the replay stands still."""
        task = asyncio.current_task()
        unsettled = self._quiet < SETTLE_TURNS and task is not self._last
        if position > self._next or unsettled:
            loop = asyncio.get_running_loop()
            future = self._waiting[position] = loop.create_future()
            if not self._looking:
                self._looking = True
                loop.call_soon(self._look, loop)
            try:
                await future
            finally:
                self._waiting.pop(position, None)
        self._last = task
        self._give(position)

    def skip(self, position: int) -> None:
        """Give an entry back that cannot wait for its turn."""
        self._give(position)

    def _give(self, position: int) -> None:
        self._given[position] = True
        self._quiet = 0
        while self._next < len(self._given) and self._given[self._next]:
            self._next += 1

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting:
            self._looking = False
            return
        self._quiet += 1
        first = min(self._waiting)
        if self._quiet >= (SETTLE_TURNS if first <= self._next else IDLE_TURNS_MAX):
            future = self._waiting[first]
            if not future.done():
                future.set_result(None)
        loop.call_soon(self._look, loop)
