"""What a process does now and then beside its runs; its coroutines run on the control loop.

Must not end because the store is away: what could not be done is done the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from offramp.errors import ObjectLost, ObjectsUnavailable, StoreError
from offramp.paths.live import LiveRuns
from offramp.paths.process import Process
from offramp.paths.purge import purge

log = logging.getLogger("offramp")

LEARN_EVERY_S = 5.0
"""How long another process may not know yet how long runs took here, and what a crash loses of that."""


class Upkeep:
    """Of one process.

    Args:
        process: this one.
        live: its runs, which tell how long they took.
        is_over: whether it drains or has.
    """

    def __init__(self, process: Process, live: LiveRuns, is_over: Callable[[], bool]) -> None:
        self._process = process
        self._live = live
        self._is_over = is_over

    def start(self) -> None:
        """Begin; it ends with the drain, and with the feed."""
        for work in (self._probe_objects(), self._purge(), self._catch_up(), self._learn()):
            self._process.control.spawn(work)

    async def _probe_objects(self) -> None:
        """Tell an operator at the start, not a run at its end."""
        try:
            await self._process.values.probe(f"probe-{self._process.id}")
        except (ObjectLost, ObjectsUnavailable) as error:
            log.error("large values cannot be kept: %s", error)  # noqa: TRY400 - an operator's matter

    async def _purge(self) -> None:
        while not self._is_over():
            await asyncio.sleep(self._process.settings.purge_every)
            try:
                await purge(self._process, self._is_over)
            except StoreError as error:
                log.error("expired runs were not removed: %s", error)  # noqa: TRY400 - tried again

    async def _learn(self) -> None:
        """Share with all processes how long runs take, so that each knows of those that ended elsewhere."""
        while not self._is_over():
            await self.tell_and_learn()
            await asyncio.sleep(LEARN_EVERY_S)

    async def tell_and_learn(self) -> None:
        """The same once."""
        durations = self._live.durations
        try:
            durations.learned(await self._process.store.learn(durations.tell()))
        except StoreError as error:
            log.warning("how long runs take was not shared: %s", error)

    async def _catch_up(self) -> None:
        """Look for events that were not announced, also during the drain, when readers are still served."""
        feed, clock = self._process.feed, self._process.clock
        while not feed.ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(feed.missed.wait(), self._process.settings.poll)
            feed.missed.clear()
            try:
                await feed.catch_up(self._process.store, clock.monotonic())
            except StoreError as error:
                log.error("readers were not looked after: %s", error)  # noqa: TRY400 - tried again
