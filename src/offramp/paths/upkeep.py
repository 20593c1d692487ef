"""What a process does now and then beside its runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from offramp.errors import ObjectLost, ObjectsUnavailable, StoreError
from offramp.paths.durations import Durations
from offramp.paths.parts import Background
from offramp.paths.process import Process
from offramp.paths.purge import purge

logger = logging.getLogger("offramp")

LEARN_EVERY_S = 5.0
"""How long another process may not know yet how long runs took here, and what a crash loses of that."""


class ObjectProbe(Background):
    """Tells an operator at the start, and not a run at its end, that large values cannot be written."""

    async def work(self) -> None:
        """Write, read and remove one object."""
        try:
            await self._process.values.probe(f"probe-{self._process.id}")
        except (ObjectLost, ObjectsUnavailable) as error:
            logger.error("large values cannot be kept: %s", error)  # noqa: TRY400 - an operator's matter


class Purging(Background):
    """Removes what is past its retention."""

    async def work(self) -> None:
        """Do so every `purge_every` seconds."""
        while not self.is_over:
            await asyncio.sleep(self._process.settings.purge_every)
            try:
                await purge(self._process, lambda: self.is_over)
            except StoreError as error:
                logger.error("expired runs were not removed: %s", error)  # noqa: TRY400 - tried again


class Learning(Background):
    """Shares with all processes how long runs take.

    Args:
        process: this one.
        durations: of its runs.
    """

    def __init__(self, process: Process, durations: Durations) -> None:
        super().__init__(process)
        self._durations = durations

    async def work(self) -> None:
        """Do so every `LEARN_EVERY_S` seconds."""
        while not self.is_over:
            await self._share()
            await asyncio.sleep(LEARN_EVERY_S)

    async def close(self) -> None:
        """Share what the last runs took."""
        await self._share()

    async def _share(self) -> None:
        try:
            self._durations.learned(await self._process.store.learn(self._durations.tell()))
        except StoreError as error:
            logger.warning("how long runs take was not shared: %s", error)


class CatchingUp(Background):
    """Looks for events that were not announced, also during the drain, while readers are still served."""

    async def work(self) -> None:
        """Do so every `poll` seconds, and at once where an announcement was missed."""
        feed, clock = self._process.feed, self._process.clock
        while not feed.ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(feed.missed.wait(), self._process.settings.poll)
            feed.missed.clear()
            try:
                await feed.catch_up(self._process.store, clock.monotonic())
            except StoreError as error:
                logger.error("readers were not looked after: %s", error)  # noqa: TRY400 - tried again
