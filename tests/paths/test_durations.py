"""How long runs are expected to take: counted here, and in the processes that share the store."""

from __future__ import annotations

import asyncio

import pytest

from offramp import App
from offramp.core.run import Outcome
from offramp.errors import StoreError
from offramp.paths import stats
from offramp.paths.stats import LEARNED_MINUTES, RunStats
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


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def pair(store):
    clock = FakeClock()
    return RunStats(Alone(store, clock)), RunStats(Alone(store, clock)), clock


def ended(counts, clock, seconds, pipeline="pipe", **given):
    now = clock.time()
    counts.ended(a_record(pipeline=pipeline, created_at=now - 99, started_at=now - seconds, **given), DONE, now)


def test_the_average_is_of_what_runs_took_from_their_start(pair):
    here, _, clock = pair
    assert here.expected_s("pipe", 6.0) == 6.0
    ended(here, clock, 10.0)
    ended(here, clock, 30.0)
    assert here.expected_s("pipe", 6.0) == pytest.approx(20.0, abs=0.01)
    assert here.expected_s("other", 6.0) == 6.0


def test_a_retry_may_have_executed_few_steps_and_does_not_count(pair):
    here, _, clock = pair
    ended(here, clock, 1.0, retry_of="run_1")
    assert here.expected_s("pipe", 6.0) == 6.0


async def test_runs_of_all_processes_count_once(pair):
    here, there, clock = pair
    ended(here, clock, 10.0)
    ended(there, clock, 30.0)
    ended(there, clock, 2.0, "other")
    for _ in range(2):
        await there.close()
        await here.close()
        assert here.expected_s("pipe", 6.0) == pytest.approx(10.0, abs=0.01), "not read yet"
        assert there.expected_s("pipe", 6.0) == pytest.approx(30.0, abs=0.01)
    await here.learn()
    ended(here, clock, 80.0)
    assert here.expected_s("pipe", 6.0) == pytest.approx(40.0, abs=0.01)
    assert here.expected_s("other", 6.0) == pytest.approx(2.0, abs=0.01)


async def test_old_runs_count_until_there_are_new_ones(pair):
    here, there, clock = pair
    ended(there, clock, 30.0)
    await there.close()
    await here.learn()
    clock.advance(60.0 * LEARNED_MINUTES + 60)
    await here.learn()
    assert here.expected_s("pipe", 6.0) == pytest.approx(30.0, abs=0.01)
    ended(there, clock, 4.0)
    await there.close()
    await here.learn()
    assert here.expected_s("pipe", 6.0) == pytest.approx(4.0, abs=0.01)


async def test_a_new_process_reads_a_day_where_the_last_hour_has_no_runs(pair):
    here, there, clock = pair
    ended(there, clock, 30.0)
    await there.close()
    clock.advance(3 * 3600.0)
    await here.learn()
    assert here.expected_s("pipe", 6.0) == pytest.approx(30.0, abs=0.01)


async def test_counts_whose_writer_gave_up_are_written_or_counted_again(pair, store, monkeypatch):
    here, _, clock = pair
    ended(here, clock, 10.0)
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


async def test_a_gateway_learns_of_runs_that_ended_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(stats, "WRITE_EVERY_S", 0.01)
    async with member(app(), tmp_path, "gateway") as gateway, member(app(), tmp_path, "worker"):
        run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
        await frames_of(gateway, run)
        await eventually(lambda: gateway.live.stats.expected_s("pipe", 99.0) < 99.0)
    async with member(app(), tmp_path, "gateway") as later:
        await eventually(lambda: later.live.stats.expected_s("pipe", 99.0) < 99.0)


async def test_a_store_that_refuses_is_asked_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(stats, "WRITE_EVERY_S", 0.01)
    async with member(app(), tmp_path, "gateway") as gateway:
        refused = []

        async def refuse(*asked):
            refused.append(asked)
            raise StoreError("the disk is full")

        with monkeypatch.context() as failing:
            failing.setattr(gateway.process.store, "summed_cells", refuse)
            await eventually(lambda: len(refused) > 2)
        assert "the statistics of ended runs are not up to date: the disk is full" in caplog.text
        await frames_of(gateway, (await gateway.submit(Submission(pipeline="pipe"))).record.id)
        await eventually(lambda: gateway.live.stats.expected_s("pipe", 99.0) < 99.0)
