"""Service levels of a running service: counted, kept over restarts, added up over processes, shown."""

from __future__ import annotations

import asyncio

import pytest

from offramp import SLA, App, testing
from offramp.core.run import Outcome
from offramp.core.slo import WINDOWS, Counts, Tally, minute_of
from offramp.errors import StoreError
from offramp.paths.slo import FRESH_S, LOOK_EVERY_S, WRITE_EVERY_S, ServiceLevels
from offramp.paths.submission import Submission
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


class Refusing:
    """A store that cannot be written for a while; remembers what it was given."""

    def __init__(self):
        self.broken = False
        self.given = []
        self.asked = 0

    async def tally(self, tallies):
        if self.broken:
            raise StoreError("no room")
        self.given.append(list(tallies))

    async def tallied(self, since, tenant=""):
        self.asked += 1
        found = Counts()
        for tallies in self.given:
            for tally in tallies:
                counts = tally.minute >= since and tally.tenant == tenant
                found = found.plus(tally.counts) if counts else found
        return {"quick": found} if found.total else {}


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


@pytest.fixture
def alone():
    return Alone()


def record_at(clock):
    return a_record(sla="quick", created_at=clock.time())


DONE, FAILED = Outcome("completed", b"1"), Outcome("failed")


async def exported(alone, levels, seconds):
    """Let the clock run for so long, with the task that keeps the levels beside it."""
    task = asyncio.create_task(levels.keep())
    try:
        await asyncio.sleep(0)
        for _ in range(int(seconds)):
            alone.clock.advance(1.0)
            for _ in range(20):  # turns of the loop: what a timer woke goes on
                await asyncio.sleep(0)
    finally:
        task.cancel()


async def test_counts_are_written_now_and_then_and_once(alone):
    levels = ServiceLevels(alone, shows=False)
    for _ in range(3):
        levels.ended(record_at(alone.clock), DONE, alone.clock.time())
    assert alone.store.given == []
    await exported(alone, levels, 3 * WRITE_EVERY_S)
    minute = minute_of(alone.clock.time() - 3 * WRITE_EVERY_S)
    assert alone.store.given == [[Tally("quick", minute, Counts(3, 0))]]
    assert alone.store.asked == 0


async def test_what_the_store_refuses_is_written_later(alone, caplog):
    levels = ServiceLevels(alone, shows=False)
    alone.store.broken = True
    at = alone.clock.time()
    levels.ended(record_at(alone.clock), DONE, at)
    await exported(alone, levels, 2 * WRITE_EVERY_S)
    assert "service levels are not up to date: no room" in caplog.text
    levels.ended(record_at(alone.clock), FAILED, at)
    alone.store.broken = False
    await exported(alone, levels, 2 * WRITE_EVERY_S)
    assert alone.store.given == [[Tally("quick", minute_of(at), Counts(1, 1))]]


async def test_minutes_are_counted_apart(alone):
    levels = ServiceLevels(alone, shows=False)
    at = alone.clock.time()
    for minutes in (0, 1, 1, 2):
        levels.ended(record_at(alone.clock), FAILED, at + 60 * minutes)
    await levels.close()
    first = minute_of(at)
    assert sorted(alone.store.given[0]) == [
        Tally("quick", first, Counts(0, 1)),
        Tally("quick", first + 1, Counts(0, 2)),
        Tally("quick", first + 2, Counts(0, 1)),
    ]


async def test_metrics_show_what_all_processes_counted(alone):
    levels = ServiceLevels(alone, shows=True)
    now = minute_of(alone.clock.time())
    alone.store.given = [
        [Tally("quick", now, Counts(9, 1))],  # another process's
        [Tally("quick", now - 20, Counts(10, 0))],
    ]
    await exported(alone, levels, LOOK_EVERY_S)
    assert alone.metrics.levels["5m"] == pytest.approx((0.9, 2.0))
    assert alone.metrics.levels["30m"] == pytest.approx((0.95, 1.0))
    assert set(alone.metrics.levels) == set(WINDOWS)


async def test_a_process_that_shows_nothing_asks_nothing(alone):
    await exported(alone, ServiceLevels(alone, shows=False), 3 * LOOK_EVERY_S)
    assert alone.store.asked == 0


async def test_without_classes_that_have_a_target_nothing_is_asked_or_written(alone):
    alone.classes = {"batch": SLA("batch")}
    levels = ServiceLevels(alone, shows=True)
    async with asyncio.timeout(GUARD_S):
        await levels.keep()
    assert await levels.report() == []
    assert (alone.store.asked, alone.store.given) == (0, [])


async def test_an_answer_is_given_again_for_a_moment(alone):
    levels = ServiceLevels(alone, shows=False)
    first = await levels.report()
    asked = alone.store.asked
    assert await levels.report() == first
    assert alone.store.asked == asked
    levels.ended(record_at(alone.clock), DONE, alone.clock.time())
    alone.clock.advance(FRESH_S)
    (level,) = await levels.report()
    assert level.windows["5m"] == Counts(1, 0)
