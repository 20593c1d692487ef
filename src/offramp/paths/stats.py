"""Statistics of a service: each process counts the runs that end in it, and adds them to the shared cells.

A process writes its counts every `WRITE_EVERY_S`, never while a caller waits; a crash loses only the counts since then.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from offramp.core import slo, stats
from offramp.core.order import longest_wait_s
from offramp.core.run import Outcome, RunHead, RunRecord
from offramp.core.slo import MINUTE_S, minute_of
from offramp.core.stats import KEPT_MINUTES, Cell, Row
from offramp.errors import StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.parts import Background
from offramp.paths.process import Process
from offramp.ports.clock import Clock

T = TypeVar("T")
logger = logging.getLogger("offramp")

WRITE_EVERY_S = 5.0
"""Seconds for which an outcome may be missing from the shared counts; a crash loses as much."""
COUNTS_PER_WRITE = 50
"""Minutes of a pipeline, class and tenant that one write adds: other writes wait for it."""
FRESH_S = 1.0
"""The greatest age of a reused answer: however many callers ask, the store is read as often."""
RATE_MINUTES = (0, 1, 5)
"""The windows in which the rate of the queue is measured, beside the minute that has begun."""
RATE_S_MIN, RATE_RUNS_MIN = 10.0, 10
"""The seconds of a begun minute that count at least, and its ended runs below which it tells nothing by itself."""
UNFINISHED_MAX = 10_000
"""Unfinished runs that one answer looks at."""
ANSWERS_MAX = 1_000
"""Answers that are kept for reuse, by window and tenant."""
_Key = tuple[int, str, str, str]
"""Minute, tenant, pipeline and class."""


class Answers(Generic[T]):
    """Answers that are given again for `FRESH_S`, on one loop: however many callers ask, the store is read as often."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reading = asyncio.Lock()
        self._read: dict[tuple[str, ...], tuple[float, T]] = {}

    async def get(self, key: tuple[str, ...], read: Callable[[], Awaitable[T]]) -> T:
        """The answer of this key, read unless there is a fresh one; raises what `read` raises."""
        async with self._reading:
            now = self._clock.monotonic()
            self._read = {known: kept for known, kept in self._read.items() if now < kept[0] + FRESH_S}
            if key not in self._read:
                answer = await read()
                if len(self._read) >= ANSWERS_MAX:
                    self._read.clear()
                self._read[key] = now, answer
            return self._read[key][1]


class Found:
    """The statistics in a window.

    Attributes:
        rows: by pipeline and class.
        now: when it was read, in epoch seconds.
        since: the beginning of the window.
        is_complete: whether it counts every unfinished run.
        queues: the limit of the queue, and the longest wait in it, of the classes with a limit; the wait is None for a
            tenant, as it follows from the rate of all tenants.
    """

    def __init__(self, rows: Sequence[Row], now: float, since: float, *, is_complete: bool) -> None:
        self.rows, self.now, self.since, self.is_complete = rows, now, since, is_complete
        self.queues: dict[str, tuple[int, float | None]] = {}


