"""Service levels of a running service: counted, kept over restarts, added up over processes, shown."""

from __future__ import annotations

import asyncio

import pytest

from offramp import SLA, App, testing
from offramp.core.run import Outcome
from offramp.core.slo import WINDOWS, Counts, minute_of
from offramp.core.stats import BAD, COARSE, FINE, GOOD, LONG, Cell
from offramp.errors import StoreError
from offramp.paths.slo import LOOK_EVERY_S, ServiceLevels
from offramp.paths.stats import FRESH_S, WRITE_EVERY_S, RunStats
from offramp.paths.submission import Submission
from offramp.stores.memory import MemoryStore
from offramp.testing import FakeClock
from tests.support import GUARD_S, Signal, a_record, eventually, frames_of, member, reading


def make_app(gate=None):
    app = App("levels", classes=[SLA("quick", p95=2.0, budget=30.0), SLA("batch", budget=0)])

    @app.step
    async def answer(how: str) -> str:
        if how == "fail":
            raise ValueError(how)
        if how == "wait":
            await gate.wait()
        return how

    @app.pipeline(sla="quick")
    async def ask(how: str) -> str:
        return await answer(how)

    return app


async def ended(service, how, **given):
    run = (await service.submit(Submission(pipeline="ask", input=f'{{"how": "{how}"}}'.encode(), **given))).record.id
    await frames_of(service, run)
    return run


async def counts_of(service, window="1h"):
    (level,) = await service.service_levels()
    assert level.sla.name == "quick"
    return level.windows[window]


async def test_outcomes_are_counted_for_classes_with_a_target(tmp_path):
    async with member(make_app(), tmp_path, "local") as service:
        await ended(service, "ok")
        await ended(service, "ok", respond_async=True)
        await ended(service, "fail")
        await ended(service, "ok", sla="batch")
        result = {"class": "quick", "result": "good"}
        await eventually(lambda: reading(service, "offramp_slo_runs_total", **result) == 2)
        assert reading(service, "offramp_slo_runs_total", **result | {"result": "bad"}) == 1
        for window in WINDOWS:
            assert await counts_of(service, window) == Counts(2, 1)


async def test_a_cancelled_run_does_not_count(tmp_path):
    gate = Signal()
    async with member(make_app(gate), tmp_path, "local") as service:
        run = (await service.submit(Submission(pipeline="ask", input=b'{"how": "wait"}'))).record.id
        await service.cancel(run)
        await frames_of(service, run)
        await ended(service, "ok")
        await eventually(
            lambda: reading(service, "offramp_slo_runs_total", **{"class": "quick", "result": "good"}) == 1
        )
        assert await counts_of(service) == Counts(1, 0)


async def test_a_run_that_is_late_is_bad_though_it_completes():
    clock, gate = FakeClock(), Signal()
    async with testing.runtime(make_app(gate), clock=clock) as runtime:
        handle = await runtime.start("ask", how="wait")
        clock.advance(2.5)
        gate.set()
        assert await testing.result_of(handle) == "wait"
        await eventually(
            lambda: reading(runtime.service, "offramp_slo_runs_total", **{"class": "quick", "result": "bad"}) == 1
        )


async def test_counts_survive_a_restart_and_add_up_over_processes(tmp_path):
    app = make_app()
    async with member(app, tmp_path, "local") as service:
        await ended(service, "ok")
    async with member(app, tmp_path, "gateway") as gateway, member(app, tmp_path, "worker") as worker:
        await ended(gateway, "ok")
        await ended(gateway, "fail", respond_async=True)  # in the worker, which tells when it is asked or stops
        await eventually(lambda: reading(worker, "offramp_slo_runs_total", **{"class": "quick", "result": "bad"}) == 1)
        assert await counts_of(gateway) == Counts(2, 0)
        assert await counts_of(worker) == Counts(2, 1)
    async with member(app, tmp_path, "gateway") as gateway:
        assert await counts_of(gateway) == Counts(2, 1)


async def test_what_ends_last_is_counted_too(tmp_path):
    gate = Signal()
    app = make_app(gate)
    async with member(app, tmp_path, "local") as service:
        await service.submit(Submission(pipeline="ask", input=b'{"how": "wait"}'))
        gate.set()  # it ends while the service stops, or just before
    async with member(app, tmp_path, "local") as service:

        async def is_counted():
            return await counts_of(service) == Counts(1, 0)

        await eventually(is_counted)


