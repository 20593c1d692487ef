"""Ended runs are counted, and the counts written even if a write fails or its writer gives up."""

from __future__ import annotations

import asyncio

import pytest

from offramp import App
from offramp.core.run import Outcome
from offramp.errors import StoreError
from offramp.paths import stats
from offramp.paths.stats import RunStats
from offramp.paths.submission import Submission
from offramp.stores.memory import MemoryStore
from offramp.testing import FakeClock
from tests.support import Signal, a_record, eventually, frames_of, member

DONE = Outcome("completed", b"1")


class Alone:
    """As much of a process as statistics need."""

    def __init__(self, store, clock):
        self.classes = {}
        self.clock = clock
        self.store = store


async def test_counts_whose_writer_gave_up_are_written_or_counted_again(monkeypatch):
    clock, store = FakeClock(), MemoryStore()
    here = RunStats(Alone(store, clock))
    here.ended(a_record(created_at=clock.time() - 10), DONE, clock.time())
    asked, ends, write = Signal(), Signal(), store.add_cells

    async def fails(_cells):
        asked.set()
        await ends.wait()
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "add_cells", fails)
    reader = asyncio.create_task(here.report("1h"))
    await asked.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    monkeypatch.setattr(store, "add_cells", write)
    ends.set()

    async def is_counted():
        clock.advance(stats.FRESH_S)
        return [row.runs("completed", "fast") for row in (await here.report("1h")).rows] == [1]

    await eventually(is_counted)


def app():
    made = App("short")

    @made.pipeline(budget=60)
    async def pipe() -> str:
        return "done"

    return made


async def test_a_store_that_refuses_is_asked_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(stats, "WRITE_EVERY_S", 0.01)
    async with member(app(), tmp_path, "gateway") as gateway:
        refused, store = [], gateway.process.store

        async def refuse(*asked):
            refused.append(asked)
            raise StoreError("the disk is full")

        with monkeypatch.context() as failing:
            failing.setattr(store, "add_cells", refuse)
            await frames_of(gateway, (await gateway.submit(Submission(pipeline="pipe"))).record.id)
            await eventually(lambda: len(refused) > 2)
        assert "the statistics of ended runs are not up to date: the disk is full" in caplog.text

        async def is_written():
            now = stats.minute_of(gateway.process.clock.time())
            found = await store.summed_cells(1, now - 1, now)
            return found.get(("pipe", "default"), {}).get("completed:fast") == 1

        await eventually(is_written)


@pytest.mark.parametrize(("seconds", "runs", "rate"), [(20, 60, 3.0), (2, 60, 6.0), (20, 9, 9 / 80)])
async def test_a_load_that_has_just_begun_is_measured_by_the_minute_that_has_begun(seconds, runs, rate):
    clock = FakeClock(1_700_000_040.0 - 60)  # a whole minute
    here = RunStats(Alone(MemoryStore(), clock))
    clock.advance(60.0 + seconds)
    for _ in range(runs):
        here.ended(a_record(path="deep", created_at=clock.time() - 1), DONE, clock.time())
    assert (await here.queue_rates())["default"] == pytest.approx(rate)
