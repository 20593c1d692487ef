"""Gives recorded results back in the order in which they were recorded, so that races end as they did.

A call waits for its turn only while the replay makes progress: an entry that is never asked for (the code changed)
delays the others by a few turns of the loop and no more.
"""

from __future__ import annotations

import asyncio

IDLE_TURNS_MAX = 20
"""Loop turns without progress after which the earliest waiting call goes ahead."""


class ReplayOrder:
    """The turnstile of one run's replay; used on the run's loop only."""

    def __init__(self, count: int) -> None:
        self._given = [False] * count
        self._next = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._progress = 0

    async def turn(self, position: int) -> None:
        """Return when every entry before `position` has been given back, or the replay stands still."""
        if position > self._next:
            loop = asyncio.get_running_loop()
            future = self._waiting[position] = loop.create_future()
            if len(self._waiting) == 1:
                loop.call_soon(self._look, loop, self._progress, 0)
            try:
                await future
            finally:
                self._waiting.pop(position, None)
        self._give(position)

    def skip(self, position: int) -> None:
        """Give an entry back that cannot wait for its turn."""
        self._give(position)

    def _give(self, position: int) -> None:
        self._given[position] = True
        self._progress += 1
        while self._next < len(self._given) and self._given[self._next]:
            self._next += 1
        self._wake(self._next)

    def _wake(self, position: int) -> None:
        future = self._waiting.get(position)
        if future is not None and not future.done():
            future.set_result(None)

    def _look(self, loop: asyncio.AbstractEventLoop, progress: int, turns: int) -> None:
        if not self._waiting:
            return
        turns = turns + 1 if progress == self._progress else 0
        if turns >= IDLE_TURNS_MAX:
            self._wake(min(self._waiting))
            turns = 0
        loop.call_soon(self._look, loop, self._progress, turns)
