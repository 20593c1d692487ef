"""Statistics of a service: each process counts the runs that end in it, and adds them to the shared cells.

A process writes its counts every `WRITE_EVERY_S`, never while a caller waits; a crash loses only the counts since then.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Sequence

from offramp.core import stats
from offramp.core.run import Outcome, RunHead, RunRecord
from offramp.core.slo import MINUTE_S, minute_of
from offramp.core.stats import COARSE, FINE, Cell, Row
from offramp.errors import StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.parts import Background
from offramp.paths.process import Process

logger = logging.getLogger("offramp")

WRITE_EVERY_S = 5.0
"""Seconds for which an outcome may be missing from the shared counts; a crash loses as much."""
FRESH_S = 1.0
"""The greatest age of a reused answer: however many callers ask, the store is read as often."""
UNFINISHED_MAX = 10_000
"""Unfinished runs that one answer looks at."""
ANSWERS_MAX = 1_000
"""Answers that are kept for reuse, by window and tenant."""
_Key = tuple[int, str, str, str]
"""Minute, tenant, pipeline and class."""


class Found:
    """The statistics in a window.

    Attributes:
        rows: by pipeline and class.
        now: when it was read, in epoch seconds.
        since: the beginning of the window.
        is_complete: whether it counts every unfinished run.
    """

    def __init__(self, rows: Sequence[Row], now: float, since: float, *, is_complete: bool) -> None:
        self.rows, self.now, self.since, self.is_complete = rows, now, since, is_complete


class RunStats(Background):
    """Counts the ended runs of this process, reads the shared counts.

    Args:
        process: this process.
    """

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._counts: dict[_Key, Counter[str]] = {}
        self._lock = threading.Lock()
        self._reading = asyncio.Lock()
        self._read: dict[tuple[str, str], tuple[float, Found]] = {}
        self._heads: tuple[float, Sequence[RunHead]] | None = None

    def ended(self, record: RunRecord, outcome: Outcome, at: float) -> None:
        """Count a run that got its outcome `at`, in epoch seconds; from any thread."""
        names = stats.events_of(record, outcome.status, at - record.created_at)
        key = minute_of(at), record.tenant, record.pipeline, record.sla
        with self._lock:
            self._counts.setdefault(key, Counter()).update(names)

    async def work(self) -> None:
        """Write the counts at intervals."""
        while not self.is_over:
            await sleep_for(self._process.clock, WRITE_EVERY_S)
            try:
                await self._write()
            except StoreError as error:
                logger.warning("the statistics of ended runs were not written: %s", error)

    async def close(self) -> None:
        """Write the last counts, twice: when the first write returns, the last outcomes are stored and counted."""
        try:
            for _ in range(2):
                await self._write()
        except StoreError as error:
            logger.warning("the last outcomes are missing from the statistics: %s", error)

    async def report(self, window: str, tenant: str = "") -> Found:
        """Every pipeline and class with runs, the latest outcomes of this process included.

        Args:
            window: one of `core.stats.WINDOWS`.
            tenant: the owner of the runs; empty for all runs.

        Raises:
            StoreError: the counts cannot be read.
        """
        async with self._reading:
            at = self._process.clock.monotonic()
            self._read = {key: read for key, read in self._read.items() if at < read[0] + FRESH_S}
            if (window, tenant) not in self._read:
                found = await self._look(window, tenant, at)
                if len(self._read) >= ANSWERS_MAX:
                    self._read.clear()
                self._read[window, tenant] = at, found
            return self._read[window, tenant][1]

    async def _look(self, window: str, tenant: str, at: float) -> Found:
        await self._write()
        store, now = self._process.store, self._process.clock.time()
        if self._heads is None or at >= self._heads[0] + FRESH_S:
            self._heads = at, await store.unfinished(UNFINISHED_MAX + 1)
        heads = self._heads[1]
        mine = [head for head in heads[:UNFINISHED_MAX] if not tenant or head.tenant == tenant]
        width, (first, last) = stats.width_of(window), stats.numbers_of(now, window)
        counts = await store.summed_cells(width, first, last, tenant)
        since = float(first * width * MINUTE_S)
        return Found(stats.rows(counts, mine), now, since, is_complete=len(heads) <= UNFINISHED_MAX)

    async def _write(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await self._process.store.add_cells(_cells(counts))
        except StoreError:
            with self._lock:
                for key, names in counts.items():
                    self._counts.setdefault(key, Counter()).update(names)
            raise


def _cells(counts: dict[_Key, Counter[str]]) -> list[Cell]:
    """The counts in cells of both widths, of single tenants and of all."""
    summed: dict[tuple[str, int, int, str, str], Counter[str]] = {}
    for (minute, tenant, pipeline, sla), names in counts.items():
        for width in (FINE, COARSE):
            for whose in {tenant, ""}:
                summed.setdefault((whose, width, minute // width, pipeline, sla), Counter()).update(names)
    return [Cell(*key, names) for key, names in summed.items()]
