"""The end of a run's data: its objects go first, then the run is emptied.

A run whose objects could not be removed stays unchanged, and due, so that no object remains without its run. One
process purges for all, and rests after each step, so that waiting writes have their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from offramp.paths.parts import Single
from offramp.paths.process import Process

DUTY = "purge"
DUTY_S = 30.0
"""Seconds after which another process takes over from a purging process that was killed."""
REST = 3.0
"""The rest after each step of a purge, as a multiple of the duration of the step."""
REST_S_MAX = 1.0


async def purge(process: Process, stopping: Callable[[], bool] = lambda: False) -> None:
    """Remove runs past their retention, unless another process does.

    Args:
        process: the purging process.
        stopping: whether to leave the rest to other processes.

    Raises:
        StoreError: some runs are left for the next time.
    """
    duty, clock = Single(process, DUTY, DUTY_S), process.clock
    left = True
    while left and not stopping():
        if not await duty.is_mine():
            return
        now, left = clock.time(), False
        for step in (_empty, _sweep):
            began = clock.monotonic()
            if await step(process, now):
                left = True
                await asyncio.sleep(min(REST_S_MAX, REST * (clock.monotonic() - began)))
    await duty.give_up()


async def _empty(process: Process, now: float) -> int:
    blobs = process.values.blobs
    due = None
    if blobs is not None:
        due = await process.store.due(now)
        if not due:
            return 0
        await blobs.delete(due)
    runs = await process.store.purge(now, due)
    process.metrics.purged(runs)
    return runs


async def _sweep(process: Process, now: float) -> int:
    return await process.store.sweep(now)