class RunStats(Background):
    """Counts the ended runs of this process, reads the shared counts.

    Args:
        process: this process.
    """

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._counts: dict[_Key, Counter[str]] = {}
        self._lock = threading.Lock()
        self._puts: set[asyncio.Task[None]] = set()
        self._answers: Answers[Found] = Answers(process.clock)
        self._rates: Answers[dict[str, float]] = Answers(process.clock)
        self._heads: Answers[Sequence[RunHead]] = Answers(process.clock)

    def ended(self, record: RunRecord, outcome: Outcome, at: float) -> None:
        """Count a run that got its outcome `at`, in epoch seconds; from any thread."""
        seconds = at - record.created_at
        good = slo.keeps_promise(self._process.classes.get(record.sla), outcome.status, seconds)
        if good is not None:
            self._process.metrics.counted(record.sla, good=good)
        counts = stats.counts_of(record, outcome.status, at, good=good)
        key = minute_of(at), record.tenant, record.pipeline, record.sla
        with self._lock:
            self._counts.setdefault(key, Counter()).update(counts)

    def cold_started(self, record: RunRecord, at: float) -> None:
        """Count that a run waited for a process to start, until `at`, in epoch seconds; from any thread."""
        self._process.metrics.cold_started(record.sla)
        key = minute_of(at), record.tenant, record.pipeline, record.sla
        with self._lock:
            self._counts.setdefault(key, Counter())[stats.COLD] += 1

    async def work(self) -> None:
        """Write the counts at intervals.

        An idle process writes too: it has to notice when the store takes no writes.
        """
        while not self.is_over:
            try:
                if self._counts:
                    await self._write()
                else:
                    await self._process.store.add_cells([])
            except StoreError as error:
                logger.warning("the statistics of ended runs are not up to date: %s", error)
            await sleep_for(self._process.clock, WRITE_EVERY_S)

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
        return await self._answers.get((window, tenant), lambda: self._look(window, tenant))

    async def summed(self, minutes: int, tenant: str = "") -> dict[tuple[str, str], dict[str, int]]:
        """The counts in a window of so many minutes, by pipeline and class, those of this process included.

        Raises:
            StoreError: they cannot be read.
        """
        await self._write()
        cells = stats.cells_of(self._process.clock.time(), minutes)
        return await self._process.store.summed_cells(*cells, tenant)

    async def queue_rates(self) -> dict[str, float]:
        """By class, how many deep runs end a second in all processes: as many leave the queue in the long run.

        Raises:
            StoreError: the counts cannot be read.
        """
        return await self._rates.get((), self._count_rates)

    async def _count_rates(self) -> dict[str, float]:
        """The highest of this minute, the last one and the last five: a load may have begun, or have slowed down."""
        now, rates = self._process.clock.time(), dict[str, float]()
        for minutes in RATE_MINUTES:
            began = float(stats.cells_of(now, minutes)[1] * MINUTE_S)
            for sla, ended in stats.ended_deep(await self.summed(minutes)).items():
                if minutes or ended >= RATE_RUNS_MIN:
                    rates[sla] = max(rates.get(sla, 0.0), ended / max(now - began, RATE_S_MIN))
        return rates

    async def _look(self, window: str, tenant: str) -> Found:
        store, now = self._process.store, self._process.clock.time()
        heads = await self._heads.get((), lambda: store.unfinished(UNFINISHED_MAX + 1))
        mine = [head for head in heads[:UNFINISHED_MAX] if not tenant or head.tenant == tenant]
        minutes = stats.WINDOWS[window]
        counts = await self.summed(minutes, tenant)
        width, first, _ = stats.cells_of(now, minutes)
        since = float(first * width * MINUTE_S)
        found = Found(stats.rows(counts, mine), now, since, is_complete=len(heads) <= UNFINISHED_MAX)
        limited = {sla.name: sla for sla in self._process.classes.values() if sla.queue_limit is not None}
        if limited:
            rate = 0.0 if tenant else sum((await self.queue_rates()).values())
            found.queues = {name: (sla.queue_limit or 0, longest_wait_s(sla, rate)) for name, sla in limited.items()}
        return found

    async def _write(self) -> None:
        """Write the counts so far. They are written, or counted again, even if the caller gives up."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if counts:
            put = asyncio.get_running_loop().create_task(self._put(counts))
            self._puts.add(put)
            put.add_done_callback(self._puts.discard)
            await asyncio.shield(put)

    async def _put(self, counts: dict[_Key, Counter[str]]) -> None:
        """Write in short calls, between which the store takes other writes."""
        left = dict(counts)
        try:
            while left:
                part = dict(itertools.islice(left.items(), COUNTS_PER_WRITE))
                await self._process.store.add_cells(_cells(part))
                for key in part:
                    del left[key]
        except StoreError:
            with self._lock:
                for key, more in left.items():
                    self._counts.setdefault(key, Counter()).update(more)
            raise


def _cells(counts: dict[_Key, Counter[str]]) -> list[Cell]:
    """The counts in cells of every width, of single tenants and of all."""
    summed: dict[tuple[str, int, int, str, str], Counter[str]] = {}
    for (minute, tenant, pipeline, sla), more in counts.items():
        for width in KEPT_MINUTES:
            for whose in {tenant, ""} if (held := stats.held_in(width, more)) else ():
                summed.setdefault((whose, width, minute // width, pipeline, sla), Counter()).update(held)
    return [Cell(*key, held) for key, held in summed.items()]
