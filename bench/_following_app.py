"""A deep run that says when it emitted; what a worker executes while `following.py` reads at a gateway."""

from __future__ import annotations

import asyncio
import time

from offramp import App, emit

app = App("following")


@app.step
async def tell(events: int, pause_s: float) -> None:
    for _ in range(events):
        await asyncio.sleep(pause_s)
        emit(time.perf_counter())  # of the whole machine, on Linux


@app.pipeline(budget=0)
async def told(events: int, pause_s: float) -> None:
    await tell(events, pause_s)
