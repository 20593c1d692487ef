"""A deep run that emits its times; a worker executes it while `following.py` reads at a gateway."""

from __future__ import annotations

import asyncio
import time

from offramp import App, emit

app = App("following")


@app.step
async def tell(events: int, pause_s: float) -> None:
    for _ in range(events):
        await asyncio.sleep(pause_s)
        emit(time.perf_counter())  # one clock for the whole machine, on Linux


@app.pipeline(budget=0)
async def timed(events: int, pause_s: float) -> None:
    await tell(events, pause_s)
