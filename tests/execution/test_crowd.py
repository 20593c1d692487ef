"""Waits for permits on the deep path: how many hold a place, and which go on without a process."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from offramp import SLA, App
from offramp.execution.crowd import AWAY_FACTOR, AWAY_S_MAX, AWAY_S_MIN, CROWD_SHARE, Crowd
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.paths.waiting import parked
from tests.permits import Toy, uses
from tests.support import eventually, log_of, member, of, result_of


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
    assert between.until == clock.time() + AWAY_S_MIN
    crowd.leave(high)
    crowd.leave(high)
    low = Wait(priority=-1)
    crowd.enter(low)
    assert low.until is None


def test_each_stays_away_longer_the_more_are_away_and_never_for_too_long():
    clock = FakeClock()
    crowd, here = Crowd(2, clock), Wait(priority=1)
    crowd.enter(here)
    waits = [Wait(run=f"run_{number}", expected_s=20.0) for number in range(100)]
    for wait in waits:
        crowd.enter(wait)
    away = [wait.until - clock.time() for wait in waits]
    assert away[:3] == [20.0, 20.0 * (1 + AWAY_FACTOR), 20.0 * (1 + 2 * AWAY_FACTOR)]
    assert away == sorted(away)
    assert away[-1] == AWAY_S_MAX
    clock.advance(AWAY_S_MAX)
    again = Wait(run="run_a", expected_s=20.0)
    crowd.enter(again)
    assert again.until == clock.time() + 20.0


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 99)), max_size=60))
def test_no_more_than_the_share_wait_here_and_those_are_the_first(places, entering):
    crowd, waits = Crowd(places, FakeClock()), []
    for priority, run in entering:
        waits.append(Wait(priority, f"run_{run:02d}"))
        crowd.enter(waits[-1])
    most = max(1, int(places * CROWD_SHARE))
    here = sorted(wait.order for wait in waits if wait.until is None)
    assert here == sorted(wait.order for wait in waits)[:most]


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
