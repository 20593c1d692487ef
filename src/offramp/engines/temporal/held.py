"""Steps of a demoted run that are in flight in its gateway: waited for by the body, executed again if that dies.

The gateway writes a step's entry to the store, then signals; the signal says "look" and nothing else. If it does not
come, the body looks by itself, as often as a lease lasts.
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
"""The signal that tells a body that its run is the engine's."""
DELIVERED = "offramp.delivered"
"""The signal that tells a body that a step has ended where it was in flight."""

Local = Callable[[str, Any, Any], Coroutine[Any, Any, Any]]


class HeldSteps:
    """Of one body.

    Args:
        held: which, and by whom; None for none.
        every_s: how long a signal is waited for before looking without one.
        local: executes a local activity: its name, its argument, its result's type.
        told: how many signals came that a step has ended.
    """

    def __init__(self, held: Held | None, every_s: float, local: Local, told: Callable[[], int]) -> None:
        self._by = "" if held is None else held.by
        self._steps = frozenset(() if held is None else held.steps)
        self._every = timedelta(seconds=every_s)
        self._local = local
        self._told = told
        self._waiting: dict[str, asyncio.Future[Entry | None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._taking: set[asyncio.Task[None]] = set()

    @property
    def keys(self) -> list[str]:
        """Which steps, by their journal keys."""
        return sorted(self._steps)

    def __contains__(self, key: str) -> bool:
        return key in self._steps

    async def let_go(self, told: Callable[[], bool]) -> None:
        """Wait until the gateway has said that the run is not its own any more, or is dead."""
        while not told():
            await self._until(told)
            if not told() and not (await self.look([])).lives:
                return

    async def outcome(self, key: str, token: int) -> Entry | None:
        """The entry of a step, once it has ended there; None if it is to be executed here."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Entry | None] = loop.create_future()
        self._waiting[key] = future
        if self._watching is None:
            self._watching = loop.create_task(self._watch())
        try:
            return await future
        except asyncio.CancelledError:
            # What it may still write would be an entry that the body does not ask for.
            task = loop.create_task(self._local(TAKE, Take(token, key), type(None)))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)
            raise
        finally:
            self._waiting.pop(key, None)

    async def _watch(self) -> None:
        """Look for all that are waited for, at each signal, and after a while without one."""
        try:
            while self._waiting:
                told, asked = self._told(), list(self._waiting)
                looked = await self.look(asked)
                ended = {entry.key: entry for entry in looked.entries}
                for key in asked:
                    future = self._waiting.get(key)
                    if future is not None and not future.done() and key not in looked.held:
                        del self._waiting[key]
                        future.set_result(ended.get(key))
                if not looked.more:
                    await self._until(lambda told=told, asked=asked: self._is_news(told, asked))  # type: ignore[misc]
        finally:
            self._watching = None

    def _is_news(self, told: int, asked: list[str]) -> bool:
        return self._told() > told or not self._waiting or any(key not in asked for key in self._waiting)

    async def _until(self, told: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(told, timeout=self._every)

    async def look(self, keys: list[str]) -> Looked:
        """Ask what became of these steps in the gateway that demoted the run."""
        looked: Looked = await self._local(LOOK, Look(self._by, keys), Looked)
        return looked
