"""The regular work of a process beside its runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from offramp.errors import ObjectLost, ObjectsUnavailable, StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.parts import Background
from offramp.paths.purge import purge

logger = logging.getLogger("offramp")

COUNT_EVERY_S = 10.0
"""Seconds between two counts of the runs that wait."""


class ObjectProbe(Background):
    """Reports at the start of a process, not at the end of a run, that large values cannot be written."""

    async def work(self) -> None:
        """Write, read and remove one object."""
        try:
            await self._process.values.probe(f"probe-{self._process.id}")
        except (ObjectLost, ObjectsUnavailable) as error:
            logger.error("large values cannot be stored: %s", error)  # noqa: TRY400 - an operator's matter


class Purging(Background):
    """Removes runs past their retention."""

    async def work(self) -> None:
        """Purge every `purge_every` seconds."""
        while not self.is_over:
            await asyncio.sleep(self._process.settings.purge_every)
            try:
                await purge(self._process, lambda: self.is_over)
            except StoreError as error:
                logger.error("expired runs were not removed: %s", error)  # noqa: TRY400 - tried again


class Counting(Background):
    """Shows in the metrics how many runs of all processes wait."""

    async def work(self) -> None:
        """Count them every `COUNT_EVERY_S` seconds."""
        clock = self._process.clock
        while not self.is_over:
            try:
                self._process.metrics.waiting(await self._process.store.waiting())
            except StoreError as error:
                logger.error("waiting runs were not counted: %s", error)  # noqa: TRY400 - tried again
            await sleep_for(clock, COUNT_EVERY_S)


class CatchingUp(Background):
    """Looks for events without a notification, even during the drain, while readers are still served."""

    async def work(self) -> None:
        """Look every `poll` seconds, and at once if a notification may be lost."""
        feed, clock = self._process.feed, self._process.clock
        while not feed.ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(feed.missed.wait(), self._process.settings.poll)
            feed.missed.clear()
            try:
                await feed.catch_up(self._process.store, clock.monotonic())
            except StoreError as error:
                logger.error("could not look for events that readers missed: %s", error)  # noqa: TRY400 - tried again
