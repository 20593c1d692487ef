"""Service levels of a service: how the runs of each class with a target kept its promise, in all processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from offramp.core import slo
from offramp.core.sla import SLA
from offramp.core.slo import Counts
from offramp.core.stats import BAD, GOOD
from offramp.errors import StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.parts import Background
from offramp.paths.process import Process
from offramp.paths.stats import Answers, RunStats

logger = logging.getLogger("offramp")

LOOK_EVERY_S = 15.0
"""The greatest age of the metrics of the shared counts."""


class ServiceLevel(NamedTuple):
    """One class with a target: its runs by window."""

    sla: SLA
    windows: Mapping[str, Counts]


class ServiceLevels(Background):
    """Reads the shared counts of ended runs by class.

    Args:
        process: this process.
        stats: counts the runs of this process.
        shows: whether its metrics show the shared counts.
    """

    def __init__(self, process: Process, stats: RunStats, *, shows: bool) -> None:
        super().__init__(process)
        self._stats = stats
        self.shows = shows
        self._classes = [sla for sla in process.classes.values() if sla.p95 is not None]
        self._answers: Answers[list[ServiceLevel]] = Answers(process.clock)

    async def work(self) -> None:
        """Show the shared counts at intervals."""
        while self.shows and self._classes and not self.is_over:
            try:
                self._show(await self._look(""))
            except StoreError as error:
                logger.error("service levels are not up to date: %s", error)  # noqa: TRY400 - tried again
            await sleep_for(self._process.clock, LOOK_EVERY_S)

    async def report(self, tenant: str = "") -> list[ServiceLevel]:
        """Every class with a target, the latest outcomes of this process included.

        Args:
            tenant: the owner of the runs; empty for all runs.

        Raises:
            StoreError: the counts cannot be read.
        """
        return await self._answers.get((tenant,), lambda: self._look(tenant))

    async def _look(self, tenant: str) -> list[ServiceLevel]:
        if not self._classes:
            return []
        windows: dict[str, dict[str, Counts]] = {}
        for window, minutes in slo.WINDOWS.items():
            by_class = windows[window] = {}
            for (_, sla), counts in (await self._stats.summed(minutes, tenant)).items():
                kept = Counts(counts.get(GOOD, 0), counts.get(BAD, 0))
                by_class[sla] = by_class.get(sla, Counts()).plus(kept)
        return [
            ServiceLevel(sla, {window: counts.get(sla.name, Counts()) for window, counts in windows.items()})
            for sla in self._classes
        ]

    def _show(self, levels: list[ServiceLevel]) -> None:
        for level in levels:
            for window, counts in level.windows.items():
                within, burn_rate = slo.within_target(counts), slo.burn_rate(counts)
                self._process.metrics.service_level(level.sla.name, window, within, burn_rate)
