"""Runs that share a resource through the real limits of one process: which goes next, which leaves the fast path."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from offramp import SLA, App, testing
from offramp.errors import StepTimeout
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.support import Signal, eventually, failure_of, log_of, member, of, reach, result_of


def declared(**limits):
    """An app with a resource; what its steps did is in `order`, and each waits for `go` if there is one."""
    app = App("shared", classes=[SLA("high", priority=10, budget=1000.0), SLA("low", priority=-1, budget=0.0)])
    app.order, app.go = [], {}
    api = app.resource("api", **limits)

    @app.step(uses=api)
    async def call(tag: str) -> str:
        async with api.permit():
            app.order.append(tag)
            if tag in app.go:
                await asyncio.to_thread(app.go[tag].block)
        return tag

    @app.pipeline(sla="low")
    async def low(tag: str) -> str:
        return await call(tag)

    @app.pipeline(sla="high")
    async def high(tag: str) -> str:
        return await call(tag)

    @app.pipeline(sla="high", budget=6.0)
    async def hasty(tag: str) -> str:
        return await call(tag)

    return app


@contextlib.asynccontextmanager
async def opened(folder, app, clock, **settings):
    async with member(app, folder, "local", clock=clock, **settings) as service:
        yield LocalRuntime(service)


async def waiting(runtime):
    _, [level] = await runtime.service.resources()
    return {sla: each.count for sla, each in level.waiting.items()}


@pytest.mark.parametrize("low_wait_s", [1.0, 30.0, 300.0])
async def test_a_high_run_is_next_however_long_low_ones_have_waited(tmp_path, low_wait_s):
    app, clock = declared(concurrency=1), FakeClock()
    app.go["holder"] = Signal()
    async with opened(tmp_path, app, clock) as runtime:
        holder = await runtime.start("low", tag="holder")
        await eventually(lambda: app.order == ["holder"])
        low = [await runtime.start("low", tag=f"low{number}") for number in range(50)]
        await eventually(lambda: has_waiting(runtime, low=50))
        clock.advance(low_wait_s)
        high = [await runtime.start("high", tag=f"high{number}") for number in range(3)]
        await eventually(lambda: has_waiting(runtime, high=3))
        app.go["holder"].set()
        done = asyncio.gather(*map(result_of, [holder, *low, *high]))
        await clock.run_until(done, 0.5)
    # The share of an overdue class is one grant in twenty.
    assert sorted(app.order[1:4]) == ["high0", "high1", "high2"]
    assert len(app.order) == 54


async def has_waiting(runtime, **counts):
    found = await waiting(runtime)
    return all(found.get(sla, 0) == count for sla, count in counts.items())


async def test_a_foretold_wait_beyond_the_budget_demotes_at_once_and_a_shorter_one_does_not(tmp_path):
    app, clock = declared(rate="2/min"), FakeClock()
    async with opened(tmp_path, app, clock) as runtime:
        for tag in ("first", "second"):
            assert await result_of(await runtime.start("hasty", tag=tag)) == tag
        clock.advance(56.0)
        soon = await runtime.start("hasty", tag="soon")
        assert await clock.run_until(result_of(soon), 0.1) == "soon"
        assert not of(await log_of(soon), "run.demoted")
        await clock.run_until(result_of(await runtime.start("hasty", tag="fourth")), 0.1)
        late = await runtime.start("hasty", tag="late")
        [demoted] = of(await reach(late, "run.demoted"), "run.demoted")
        assert demoted.data["reason"] == "predicted"
        assert demoted.data["elapsed_ms"] < 1000.0
        assert await clock.run_until(result_of(late), 0.5) == "late"
        [waits] = of(await log_of(late), "step.waiting")[:1]
        assert (waits.data["reason"], waits.data["resource"]) == ("rate", "api")
    assert app.order == ["first", "second", "soon", "fourth", "late"]


async def test_steps_that_use_two_resources_in_either_order_do_not_block_each_other(tmp_path):
    app, clock = App("two"), FakeClock()
    left, right = app.resource("left", concurrency=1), app.resource("right", concurrency=1)

    @app.step(uses=[left, right])
    async def one(number: int) -> int:
        async with left.permit(), right.permit():
            return number

    @app.step(uses=[right, left])
    async def other(number: int) -> int:
        async with right.permit(), left.permit():
            return number

    @app.pipeline(budget=60)
    async def line() -> int:
        return sum(await asyncio.gather(*(step(number) for step in (one, other) for number in range(10))))

    async with opened(tmp_path, app, clock) as runtime:
        results = asyncio.gather(*[result_of(await runtime.start("line")) for _ in range(5)])
        assert await clock.run_until(results, 0.1) == [90] * 5


async def test_parallel_requests_of_a_step_that_holds_a_permit_are_served(tmp_path):
    app, clock = App("parallel"), FakeClock()
    api = app.resource("api", concurrency=2)

    @app.step(uses=api)
    async def agent(number: int) -> int:
        async def request(value: int) -> int:
            async with api.permit():
                await asyncio.sleep(0)
                return value

        return sum(await asyncio.gather(*(request(number) for _ in range(5))))

    @app.pipeline(budget=60)
    async def line() -> list[int]:
        return await asyncio.gather(*(agent(number) for number in range(6)))

    async with opened(tmp_path, app, clock) as runtime:
        done = asyncio.gather(*[result_of(await runtime.start("line")) for _ in range(4)])
        assert await clock.run_until(done, 0.1) == [[0, 5, 10, 15, 20, 25]] * 4
        _, [level] = await runtime.service.resources()
        assert (level.in_use, level.waiting) == (0, {})


async def test_a_wait_that_the_steps_timeout_ends_first_demotes_no_run():
    app = App("impatient")
    api = app.resource("api", rate="1/100s")

    @app.step(timeout=0.2)
    async def call() -> str:
        async with api.permit():
            return "called"

    @app.pipeline(budget=60)
    async def line() -> str:
        return await call()

    async with testing.runtime(app) as runtime:
        assert await result_of(await runtime.start("line")) == "called"
        handle = await runtime.start("line")
        assert isinstance(await failure_of(handle), StepTimeout)
        assert not of(await log_of(handle), "run.demoted")
