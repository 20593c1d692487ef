"""Steps that use resources begin with their permits; nothing is lost or leaked, whatever becomes of the run."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from pathlib import Path

import pytest

from offramp import SLA, App, Retry
from offramp.errors import RunCancelled, RunExpired
from offramp.execution import holding, making, permits
from offramp.execution.attempt import Attempt
from offramp.execution.body import Body
from offramp.execution.context import current
from offramp.paths.local import LocalRuntime
from offramp.ports.limits import Done
from offramp.testing import FakeClock
from tests.permits import Toy, uses
from tests.permitted import APPS, LANES, here, opened
from tests.support import (
    Signal,
    assert_one_log,
    eventually,
    failure_of,
    frames_of,
    log_of,
    member,
    of,
    reach,
    result_of,
)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("pipeline", ["fast", "deep"])
async def test_a_step_begins_with_its_permit_and_gives_it_back(tmp_path, lane, pipeline):
    limits = Toy(api=0)
    async with opened(tmp_path, limits, app=APPS[lane]) as runtime:
        handle = await runtime.start(pipeline, lane=lane)
        await limits.waits.wait()
        document = await handle.document()
        assert (document["status"], document["steps"]) == ("running", [])
        limits.grant("api")
        assert await result_of(handle) == lane
        seen = await log_of(handle)
    [ask] = limits.asked
    assert (ask.resource, ask.run_id, ask.step, ask.sla, ask.priority) == ("api", handle.id, lane, "default", 0)
    assert ask.id.startswith(handle.id)
    assert len(of(seen, "step.started")) == 1
    assert (limits.free, limits.in_use, limits.waiting) == ({"api": 1}, 0, {})


async def test_a_step_that_uses_nothing_asks_for_nothing(tmp_path):
    limits = Toy(api=0)
    async with opened(tmp_path, limits) as runtime:
        assert await result_of(await runtime.start("without")) == "free"
    assert limits.asked == []


async def test_a_step_that_uses_nothing_executes_no_code_of_permits(tmp_path):
    app, called = App("lean"), set()

    @app.step
    async def free() -> str:
        return "free"

    @app.pipeline(budget=60)
    async def profiled() -> str:
        before = sys.getprofile()
        sys.setprofile(lambda frame, _event, _argument: called.add(frame.f_code))
        try:
            return await free()
        finally:
            sys.setprofile(before)

    async with opened(tmp_path, Toy(api=0), app=app) as runtime:
        assert await result_of(await runtime.start("profiled")) == "free"
    assert making.make.__code__ in called
    assert Attempt.asked.__code__ not in called
    files = {Path(code.co_filename) for code in called}
    assert not files & {Path(permits.__file__), Path(holding.__file__)}


async def test_several_resources_are_asked_for_in_one_order_and_the_earlier_ones_are_kept(tmp_path):
    both = App("both")

    @both.step
    async def needs() -> str:
        return "done"

    uses(needs, "b", "a")

    @both.pipeline(budget=60)
    async def line() -> str:
        return await needs()

    limits = Toy(a=1, b=0)
    async with opened(tmp_path, limits, app=both) as runtime:
        handle = await runtime.start("line")
        await limits.waits.wait()
        assert [ask.resource for ask in limits.asked] == ["a", "b"]
        assert limits.asked[1].within == (limits.asked[0].id,)
        limits.grant("b")
        assert await result_of(handle) == "done"
    assert limits.free == {"a": 1, "b": 1}


@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_the_first_request_takes_the_permit_over_and_further_ones_ask_anew(tmp_path, lane):
    calls, made = App("calls"), []

    def calling():
        holder = current.get().holder
        assert holder is current.get().holder
        assert holder.retries
        made.append(holder.ask("api"))
        held = holder.take("api")
        made.append((held, holder.take("api")))
        made.append(holder.ask("api"))
        holder.limits.written(held.id)
        holder.limits.done(held.id, Done(how="ok"))
        return "called"

    @calls.step(retry=Retry(attempts=2))
    async def loop() -> str:
        return calling()

    @calls.step(retry=Retry(attempts=2))
    def thread() -> str:
        return calling()

    steps = {step.spec.name: uses(step, "api", "other") for step in (loop, thread)}

    @calls.pipeline(budget=60)
    async def line() -> str:
        return await steps[lane]()

    limits = Toy(api=1, other=1)
    async with opened(tmp_path, limits, app=calls) as runtime:
        assert await result_of(await runtime.start("line")) == "called"
    before, (held, again), after = made
    api, other = limits.asked
    assert (held.id, again) == (api.id, None)
    assert set(before.within) == {api.id, other.id}
    assert after.within == (other.id,)
    assert len({before.id, after.id, api.id, other.id}) == 4
    assert (limits.dones, limits.withdrawn) == ([(api.id, "ok")], [other.id])
    assert limits.in_use == 0


async def test_a_permit_in_use_outlives_its_attempt(tmp_path):
    """As of a stream that is still open."""
    calls, taken = App("streams"), []

    @calls.step
    async def opens() -> str:
        taken.append(current.get().holder.take("api"))
        return "open"

    uses(opens, "api")

    @calls.pipeline(budget=60)
    async def line() -> str:
        return await opens()

    limits = Toy(api=1)
    async with opened(tmp_path, limits, app=calls) as runtime:
        assert await result_of(await runtime.start("line")) == "open"
    assert (limits.in_use, limits.withdrawn) == (1, [])
    assert taken[0].id in limits.held


async def test_an_attempt_that_is_over_gives_up_what_its_code_still_waits_for(tmp_path):
    calls, gave_up = App("abandons"), threading.Event()

    @calls.step(timeout=0.05)
    def hangs() -> None:
        holder = current.get().holder
        with holder.waiting(holder.ask("api"), gave_up.set):
            gave_up.wait()

    @calls.pipeline(budget=60)
    async def line() -> None:
        await hangs()

    async with opened(tmp_path, Toy(api=0), app=calls) as runtime:
        with pytest.raises(TimeoutError):
            await result_of(await runtime.start("line"))
        await eventually(gave_up.is_set)


@pytest.mark.parametrize("pipeline", ["fast", "deep"])
@pytest.mark.parametrize("lane", LANES)
async def test_a_cancelled_run_gives_its_place_up(tmp_path, pipeline, lane):
    limits = Toy(api=0)
    async with opened(tmp_path, limits, app=APPS[lane]) as runtime:
        handle = await runtime.start(pipeline, lane=lane)
        await limits.waits.wait()
        await handle.cancel()
        assert isinstance(await failure_of(handle), RunCancelled)
        await limits.idle.wait()
        seen = await log_of(handle)
    assert limits.waiting == {}
    assert not of(seen, "step.started")


async def test_a_run_that_is_cancelled_in_a_step_gives_its_permit_back(tmp_path):
    calls, runs = App("cancelled"), Signal()

    @calls.step
    async def hangs() -> None:
        runs.set()
        await asyncio.get_running_loop().create_future()

    uses(hangs, "api")

    @calls.pipeline(budget=60)
    async def line() -> None:
        await hangs()

    limits = Toy(api=1)
    async with opened(tmp_path, limits, app=calls) as runtime:
        handle = await runtime.start("line")
        await runs.wait()
        assert limits.in_use == 1
        await handle.cancel()
        assert isinstance(await failure_of(handle), RunCancelled)
        await limits.idle.wait()
    assert limits.free == {"api": 1}


@pytest.mark.parametrize("lane", LANES)
async def test_a_drain_takes_a_waiting_step_along_and_it_asks_again_for_the_same_run(tmp_path, lane):
    full, roomy = Toy(api=0), Toy(api=1)
    async with (
        member(APPS[lane], tmp_path, "worker", owner="w", limits=roomy, processes=1) as worker,
        member(APPS[lane], tmp_path, "gateway", owner="g", limits=full, processes=1) as gateway,
    ):
        handle = await LocalRuntime(gateway).start("fast", lane=lane)
        await full.waits.wait()
        await gateway.drain()
        await full.idle.wait()
        frames = await frames_of(worker, handle.id)
        record = await worker.get(handle.id)
    assert record.result == f'"{lane}"'.encode()
    assert_one_log(frames)
    assert [frame.type for frame in frames].count("step.started") == 1
    assert [ask.run_id for ask in (*full.asked, *roomy.asked)] == [handle.id] * 2
    assert (full.free, roomy.free) == ({"api": 0}, {"api": 1})


def test_a_body_has_no_holder():
    assert not hasattr(Body, "holder")


async def test_a_run_that_a_step_of_a_higher_class_awaits_is_lifted_to_it(tmp_path):
    awaits, runtimes = App("awaits", classes=[SLA("high", priority=10), SLA("low", priority=-1, budget=0.0)]), []

    @awaits.step
    async def works() -> str:
        return "worked"

    uses(works, "api")

    @awaits.step
    async def asks(pipeline: str) -> str:
        return await result_of(await runtimes[0].start(pipeline))

    @awaits.pipeline(sla="low")
    async def below() -> str:
        return await works()

    @awaits.pipeline(sla="high")
    async def beside() -> str:
        return await works()

    @awaits.pipeline(sla="high", budget=60)
    async def line(pipeline: str) -> str:
        return await asks(pipeline)

    limits = Toy(api=1)
    async with opened(tmp_path, limits, app=awaits) as runtime:
        runtimes.append(runtime)
        assert await result_of(await runtime.start("line", pipeline="beside")) == "worked"
        assert limits.lifted == []
        assert await result_of(await runtime.start("below")) == "worked"
        assert limits.lifted == []
        limits.free["api"], limits.waits = 0, Signal()
        handle = await runtime.start("line", pipeline="below")
        await limits.waits.wait()
        await eventually(lambda: limits.lifted)
        limits.grant("api")
        assert await result_of(handle) == "worked"
    assert limits.lifted == [(limits.asked[-1].run_id, "high", 10)]


async def test_a_replay_asks_for_no_permit_of_a_finished_step(tmp_path):
    """Nor do waits of an earlier execution say anything about a later one."""
    two = App("two")

    @two.step
    async def first() -> str:
        return "first"

    @two.step
    async def second() -> str:
        return "second"

    uses(first, "api")
    uses(second, "other")

    @two.pipeline(budget=0)
    async def line() -> list[str]:
        return [await first(), await second()]

    full, roomy = Toy(api=1, other=0), Toy(api=0, other=1)
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(member(two, tmp_path, "gateway", owner="g", limits=full))
        async with member(two, tmp_path, "worker", owner="w1", limits=full):
            handle = await LocalRuntime(gateway).start("line")
            await full.waits.wait()
        assert full.waiting == {}
        await stack.enter_async_context(member(two, tmp_path, "worker", owner="w2", limits=roomy))
        assert await result_of(handle) == ["first", "second"]
    assert [ask.resource for ask in full.asked] == ["api", "other"]
    assert [ask.resource for ask in roomy.asked] == ["other"]


async def test_a_lost_lease_gives_a_place_up(tmp_path):
    clock, limits = FakeClock(), Toy(api=0)
    async with member(here, tmp_path, "local", limits=limits, clock=clock, processes=1) as service:
        handle = await LocalRuntime(service).start("deep", lane="loop")
        await limits.waits.wait()
        service.live.lost(service.live.get(handle.id).lease)
        await limits.idle.wait()
    assert limits.waiting == {}


async def test_a_deadline_ends_a_wait(tmp_path):
    late = App("late")

    @late.step
    async def works() -> None: ...

    uses(works, "api")

    @late.pipeline(budget=0, deadline=30)
    async def line() -> None:
        await works()

    clock, limits = FakeClock(), Toy(api=0)
    async with opened(tmp_path, limits, app=late, clock=clock) as runtime:
        handle = await runtime.start("line")
        await limits.waits.wait()
        clock.advance(30.0)
        assert isinstance(await failure_of(handle), RunExpired)
        await limits.idle.wait()
    assert limits.waiting == {}


async def test_a_timeout_of_the_step_begins_with_its_permit(tmp_path):
    calls = App("timeouts")

    @calls.step(timeout=0.3)
    async def works() -> str:
        return "in time"

    uses(works, "api")

    @calls.pipeline(budget=60)
    async def line() -> str:
        return await works()

    limits = Toy(api=0)
    async with opened(tmp_path, limits, app=calls) as runtime:
        handle = await runtime.start("line")
        await reach(handle, "step.waiting")
        limits.again(1.0)
        limits.grant("api")
        assert await result_of(handle) == "in time"


async def test_a_run_that_is_cancelled_while_it_waits_for_its_second_permit_gives_the_first_back(tmp_path):
    both = App("second")

    @both.step
    async def needs() -> None: ...

    uses(needs, "a", "b")

    @both.pipeline(budget=60)
    async def line() -> None:
        await needs()

    limits = Toy(a=1, b=0)
    async with opened(tmp_path, limits, app=both) as runtime:
        handle = await runtime.start("line")
        await limits.waits.wait()
        assert limits.in_use == 1
        await handle.cancel()
        assert isinstance(await failure_of(handle), RunCancelled)
        await limits.idle.wait()
    assert (limits.free, limits.waiting) == ({"a": 1, "b": 0}, {})


async def test_a_run_that_is_cancelled_while_its_step_waits_for_a_thread_gives_its_permit_back(tmp_path):
    busy, begun, go = App("threads"), Signal(), threading.Event()

    @busy.step
    def holds() -> None:
        begun.set()
        go.wait()

    @busy.step
    def needs() -> None: ...

    uses(needs, "api")

    @busy.pipeline(budget=60)
    async def blocks() -> None:
        await holds()

    @busy.pipeline(budget=60)
    async def line() -> None:
        await needs()

    limits = Toy(api=1)
    async with opened(tmp_path, limits, app=busy, threads=1) as runtime:
        first = await runtime.start("blocks")
        await begun.wait()
        handle = await runtime.start("line")
        await eventually(lambda: runtime.service.process.lanes.threads.waiting == 1)
        await handle.cancel()
        assert isinstance(await failure_of(handle), RunCancelled)
        await limits.idle.wait()
        go.set()
        await result_of(first)
    assert limits.free == {"api": 1}


async def test_a_branch_that_the_body_gives_up_gives_its_place_up(tmp_path):
    races = App("races")

    @races.step
    async def slow() -> str:
        return "slow"

    @races.step
    async def quick() -> str:
        return "quick"

    uses(slow, "api")

    @races.pipeline(budget=60)
    async def line() -> str:
        tasks = [asyncio.create_task(slow()), asyncio.create_task(quick())]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return done.pop().result()

    limits = Toy(api=0)
    async with opened(tmp_path, limits, app=races) as runtime:
        assert await result_of(await runtime.start("line")) == "quick"
        await limits.idle.wait()
    assert limits.waiting == {}


@pytest.mark.parametrize("lane", LANES)
async def test_the_end_of_the_budget_demotes_a_run_that_waits_and_delays_nothing(tmp_path, lane):
    clock, limits = FakeClock(), Toy(api=0)
    async with opened(tmp_path, limits, app=APPS[lane], clock=clock) as runtime:
        handle = await runtime.start("fast", lane=lane)
        await limits.waits.wait()
        clock.advance(60.0)
        [demoted] = of(await reach(handle, "run.demoted"), "run.demoted")
        assert demoted.data["reason"] == "budget"
        await eventually(lambda: len(limits.asked) == 2)
        limits.grant("api")
        assert await result_of(handle) == lane
    assert {ask.run_id for ask in limits.asked} == {handle.id}
    assert (limits.free, limits.waiting) == ({"api": 1}, {})
