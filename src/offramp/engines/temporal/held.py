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
from offramp.engines.temporal.payloads import Held, Look, Looked

LOOK, TAKE = "offramp.look", "offramp.take"
GO = "offramp.go"
"""The signal that tells a body that its run is the engine's."""

Local = Callable[[str, Any, Any], Coroutine[Any, Any, Any]]


class HeldSteps:
    """Of one body.

    Args:
        held: which, and by whom; None for none.
        every_s: how long a signal is waited for before looking without one.
        local: executes a local activity: its name, its argument, its result's type.
        woken: how many signals came.
    """

    def __init__(self, held: Held | None, every_s: float, local: Local, woken: Callable[[], int]) -> None:
        self._by = "" if held is None else held.by
        self._steps = frozenset(() if held is None else held.steps)
        self._every = timedelta(seconds=every_s)
        self._local = local
        self._woken = woken
        self._taking: set[asyncio.Task[None]] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._steps

    async def let_go(self, told: Callable[[], bool]) -> None:
        """Wait until the gateway has said that the run is not its own any more, or is dead."""
        while not told():
            await self._until(told)
            if not told() and not (await self._look("")).held:
                return

    async def outcome(self, key: str, token: int) -> Entry | None:
        """The entry of a step, once it has ended there; None if it is to be executed here."""
        try:
            while True:
                seen = self._woken()
                looked = await self._look(key)
                if not looked.held:
                    return looked.entry
                await self._until(lambda seen=seen: self._woken() > seen)  # type: ignore[misc]
        except asyncio.CancelledError:
            # What it may still write would be an entry that the body does not ask for.
            taking = self._local(TAKE, Look(self._by, key, token), type(None))
            task = asyncio.get_running_loop().create_task(taking)
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)
            raise

    async def _until(self, told: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(told, timeout=self._every)

    async def _look(self, key: str) -> Looked:
        looked: Looked = await self._local(LOOK, Look(self._by, key), Looked)
        return looked