class Refusing(MemoryStore):
    """A store that cannot be written for a while; remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.broken = False
        self.given = []
        self.asked = self.writes = 0

    async def add_cells(self, cells):
        self.writes += 1
        if self.broken:
            raise StoreError("no room")
        if cells:
            self.given.append(list(cells))
        await super().add_cells(cells)

    async def summed_cells(self, width, first, last, tenant=""):
        self.asked += 1
        return await super().summed_cells(width, first, last, tenant)


class Shown:
    """The metrics of a process that does nothing else."""

    def __init__(self):
        self.levels = {}
        self.counts = []

    def counted(self, sla, *, good):
        self.counts.append(good)

    def service_level(self, sla, window, within, burn_rate):
        self.levels[window] = within, burn_rate


class Alone:
    """As much of a process as service levels need."""

    def __init__(self):
        self.classes = {"quick": SLA("quick", p95=2.0), "batch": SLA("batch")}
        self.clock = FakeClock()
        self.store = Refusing()
        self.metrics = Shown()
        self.stats = RunStats(self)

    def levels(self, *, shows=False):
        return ServiceLevels(self, self.stats, shows=shows)

    def ends(self, outcome, *, at=0.0, times=1):
        """A run that was accepted just now ends, so many seconds from now."""
        now = self.clock.time() + at
        for _ in range(times):
            self.stats.ended(a_record(sla="quick", created_at=now), outcome, now)

    def given(self, *names, width=FINE):
        """The counts of these names in each cell of a width, as they were written."""
        cells = [cell for cells in self.store.given for cell in cells if cell.width == width]
        return [(cell.number, [cell.counts.get(name, 0) for name in names]) for cell in cells]


@pytest.fixture
def alone():
    return Alone()


DONE, FAILED = Outcome("completed", b"1"), Outcome("failed")


async def passing(alone, works, seconds):
    """Let the clock run for so long, with the task of a part beside it."""
    task = asyncio.create_task(works.work())
    try:
        await asyncio.sleep(0)
        for _ in range(int(seconds)):
            alone.clock.advance(1.0)
            for _ in range(20):  # turns of the loop: what a timer woke continues
                await asyncio.sleep(0)
    finally:
        task.cancel()


async def test_counts_are_written_now_and_then_and_once(alone):
    task = asyncio.create_task(alone.stats.work())
    await eventually(lambda: alone.store.writes)
    alone.ends(DONE, times=3)
    minute = minute_of(alone.clock.time())
    assert alone.store.given == []
    alone.clock.advance(WRITE_EVERY_S)
    await eventually(lambda: alone.store.given)
    assert alone.given(GOOD, BAD) == [(minute, [3, 0])]
    writes = alone.store.writes
    alone.clock.advance(WRITE_EVERY_S)
    await eventually(lambda: alone.store.writes > writes)
    assert len(alone.store.given) == 1
    task.cancel()


async def test_what_the_store_refuses_is_written_later(alone, caplog):
    alone.store.broken = True
    alone.ends(DONE)
    await passing(alone, alone.stats, 2 * WRITE_EVERY_S)
    assert "the statistics of ended runs are not up to date: no room" in caplog.text
    alone.ends(FAILED)
    alone.store.broken = False
    await passing(alone, alone.stats, 2 * WRITE_EVERY_S)
    assert [counts for _, counts in alone.given(GOOD, BAD)] == [[1, 1]]


async def test_minutes_are_counted_apart(alone):
    for minutes in (0, 1, 1, 2):
        alone.ends(FAILED, at=60.0 * minutes)
    await alone.stats.close()
    first = minute_of(alone.clock.time())
    assert sorted(alone.given(BAD)) == [(first, [1]), (first + 1, [2]), (first + 2, [1])]
    assert sum(counts[0] for _, counts in alone.given(BAD, width=COARSE)) == 4
    assert sum(counts[0] for _, counts in alone.given(BAD, width=LONG)) == 4


async def test_the_longest_cells_hold_service_levels_alone(alone):
    alone.ends(DONE)
    await alone.stats.close()
    held = [cell.counts for cell in alone.store.given[0] if cell.width == LONG]
    assert held == [{GOOD: 1}]


async def test_metrics_show_what_all_processes_counted(alone):
    now = minute_of(alone.clock.time())
    for age, counts in ((0, {GOOD: 9, BAD: 1}), (20, {GOOD: 10})):  # another process's
        cells = [Cell("", width, (now - age) // width, "pipe", "quick", counts) for width in (FINE, COARSE, LONG)]
        await alone.store.add_cells(cells)
    await passing(alone, alone.levels(shows=True), 1)
    assert alone.metrics.levels["5m"] == pytest.approx((0.9, 2.0))
    assert alone.metrics.levels["30m"] == pytest.approx((0.95, 1.0))
    assert alone.metrics.levels["30d"] == pytest.approx((0.95, 1.0))
    assert set(alone.metrics.levels) == set(WINDOWS)


async def test_a_process_that_shows_nothing_asks_nothing(alone):
    await passing(alone, alone.levels(), 3 * LOOK_EVERY_S)
    assert alone.store.asked == 0


async def test_without_classes_that_have_a_target_nothing_is_asked(alone):
    alone.classes = {"batch": SLA("batch")}
    levels = alone.levels(shows=True)
    async with asyncio.timeout(GUARD_S):
        await levels.work()
    assert await levels.report() == []
    assert alone.store.asked == 0


async def test_an_answer_is_given_again_for_a_moment(alone):
    levels = alone.levels()
    first = await levels.report()
    asked = alone.store.asked
    assert await levels.report() == first
    assert alone.store.asked == asked
    alone.ends(DONE)
    alone.clock.advance(FRESH_S)
    (level,) = await levels.report()
    assert level.windows["5m"] == Counts(1, 0)
