"""What the tests of waiting runs share: each store, and a look at whether a run is parked."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

from offramp.paths.submission import Submission
from offramp.stores.memory import MemoryStore
from offramp.wiring import local
from tests.support import GUARD_S


def started(app, place, clock=None, **settings):
    """A runtime over a store: `place` is a folder, or None for memory."""
    store = {"store": "memory:"} if place is None else {"data": str(place)}
    return local(app, store | settings, clock)


def is_parked(service, run_id):
    """Whether the store has the run parked: durable, without an owner."""
    store = service.process.store
    if isinstance(store, MemoryStore):
        run = store._runs.get(run_id)
        return run is not None and run.parked_until is not None
    with contextlib.closing(sqlite3.connect(store.database.path)) as connection:
        row = connection.execute("SELECT parked_until FROM runs WHERE id = ?", (run_id,)).fetchone()
    return row is not None and row[0] is not None


async def until(condition, clock=None, step=0.05):
    """Wait for what announces itself by nothing; a fake clock runs meanwhile, in small jumps."""
    async with asyncio.timeout(GUARD_S):
        while not condition():
            if clock is not None:
                clock.advance(step)
            await asyncio.sleep(0.002)


async def parked(service, *run_ids, clock=None):
    await until(lambda: all(is_parked(service, run_id) for run_id in run_ids), clock)


def deep(pipeline, **given):
    """A submission that goes to the deep path at once."""
    return Submission(pipeline=pipeline, respond_async=True, **given)
