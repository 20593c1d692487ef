"""Service levels of a service: each process counts ended runs by class and minute, and adds them to the shared counts.

A process writes its counts every `WRITE_EVERY_S`, never while a caller waits; a crash loses only the counts since then.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import NamedTuple

from offramp.core import slo
from offramp.core.run import Outcome, RunRecord
from offramp.core.sla import SLA
from offramp.core.slo import Counts, Tally
from offramp.errors import StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.process import Process
from offramp.ports.parts import Part

logger = logging.getLogger("offramp")

WRITE_EVERY_S = 5.0
"""Seconds for which an outcome may be missing from the shared counts; a crash loses as much."""
LOOK_EVERY_S = 15.0
"""The greatest age of the metrics of the shared counts."""
FRESH_S = 1.0
"""The greatest age of a reused answer."""


class ServiceLevel(NamedTuple):
    """One class with a target: its runs by window."""

    sla: SLA
    windows: Mapping[str, Counts]


class ServiceLevels(Part):
    """Counts the runs of this process, reads the shared counts.

    Args:
        process: this process.
        shows: whether its metrics show the shared counts.
    """

    def __init__(self, process: Process, *, shows: bool) -> None:
        self._process = process
        self.shows = shows
        self._counts: dict[tuple[str, int, str], Counts] = {}
        self._lock = threading.Lock()
        self._classes = [sla for sla in process.classes.values() if sla.p95 is not None]
        self._reading = asyncio.Lock()
        self._read: dict[str, tuple[float, list[ServiceLevel]]] = {}

    def ended(self, record: RunRecord, outcome: Outcome, at: float) -> None:
        """Count a run that got its outcome `at`, in epoch seconds; from any thread."""
        good = slo.keeps_promise(self._process.classes.get(record.sla), outcome.status, at - record.created_at)
        if good is None:
            return
        self._process.metrics.counted(record.sla, good=good)
        minute, counts = slo.minute_of(at), Counts(1, 0) if good else Counts(0, 1)
        self._add(Tally(record.sla, minute, counts))
        if record.tenant:
            self._add(Tally(record.sla, slo.coarse(minute), counts, record.tenant))

    def _add(self, tally: Tally) -> None:
        key = tally.sla, tally.minute, tally.tenant
        with self._lock:
            self._counts[key] = self._counts.get(key, Counts()).plus(tally.counts)

    async def start(self) -> None:
        """Begin to write and read counts."""
        self._process.control.spawn(self.keep())

    async def keep(self) -> None:
        """Write and read counts at intervals, without end."""
        if not self._classes:
            return
        clock = self._process.clock
        looks_at = clock.monotonic()
        while True:
            try:
                if self._counts:
                    await self._write()
                if self.shows and clock.monotonic() >= looks_at:
                    looks_at = clock.monotonic() + LOOK_EVERY_S
                    self._show(await self._look())
            except StoreError as error:
                logger.error("service levels are not up to date: %s", error)  # noqa: TRY400 - tried again
            await sleep_for(clock, WRITE_EVERY_S)

    async def close(self) -> None:
        """Write the last counts, twice: when the first write returns, the last outcomes are stored and counted."""
        if not self._classes:
            return
        try:
            for _ in range(2):
                await self._write()
        except StoreError as error:
            logger.warning("the last outcomes are missing from the service levels: %s", error)

    async def report(self, tenant: str = "") -> list[ServiceLevel]:
        """Every class with a target, the latest outcomes of this process included.

        Args:
            tenant: the owner of the runs; empty for all runs.

        Raises:
            StoreError: the counts cannot be read.
        """
        async with self._reading:
            now = self._process.clock.monotonic()
            self._read = {known: read for known, read in self._read.items() if now < read[0] + FRESH_S}
            if tenant not in self._read:
                if self._counts:
                    await self._write()
                self._read[tenant] = now, await self._look(tenant)
            return self._read[tenant][1]

    async def _write(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
        tallies = [Tally(sla, minute, count, tenant) for (sla, minute, tenant), count in counts.items()]
        try:
            await self._process.store.tally(tallies)
        except StoreError:
            for tally in tallies:
                self._add(tally)
            raise

    async def _look(self, tenant: str = "") -> list[ServiceLevel]:
        if not self._classes:
            return []
        now, store = self._process.clock.time(), self._process.store
        since = {window: slo.since(now, window) for window in slo.WINDOWS}
        if tenant:
            since = {window: slo.coarse(minute) for window, minute in since.items()}
        found = {window: await store.tallied(minute, tenant) for window, minute in since.items()}
        return [
            ServiceLevel(sla, {window: counts.get(sla.name, Counts()) for window, counts in found.items()})
            for sla in self._classes
        ]

    def _show(self, levels: list[ServiceLevel]) -> None:
        for level in levels:
            for window, counts in level.windows.items():
                within, burn_rate = slo.within_target(counts), slo.burn_rate(counts)
                self._process.metrics.service_level(level.sla.name, window, within, burn_rate)
