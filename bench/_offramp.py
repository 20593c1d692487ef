"""The Offramp contender: a five-step pipeline on the deep path, in one process, with default settings.

`queued` leaves the workers' room at its default, so that further runs wait in the queue until they are claimed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench._load import STEP_RESULT, STEPS_PER_RUN, OneRun
from offramp import App
from offramp.paths.local import LocalRuntime
from offramp.paths.submission import Submission

WORKER_RUNS = 1_000
"""Room for every run of the benchmark, so that none is queued."""

app = App("bench")


@app.step
async def step(number: int) -> str:
    del number
    return STEP_RESULT


@app.pipeline
async def five() -> str:
    result = ""
    for number in range(STEPS_PER_RUN):
        result = await step(number)
    return result


SUBMISSION = Submission(pipeline="five", respond_async=True)


@asynccontextmanager
async def contender(folder: Path, *, queued: bool = False) -> AsyncIterator[OneRun]:
    async with app.local(data=folder, worker_runs=None if queued else WORKER_RUNS) as runtime:

        async def one_run() -> float:
            return await run_to_result(runtime)

        yield one_run


async def run_to_result(runtime: LocalRuntime) -> float:
    """Submit for the deep path and follow to the end; returns the time of the durable acceptance."""
    handle = await runtime.submit(SUBMISSION)
    acked = time.perf_counter()
    if await handle.result() != STEP_RESULT:
        raise AssertionError("the run returned another result")
    return acked
