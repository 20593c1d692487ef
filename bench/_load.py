"""A closed loop: a fixed number of runs at once, each measured from its submission to its result.

Independent of the contender; the result travels as JSON from the contender's process to the report.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

STEPS_PER_RUN = 5
STEP_RESULT = "x" * 200

OneRun = Callable[[], Awaitable[float]]
"""Executes one run to its result; returns the `time.perf_counter()` at which it was durably accepted."""


class Load(msgspec.Struct, frozen=True):
    """One contender's result at one concurrency in one round. Times are milliseconds unless the name says otherwise."""

    contender: str
    concurrency: int
    runs: int
    wall_s: float
    ack_p50_ms: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_run: float

    @property
    def runs_per_s(self) -> float:
        return self.runs / self.wall_s

    @property
    def steps_per_s(self) -> float:
        return self.runs_per_s * STEPS_PER_RUN


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that a `share` of the values do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


async def drive(contender: str, one_run: OneRun, concurrency: int, runs_max: int, seconds_max: float) -> Load:
    """Keep `concurrency` runs going until `runs_max` have started or `seconds_max` have passed."""
    await asyncio.gather(*(one_run() for _ in range(min(concurrency, 100))))  # warm up: connections, caches, threads
    acks: list[float] = []
    totals: list[float] = []
    left = runs_max
    ends_at = time.perf_counter() + seconds_max

    async def client() -> None:
        nonlocal left
        while left > 0 and time.perf_counter() < ends_at:
            left -= 1
            began = time.perf_counter()
            acked = await one_run()
            totals.append(time.perf_counter() - began)
            acks.append(acked - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return Load(
        contender,
        concurrency,
        len(totals),
        wall_s,
        percentile(acks, 0.5) * 1000,
        percentile(totals, 0.5) * 1000,
        percentile(totals, 0.99) * 1000,
        cpu_s / len(totals) * 1000,
    )
