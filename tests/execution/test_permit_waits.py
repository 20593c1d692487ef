"""What a wait for a permit means for its run: events, a demotion, a refusal."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from offramp import App, Retry, current_run
from offramp.core.events import SAID_TIMES_MAX
from offramp.errors import CircuitOpen, ResourceBusy, WaitsForItself
from offramp.execution.context import current
from offramp.ports.limits import Done, Granted, Refused
from offramp.testing import FakeClock
from tests.permits import Toy, uses
from tests.permitted import APPS, LANES, opened
from tests.support import (
    Signal,
    eventually,
    failure_of,
    log_of,
    of,
    reach,
    result_of,
    types,
)


@pytest.mark.parametrize("lane", LANES)
async def test_a_foretold_wait_beyond_the_budget_demotes_at_once_and_the_run_waits_on(tmp_path, lane):
    clock, limits = FakeClock(), Toy(expected_s=90.0, api=0)
    async with opened(tmp_path, limits, app=APPS[lane], clock=clock) as runtime:
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
    [waiting] = of(seen, "step.waiting")
    assert (waiting.data["reason"], waiting.data["expected_ms"]) == ("breaker", next_try_s * 1000)


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


async def test_an_outage_that_lasts_is_not_said_for_ever(tmp_path):
    clock, limits = FakeClock(), Toy(api=1)
    limits.refuses = Refused("open", "api: 9 of the last 12 calls failed", 10.0)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("deep", lane="loop")

        def is_long():
            clock.advance(0.5)
            return len(limits.asked) >= 8

        await eventually(is_long)
        limits.refuses = None
        assert await clock.run_until(handle.result(), 1.0) == "loop"
        seen = await log_of(handle)
    resumed = len(of(seen, "run.resumed"))
    assert SAID_TIMES_MAX <= len(of(seen, "step.waiting")) <= SAID_TIMES_MAX * (1 + resumed)
