"""The target of an attempt of a failover: the first that admits it, where the wait for those before is too long."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from offramp import App
from offramp.core.failover import DEEP_WAIT_S
from offramp.core.limits.messages import Refused
from offramp.errors import CircuitOpen, ResourceBusy
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.permits import Toy, uses
from tests.support import eventually, failure_of, log_of, member, of, reach, reading, result_of, types


def declared(steps=("first", "second"), budget=5.0):
    """A failover whose steps use a resource each, of the same name."""
    app = App("failover")

    def step(name):
        @app.step(name=name)
        async def call(text: str) -> str:
            return f"{name}: {text}"

        return uses(call, name)

    answer = app.failover(*map(step, steps), name="answer")

    @app.pipeline(budget=budget)
    async def fast(text: str) -> str:
        return await answer(text)

    @app.pipeline(budget=0)
    async def deep(text: str) -> str:
        return await answer(text)

    return app


@contextlib.asynccontextmanager
async def opened(folder, limits, app=None, clock=None, **settings):
    async with member(app or declared(), folder, "local", limits=limits, clock=clock, **settings) as service:
        yield LocalRuntime(service)


def failovers(runtime, reason):
    return reading(runtime.service, "offramp_failovers_total", reason=reason)


def open_breaker(retry_after_s=10.0):
    return Refused("open", "it is open", retry_after_s)


class Shut(Toy):
    """Some resources refuse, as their breakers are open."""

    def __init__(self, *shut, answer=None, **free):
        super().__init__(**free)
        self.shut = set(shut)
        self.answer = answer or open_breaker()

    def ask(self, ask, notify):
        self.refuses = self.answer if ask.resource in self.shut else None
        super().ask(ask, notify)


@pytest.mark.parametrize("path", ["fast", "deep"])
async def test_the_first_step_is_called_where_it_is_admitted_at_once(tmp_path, path):
    limits = Toy(first=1, second=1)
    async with opened(tmp_path, limits) as runtime:
        assert await result_of(await runtime.start(path, text="why")) == "first: why"
    assert [(ask.resource, ask.step) for ask in limits.asked] == [("first", "first")]
    assert limits.free == {"first": 1, "second": 1}


@pytest.mark.parametrize("path", ["fast", "deep"])
async def test_an_open_breaker_uses_up_no_attempt(tmp_path, path):
    limits = Shut("first", first=1, second=1)
    async with opened(tmp_path, limits) as runtime:
        handle = await runtime.start(path, text="why")
        assert await result_of(handle) == "second: why"
        seen = await log_of(handle)
        assert failovers(runtime, "breaker") == 1
    [started] = of(seen, "step.started")
    assert (started.data["target"], started.data["attempt"]) == ("second", 1)
    assert of(seen, "step.retrying") == of(seen, "run.demoted") == []
    assert limits.free == {"first": 1, "second": 1}


async def test_a_wait_that_the_budget_allows_is_waited_for(tmp_path):
    limits = Toy(expected_s=4.0, first=0, second=1)
    async with opened(tmp_path, limits, clock=FakeClock()) as runtime:
        handle = await runtime.start("fast", text="why")
        await limits.waits.wait()
        limits.grant("first")
        assert await result_of(handle) == "first: why"
    assert [ask.resource for ask in limits.asked] == ["first"]


async def test_a_wait_that_is_longer_than_the_budget_allows_has_the_next_step_called(tmp_path):
    limits = Toy(expected_s=6.0, first=0, second=1)
    async with opened(tmp_path, limits, clock=FakeClock()) as runtime:
        handle = await runtime.start("fast", text="why")
        assert await result_of(handle) == "second: why"
        assert of(await log_of(handle), "run.demoted") == []
        assert failovers(runtime, "wait") == 1
    assert limits.waiting == limits.held == {}


async def test_a_wait_that_becomes_too_long_too(tmp_path):
    limits = Toy(expected_s=4.0, first=0, second=1)
    async with opened(tmp_path, limits, clock=FakeClock()) as runtime:
        handle = await runtime.start("fast", text="why")
        await limits.waits.wait()
        limits.again(60.0)
        assert await result_of(handle) == "second: why"


async def test_on_the_deep_path_the_first_to_have_a_permit_is_called(tmp_path):
    limits = Toy(expected_s=1.5, first=0, second=0)
    async with opened(tmp_path, limits, clock=FakeClock()) as runtime:
        handle = await runtime.start("deep", text="why")
        await eventually(lambda: len(limits.waiting) == 2)
        limits.grant("first")
        assert await result_of(handle) == "first: why"
        assert failovers(runtime, "wait") == 0
        await eventually(lambda: not limits.waiting)


async def test_a_short_wait_on_the_deep_path_is_waited_for(tmp_path):
    limits = Toy(expected_s=DEEP_WAIT_S, first=0, second=1)
    async with opened(tmp_path, limits, clock=FakeClock()) as runtime:
        handle = await runtime.start("deep", text="why")
        await limits.waits.wait()
        limits.grant("first")
        assert await result_of(handle) == "first: why"
    assert [ask.resource for ask in limits.asked] == ["first"]


async def test_a_run_is_demoted_only_if_the_wait_for_each_is_too_long(tmp_path):
    limits = Toy(expected_s=60.0, first=0, second=0)
    async with opened(tmp_path, limits, clock=FakeClock()) as runtime:
        handle = await runtime.start("fast", text="why")
        await reach(handle, "run.demoted")
        await eventually(lambda: len(limits.waiting) == 2)
        limits.grant("second")
        assert await result_of(handle) == "second: why"
        [demoted] = of(await log_of(handle), "run.demoted")
    assert demoted.data["reason"] == "predicted"
    assert limits.held == limits.waiting == {}


async def test_a_run_waits_until_the_first_breaker_lets_it_try(tmp_path):
    clock, limits = FakeClock(), Shut("first", "second", first=1, second=1)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("deep", text="why")
        await eventually(lambda: {ask.resource for ask in limits.asked} == {"first", "second"})
        limits.shut = {"first"}
        assert await clock.run_until(result_of(handle)) == "second: why"
        assert [event.data["attempt"] for event in of(await log_of(handle), "step.started")] == [1]


async def test_a_step_whose_breaker_opens_again_is_asked_again_while_another_is_waited_for(tmp_path):
    clock, limits = FakeClock(), Shut("first", expected_s=600.0, first=1, second=0)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("deep", text="why")
        await limits.waits.wait()
        limits.shut = set()
        assert await clock.run_until(result_of(handle)) == "first: why"
    assert limits.waiting == {}


async def test_the_next_step_is_called_where_a_queue_is_full(tmp_path):
    limits = Shut("first", answer=Refused("busy", "full", 5.0), first=1, second=1)
    async with opened(tmp_path, limits) as runtime:
        assert await result_of(await runtime.start("fast", text="why")) == "second: why"
        assert failovers(runtime, "wait") == 1


async def test_where_all_queues_are_full_each_is_asked_in_turn(tmp_path):
    limits = Shut("first", "second", answer=Refused("busy", "full", 5.0), first=1, second=1)
    async with opened(tmp_path, limits) as runtime:
        handle = await runtime.start("fast", text="why")
        assert type(await failure_of(handle)) is ResourceBusy
        seen = await log_of(handle)
    assert types(seen)[1:] == ["step.started", "step.retrying", "step.started", "step.failed", "run.failed"]


async def test_the_last_that_can_be_called_may_have_a_late_first_token(tmp_path):
    app, clock, limits = App("failover"), FakeClock(), Shut("first", first=1, second=1)
    may_end = asyncio.Event()

    @app.step
    async def first(text: str) -> str:
        raise CircuitOpen("never called")

    @app.step
    async def second(text: str) -> str:
        await may_end.wait()
        return text

    answer = app.failover(uses(first, "first"), uses(second, "second"), first_token=3.0, name="answer")

    @app.pipeline(budget=600)
    async def fast(text: str) -> str:
        return await answer(text)

    async with opened(tmp_path, limits, app, clock) as runtime:
        handle = await runtime.start("fast", text="why")
        await reach(handle, "step.started")
        clock.advance(60)
        runtime.service.process.loops.loops[0].loop.call_soon_threadsafe(may_end.set)
        assert await result_of(handle) == "why"
        assert of(await log_of(handle), "step.retrying") == []


async def test_a_cancellation_gives_all_waits_up(tmp_path):
    limits = Toy(expected_s=60.0, first=0, second=0)
    async with opened(tmp_path, limits, clock=FakeClock()) as runtime:
        handle = await runtime.start("deep", text="why")
        await eventually(lambda: len(limits.waiting) == 2)
        await handle.cancel()
        await eventually(lambda: not limits.waiting)


async def test_what_a_second_step_was_granted_meanwhile_comes_back(tmp_path):
    limits = Toy(expected_s=60.0, first=0, second=0)
    async with opened(tmp_path, limits, clock=FakeClock()) as runtime:
        handle = await runtime.start("deep", text="why")
        await eventually(lambda: len(limits.waiting) == 2)

        def both():
            limits.grant("second")
            limits.grant("first")

        runtime.service.process.loops.loops[0].loop.call_soon_threadsafe(both)
        assert await result_of(handle) == "first: why"
        await eventually(lambda: limits.free == {"first": 1, "second": 1})


async def test_a_run_that_is_demoted_in_between_goes_on_in_the_list(tmp_path):
    app, clock, limits = App("failover"), FakeClock(), Toy(first=1, second=0)

    @app.step
    async def first(text: str) -> str:
        raise ConnectionError("down")

    @app.step
    async def second(text: str) -> str:
        return f"second: {text}"

    answer = app.failover(uses(first, "first"), uses(second, "second"), name="answer")

    @app.pipeline(budget=5)
    async def fast(text: str) -> str:
        return await answer(text)

    async with opened(tmp_path, limits, app, clock) as runtime:
        handle = await runtime.start("fast", text="why")
        await limits.waits.wait()
        reader = asyncio.ensure_future(reach(handle, "run.resumed"))
        await clock.run_until(reader)
        limits.grant("second")
        assert await result_of(handle) == "second: why"
        seen = await log_of(handle)
    assert [event.data["target"] for event in of(seen, "step.started")] == ["first", "second"]
    assert [ask.resource for ask in limits.asked].count("first") == 1
    assert len(of(seen, "run.demoted")) == 1


async def test_a_failover_that_is_cancelled_while_it_gives_up_its_other_waits_keeps_no_permit(tmp_path):
    app, bounds = App("failover"), []
    steps = [uses(app.step(name=name)(_say), name) for name in ("first", "second")]
    answer = app.failover(*steps, name="answer")

    class Ends(Toy):
        """The first withdrawal is the moment at which the failover gives up what it no longer waits for."""

        def withdraw(self, permit_id):
            super().withdraw(permit_id)
            if len(self.withdrawn) == 1:
                bounds[0].reschedule(asyncio.get_running_loop().time())

    limits = Ends(expected_s=6.0, first=0, second=1)

    @app.pipeline(budget=5.0)
    async def line() -> str:
        try:
            async with asyncio.timeout(None) as limit:
                bounds.append(limit)
                return await answer("why")
        except TimeoutError:
            return "timeout"

    async with opened(tmp_path, limits, app, FakeClock()) as runtime:
        assert await result_of(await runtime.start("line")) == "timeout"
        await eventually(lambda: limits.free == {"first": 0, "second": 1})
    assert limits.waiting == limits.held == {}


async def _say(text: str) -> str:
    return text
