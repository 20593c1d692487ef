"""Waits for permits on the deep path: how many hold a place, and which go on without a process."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from offramp import SLA, App
from offramp.errors import RunExpired
from offramp.execution.crowd import AWAY_PER_S, AWAY_S_MAX, AWAY_S_MIN, CROWD_SHARE, Crowd
from offramp.limits.local import LocalLimits
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.paths.waiting import parked, until
from tests.permits import Toy, uses
from tests.support import eventually, failure_of, log_of, member, of, result_of


class Wait:
    def __init__(self, priority=0, run="run_1", expected_s=None):
        self.order = -priority, run
        self.expected_s = expected_s
        self.until = None

    def put_off(self, until):
        assert self.until is None
        self.until = until


def test_the_last_in_the_order_goes_on_without_a_process():
    clock = FakeClock()
    crowd = Crowd(4, clock)
    older, newer = Wait(run="run_1"), Wait(run="run_3")
    crowd.enter(older)
    crowd.enter(newer)
    high = Wait(priority=1, run="run_9")
    crowd.enter(high)
    assert (older.until, newer.until, high.until) == (None, clock.time() + AWAY_S_MIN, None)
    between = Wait(run="run_2")
    crowd.enter(between)
    assert AWAY_S_MIN <= between.until - clock.time() <= AWAY_S_MIN + 1 / AWAY_PER_S
    crowd.leave(high)
    crowd.leave(high)
    low = Wait(priority=-1)
    crowd.enter(low)
    assert low.until is None


def away(crowd, clock, count, expected_s):
    """After which times so many waits come back that are put off now."""
    waits = [Wait(run=f"run_{number:05d}", expected_s=expected_s) for number in range(count)]
    for wait in waits:
        crowd.enter(wait)
    return sorted(wait.until - clock.time() for wait in waits if wait.until is not None)


@given(st.sampled_from([None, 0.5, 8.0, 18 * 60.0]), st.integers(0, 2**32))
def test_a_wait_comes_back_soon_however_long_it_was_foretold_to_take(expected_s, seed):
    clock = FakeClock(seed=seed)
    crowd = Crowd(2, clock)
    crowd.enter(Wait(priority=1))
    after = away(crowd, clock, 200, expected_s)
    assert len(after) == 200
    assert AWAY_S_MIN <= after[0] <= after[-1] <= AWAY_S_MAX


def test_many_waits_come_back_spread_out_and_no_faster_than_a_process_looks_at_them():
    clock = FakeClock()
    crowd = Crowd(2, clock)
    crowd.enter(Wait(priority=1))
    after = away(crowd, clock, 10_000, 18 * 60.0)
    assert after[-1] <= AWAY_S_MIN + 10_000 / AWAY_PER_S
    seconds = Counter(int(each) for each in after)
    assert max(seconds.values()) < 4 * AWAY_PER_S
    clock.advance(after[-1])
    again = away(crowd, clock, 1, 18 * 60.0)
    assert again[0] <= AWAY_S_MAX, "those that are back still count"


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 99)), max_size=60))
def test_no_more_than_the_share_wait_here_and_those_are_the_first(places, entering):
    crowd, waits = Crowd(places, FakeClock()), []
    for priority, run in entering:
        waits.append(Wait(priority, f"run_{run:02d}"))
        crowd.enter(waits[-1])
    most = max(1, int(places * CROWD_SHARE))
    here = sorted(wait.order for wait in waits if wait.until is None)
    assert here == sorted(wait.order for wait in waits)[:most]


def waiting_runs(limits):
    return {ask.run_id for ask, _ in list(limits.waiting.values())}


app = App("crowd", classes=[SLA("high", priority=10, budget=0.0), SLA("low", priority=-1, budget=0.0)])


@app.step
async def limited() -> str:
    return "limited"


@app.step
async def free() -> str:
    return "free"


uses(limited, "api")


@app.pipeline(sla="low")
async def batch() -> str:
    return await limited()


@app.pipeline(sla="high")
async def urgent() -> str:
    return await free()


async def test_runs_that_wait_for_permits_do_not_fill_a_worker(tmp_path):
    """100 runs of a low class wait for permits; a run of a higher class that needs none is executed."""
    clock, limits = FakeClock(), Toy(expected_s=30.0, api=0)
    async with member(app, tmp_path, "local", limits=limits, clock=clock, worker_runs=4) as service:
        runtime = LocalRuntime(service)
        low = [await runtime.start("batch") for _ in range(12)]
        await eventually(lambda: len(limits.waiting) >= 2)
        high = await runtime.start("urgent")
        assert await clock.run_until(result_of(high), 0.2) == "free"
        assert service.live.count("deep") <= 4
        # They are parked one after another, and each comes back by itself.
        limits.grant("api", 4)
        assert await clock.run_until(asyncio.gather(*map(result_of, low)), 1.0) == ["limited"] * 12
        for handle in low:
            seen = await log_of(handle)
            assert len(of(seen, "step.started")) == 1
            assert not of(seen, "step.retrying")
    assert (limits.free, limits.waiting) == ({"api": 4}, {})


async def test_a_run_that_waits_without_a_process_can_be_cancelled(tmp_path):
    clock, limits = FakeClock(), Toy(expected_s=30.0, api=0)
    async with member(app, tmp_path, "local", limits=limits, clock=clock, worker_runs=2) as service:
        runtime = LocalRuntime(service)
        first, last = sorted([await runtime.start("batch") for _ in range(2)], key=lambda handle: handle.id)
        await parked(service, last.id, clock=clock)
        await last.cancel()
        assert (await log_of(last))[-1].type == "run.cancelled"
        limits.grant("api")
        assert await result_of(first) == "limited"
    assert limits.waiting == {}


async def test_a_run_that_waits_without_a_process_keeps_its_place(tmp_path):
    clock, limits = FakeClock(), Toy(expected_s=3_600.0, api=0)
    async with member(app, tmp_path, "local", limits=limits, clock=clock, worker_runs=2) as service:
        runtime = LocalRuntime(service)
        here, *away = sorted([await runtime.start("batch") for _ in range(3)], key=lambda handle: handle.id)
        await parked(service, *(handle.id for handle in away), clock=clock)
        await here.cancel()
        await eventually(lambda: not limits.waiting)
        newer = await runtime.start("batch")
        await eventually(lambda: waiting_runs(limits) == {newer.id})
        # They come back, and the one that was accepted first waits here; the newer one does so no longer.
        await until(lambda: waiting_runs(limits) == {away[0].id} and len(limits.asked) >= 6, clock)
        limits.grant("api")
        results = asyncio.gather(*map(result_of, [*away, newer]))
        assert await clock.run_until(results, 0.2) == ["limited"] * 3
    assert (limits.free, limits.waiting) == ({"api": 1}, {})


async def test_a_run_that_waits_without_a_process_ends_at_its_deadline(tmp_path):
    late = App("late")

    @late.step
    async def works() -> str:
        return "works"

    uses(works, "api")

    @late.pipeline(budget=0, deadline=40)
    async def line() -> str:
        return await works()

    clock, limits = FakeClock(), Toy(expected_s=3_600.0, api=0)
    async with member(late, tmp_path, "local", limits=limits, clock=clock, worker_runs=2) as service:
        runtime = LocalRuntime(service)
        here, away = sorted([await runtime.start("line") for _ in range(2)], key=lambda handle: handle.id)
        await parked(service, away.id, clock=clock)
        for handle in (away, here):
            assert isinstance(await clock.run_until(failure_of(handle), 0.2), RunExpired)
        await limits.idle.wait()
    assert limits.waiting == {}


async def test_what_was_put_off_by_a_guess_is_served_once_calls_show_what_they_use(tmp_path):
    """Of the first calls nothing is known: 1,000 tokens are reserved for each, and they use 60."""
    clock = FakeClock()
    guess = App("guess", classes=[SLA("low", priority=-1, budget=0.0)])
    model = guess.resource("model", tokens="24k/min")
    opened, under_way = asyncio.Event(), []

    @guess.step(uses=model)
    async def write() -> str:
        async with model.permit() as permit:
            under_way.append(permit)
            await opened.wait()
            permit.used(tokens=60)
        return "written"

    @guess.pipeline(sla="low")
    async def batch() -> str:
        return await write()

    @guess.pipeline(budget=30)
    async def fast() -> str:
        return await write()

    limits = LocalLimits([each.spec for each in guess.resources.values()], guess.classes, clock)
    async with member(guess, tmp_path, "local", limits=limits, clock=clock, worker_runs=60) as service:
        runtime = LocalRuntime(service)
        runs = [await runtime.start("batch") for _ in range(120)]
        await until(lambda: len(under_way) == 24 and service.live.count("deep") <= 54, clock)
        quick = await runtime.start("fast")
        began = clock.monotonic()
        await until(lambda: clock.monotonic() >= began + 2.0, clock)
        opened.set()
        began = clock.monotonic()
        assert await clock.run_until(asyncio.gather(*map(result_of, [quick, *runs])), 0.05) == ["written"] * 121
        assert clock.monotonic() - began < 2 * AWAY_S_MAX
        assert not of(await log_of(quick), "run.demoted")
    limits.close()
