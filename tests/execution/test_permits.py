"""Steps that use resources: what they wait for, what a wait means for their run, and that nothing is lost or leaked."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from offramp import SLA, App, Retry, current_run
from offramp.errors import CircuitOpen, ResourceBusy, RunCancelled, WaitsForItself
from offramp.execution.body import Body
from offramp.execution.context import current
from offramp.paths.local import LocalRuntime
from offramp.ports.limits import Done, Granted, Refused
from offramp.testing import FakeClock
from tests.permits import Toy, uses
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
    types,
)

app = App("permits")


@app.step(timeout=30)
async def loop() -> str:
    return "loop"


@app.step(timeout=30)
def thread() -> str:
    return "thread"


@app.step(timeout=30, lane="process")
def process() -> str:
    return "process"


STEPS = {step.spec.name: uses(step, "api") for step in (loop, thread, process)}
LANES = list(STEPS)


@app.step
async def free() -> str:
    return "free"


@app.pipeline(budget=60)
async def fast(lane: str) -> str:
    return await STEPS[lane]()


@app.pipeline(budget=0)
async def deep(lane: str) -> str:
    return await STEPS[lane]()


@app.pipeline(budget=60)
async def without() -> str:
    return await free()


@contextlib.asynccontextmanager
async def opened(folder, limits, *, app=app, **settings):
    async with member(app, folder, "local", limits=limits, processes=1, **settings) as service:
        yield LocalRuntime(service)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("pipeline", ["fast", "deep"])
async def test_a_step_begins_with_its_permit_and_gives_it_back(tmp_path, lane, pipeline):
    limits = Toy(api=0)
    async with opened(tmp_path, limits) as runtime:
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
    async with opened(tmp_path, limits) as runtime:
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
        member(app, tmp_path, "worker", owner="w", limits=roomy, processes=1) as worker,
        member(app, tmp_path, "gateway", owner="g", limits=full, processes=1) as gateway,
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


@pytest.mark.parametrize("lane", LANES)
async def test_a_foretold_wait_beyond_the_budget_demotes_at_once_and_the_run_waits_on(tmp_path, lane):
    clock, limits = FakeClock(), Toy(expected_s=90.0, api=0)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("fast", lane=lane)
        seen = await reach(handle, "run.demoted")
        assert seen[-1].data["reason"] == "predicted"
        assert seen[-1].data["elapsed_ms"] < 1000
        await eventually(lambda: len(limits.asked) == 2)
        limits.grant("api")
        assert await result_of(handle) == lane
    assert {ask.run_id for ask in limits.asked} == {handle.id}
    assert (limits.free, limits.waiting) == ({"api": 1}, {})


async def test_a_wait_that_ends_before_the_budget_demotes_only_once_it_is_foretold_to_be_longer(tmp_path):
    clock, limits = FakeClock(), Toy(expected_s=59.0, api=0)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("fast", lane="loop")
        await limits.waits.wait()
        clock.advance(0.3)
        seen = await reach(handle, "step.waiting")
        assert not of(seen, "run.demoted")
        limits.again(61.0)
        demoted = (await reach(handle, "run.demoted"))[-1]
        assert demoted.data["reason"] == "predicted"
        limits.grant("api")
        assert await result_of(handle) == "loop"


async def test_a_wait_is_said_after_a_quarter_of_a_second_and_again_when_its_reason_changes(tmp_path):
    clock, limits = FakeClock(), Toy(expected_s=3.25, reason="rate", api=0)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("fast", lane="loop")
        await limits.waits.wait()
        clock.advance(0.24)
        limits.again(3.25)
        assert not of([event async for event in first(handle, 1)], "step.waiting")
        clock.advance(0.02)
        [waiting] = of(await reach(handle, "step.waiting"), "step.waiting")
        assert {**waiting.data, "key": ""} == {
            "step": "loop",
            "key": "",
            "resource": "api",
            "reason": "rate",
            "ahead": 0,
            "expected_ms": 3250.0,
        }
        for reason in ("rate", "tokens", "tokens", "breaker", "retry-after", "rate"):
            limits.again(None, reason)
        limits.grant("api")
        assert await result_of(handle) == "loop"
        seen = await log_of(handle)
    assert [event.data["reason"] for event in of(seen, "step.waiting")] == ["rate", "tokens", "breaker"]
    assert {event.data["key"] for event in of(seen, "step.waiting")} == {of(seen, "step.started")[0].data["key"]}


async def first(handle, count):
    """The first events of a run."""
    async with contextlib.aclosing(handle.events()) as stream:
        async for event in stream:
            yield event
            count -= 1
            if not count:
                return


@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_the_wait_of_a_request_is_said_demotes_and_is_no_time_in_which_the_run_moves(tmp_path, lane):
    calls, waits, clock = App("requests"), Signal(), FakeClock()
    limits = Toy(expected_s=1.0, reason="tokens", api=0)

    def asking(loop, future):
        holder = current.get().holder
        context = holder.waiting(holder.ask("api"), lambda: None)
        say = context.__enter__()

        def notified(answer):
            if isinstance(answer, Granted):
                loop.call_soon_threadsafe(future.set_result, None)
            else:
                say(answer)

        ask = holder.ask("api")
        holder.limits.ask(ask, notified)
        waits.set()
        return holder, ask, context

    @calls.step
    async def loop() -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        holder, ask, context = asking(loop, future)
        await future
        context.__exit__(None, None, None)
        holder.limits.done(ask.id, Done())
        return "asked"

    @calls.step
    def thread() -> str:
        return asyncio.run(loop.fn())

    steps = {"loop": loop, "thread": thread}

    @calls.pipeline(budget=60)
    async def line() -> str:
        return await steps[lane]()

    async with opened(tmp_path, limits, app=calls, clock=clock) as runtime:
        handle = await runtime.start("line")
        await waits.wait()
        run = runtime.service.live.get(handle.id)
        await eventually(lambda: run.execution.scope.gate.stills_within(clock.monotonic()))
        clock.advance(0.3)
        [said] = of(await reach(handle, "step.waiting"), "step.waiting")
        assert (said.data["step"], said.data["reason"]) == (lane, "tokens")
        before = run.moved().elapsed_s
        clock.advance(10.0)
        assert run.moved().elapsed_s == pytest.approx(before)
        limits.again(100.0)
        assert (await reach(handle, "run.demoted"))[-1].data["reason"] == "predicted"
        limits.grant("api")
        assert await result_of(handle) == "asked"
        seen = await log_of(handle)
    assert types(seen).count("step.started") == 1
    assert limits.in_use == 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Refused("busy", "api: 140 calls wait", 12.0), ResourceBusy),
        (Refused("deadlock", "api: it waits for itself"), WaitsForItself),
        (Refused("open", "api: 9 of the last 12 calls failed"), CircuitOpen),
    ],
)
async def test_a_refused_permit_fails_the_attempt(tmp_path, answer, kind):
    limits = Toy(api=1)
    limits.refuses = answer
    async with opened(tmp_path, limits) as runtime:
        handle = await runtime.start("fast", lane="loop")
        error = await failure_of(handle)
        document = await handle.document()
    assert type(error) is kind
    assert answer.says in str(error)
    assert document["error"]["code"] == kind.code
    assert document["steps"][0]["status"] == "failed"


async def test_a_full_queue_is_asked_again_by_the_steps_own_retries(tmp_path):
    calls = App("retries")

    @calls.step(retry=Retry(attempts=2, base=0.0))
    async def tries() -> int:
        return current_run().attempt

    uses(tries, "api")

    @calls.pipeline(budget=60)
    async def line() -> int:
        return await tries()

    clock, limits = FakeClock(), Toy(api=1)
    limits.refuses = Refused("busy", "api: 140 calls wait", 12.0)
    async with opened(tmp_path, limits, app=calls, clock=clock) as runtime:
        handle = await runtime.start("line")
        [retrying] = of(await reach(handle, "step.retrying"), "step.retrying")
        assert (retrying.data["error"]["code"], retrying.data["delay_ms"]) == ("resource-busy", 12000.0)
        limits.refuses = None
        assert await clock.run_until(handle.result(), 1.0) == 2


@pytest.mark.parametrize(("next_try_s", "is_demoted"), [(20.0, False), (90.0, True)])
async def test_an_open_breaker_uses_up_no_attempt(tmp_path, next_try_s, is_demoted):
    clock, limits = FakeClock(), Toy(api=1)
    limits.refuses = Refused("open", "api: 9 of the last 12 calls failed", next_try_s)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("fast", lane="loop")
        await eventually(lambda: limits.asked)
        limits.refuses = None
        assert await clock.run_until(handle.result(), 1.0) == "loop"
        seen = await log_of(handle)
    assert types(seen).count("step.started") == 1
    assert not of(seen, "step.retrying")
    assert [event.data["reason"] for event in of(seen, "run.demoted")] == ["predicted"] * is_demoted


async def test_a_run_beside_whose_wait_its_body_goes_on_stays(tmp_path):
    """A foretold wait of one branch does not count where another one may end it: as for every other wait."""
    races = App("races")

    @races.step
    async def slow() -> str:
        return "slow"

    uses(slow, "api")

    @races.pipeline(budget=60)
    async def line() -> str:
        try:
            async with asyncio.timeout(5.0):
                return await slow()
        except TimeoutError:
            return "gave it up"

    clock, limits = FakeClock(), Toy(expected_s=90.0, api=0)
    async with opened(tmp_path, limits, app=races, clock=clock) as runtime:
        handle = await runtime.start("line")
        await limits.waits.wait()
        assert await clock.run_until(handle.result(), 1.0) == "gave it up"
        seen = await log_of(handle)
    assert not of(seen, "run.demoted")
    assert limits.waiting == {}


async def test_limits_that_close_put_the_attempt_off(tmp_path):
    clock, limits = FakeClock(), Toy(api=0)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("deep", lane="loop")
        await limits.waits.wait()
        limits.close()
        await eventually(lambda: not limits.waiting)
        limits.grant("api")
        assert await clock.run_until(handle.result(), 1.0) == "loop"
        assert not of(await log_of(handle), "step.retrying")


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
        assert await result_of(await runtime.start("line", pipeline="below")) == "worked"
    assert limits.lifted == [(limits.asked[-1].run_id, "high", 10)]
