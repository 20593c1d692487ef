"""Steps of a demoted run in flight in its gateway: the body waits for them, and repeats them if the gateway dies.

The gateway writes a step's entry to the store, then signals; the signal only says that there is news. Without a signal,
the body looks once per lease duration.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from temporalio import workflow

from offramp.core.journal import Entry
from offramp.engines.temporal.payloads import Held, Look, Looked, Take

LOOK, TAKE = "offramp.look", "offramp.take"
GO = "offramp.go"
"""The signal that the engine owns the run."""
DELIVERED = "offramp.delivered"
"""The signal that a step in flight in the gateway has ended."""

Local = Callable[[str, Any, Any], Coroutine[Any, Any, Any]]


class HeldSteps:
    """The held steps of one body.

    Args:
        held: the steps and their process; None without any.
        every_s: how long to wait for a signal before looking without one.
        local: executes a local activity: its name, its argument, its result's type.
        signals: the number of signals received that a step has ended.
    """

    def __init__(self, held: Held | None, every_s: float, local: Local, signals: Callable[[], int]) -> None:
        self._by = "" if held is None else held.by
        self._steps = frozenset(() if held is None else held.steps)
        self._every = timedelta(seconds=every_s)
        self._local = local
        self._signals = signals
        self._waiting: dict[str, asyncio.Future[Entry | None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._taking: set[asyncio.Task[None]] = set()

    @property
    def keys(self) -> list[str]:
        """The steps, by their journal keys."""
        return sorted(self._steps)

    def __contains__(self, key: str) -> bool:
        return key in self._steps

    async def let_go(self, released: Callable[[], bool]) -> None:
        """Wait until the gateway has released the run, or is dead."""
        while not released():
            await self._until(released)
            if not released() and not (await self.look([])).lives:
                return

    async def outcome(self, key: str, token: int) -> Entry | None:
        """The entry of a step, once it has ended in its process; None if the engine is to execute it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Entry | None] = loop.create_future()
        self._waiting[key] = future
        if self._watching is None:
            self._watching = loop.create_task(self._watch())
        try:
            return await future
        except asyncio.CancelledError:
            # Its process might still write an entry that the body never asks for.
            task = loop.create_task(self._local(TAKE, Take(token, key), type(None)))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)
            raise
        finally:
            self._waiting.pop(key, None)

    async def _watch(self) -> None:
        """Look for all awaited steps, at each signal, and after a while without one."""
        try:
            while self._waiting:
                seen, asked = self._signals(), list(self._waiting)
                looked = await self.look(asked)
                ended = {entry.key: entry for entry in looked.entries}
                for key in asked:
                    future = self._waiting.get(key)
                    if future is not None and not future.done() and key not in looked.held:
                        del self._waiting[key]
                        future.set_result(ended.get(key))
                if not looked.more:
                    await self._until(lambda seen=seen, asked=asked: self._is_news(seen, asked))  # type: ignore[misc]
        finally:
            self._watching = None

    def _is_news(self, seen: int, asked: list[str]) -> bool:
        return self._signals() > seen or not self._waiting or any(key not in asked for key in self._waiting)

    async def _until(self, condition: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(condition, timeout=self._every)

    async def look(self, keys: list[str]) -> Looked:
        """Ask for the outcome of these steps in the gateway that demoted the run."""
        looked: Looked = await self._local(LOOK, Look(self._by, keys), Looked)
        return looked
