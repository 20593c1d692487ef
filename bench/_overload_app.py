"""The App of the benchmark of overload: runs of calls that take as long as recorded ones, in two classes, or in one."""

from __future__ import annotations

import asyncio
import os

from bench._burst import BATCH, INTERACTIVE
from offramp import SLA, App

BUDGET = "BENCH_BUDGET_S"
ORDERED = "BENCH_ORDERED"
PATIENCE = "BENCH_PATIENCE_S"
"""Variables: the budget of interactive runs; whether the classes have priorities; the patience of both."""
ordered = os.environ.get(ORDERED) == "yes"
patience = float(os.environ.get(PATIENCE, "60"))

app = App(
    "overload",
    classes=[
        # Nothing is demoted by belief: the measurement is of the order alone.
        SLA(
            INTERACTIVE,
            budget=float(os.environ.get(BUDGET, "6")),
            priority=10 if ordered else 0,
            patience=patience,
            early_demotion=0.0,
        ),
        SLA(BATCH, budget=0, priority=-1 if ordered else 0, patience=patience),
    ],
)


@app.step
async def call(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.pipeline(sla=INTERACTIVE)
async def work(calls_s: list[float]) -> None:
    for seconds in calls_s:
        await call(seconds)
