"""Steps that use resources, on Temporal: their activities wait, a short step's local activity does not."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from offramp import SLA, App, current_run
from offramp.engines.temporal import steps
from offramp.errors import RunCancelled
from offramp.paths.local import LocalRuntime
from offramp.paths.submission import Submission
from tests.permits import Toy, uses
from tests.support import Signal, eventually, failure_of, frames_of, log_of, member, of, result_of, types

app = App("permits", classes=[SLA("high", priority=10, budget=0.0), SLA("low", priority=-1, budget=0.0)])
GAUGE = {"now": 0, "most": 0}


@app.step(timeout=30)
async def long() -> str:
    GAUGE["now"] += 1
    GAUGE["most"] = max(GAUGE["most"], GAUGE["now"])
    await asyncio.sleep(0.02)
    GAUGE["now"] -= 1
    return current_run().step


@app.step(short=True)
async def brief() -> str:
    return current_run().step


STEPS = {step.spec.name: uses(step, "api") for step in (long, brief)}


@app.pipeline(sla="low")
async def line(step: str) -> str:
    return await STEPS[step]()


@app.pipeline(sla="low")
async def twice() -> list[str]:
    return [await brief(), await brief()]


@pytest.fixture
def opened(url, tmp_path):
    """A gateway and some workers that share limits."""

    @contextlib.asynccontextmanager
    async def open_them(limits, workers=1, **settings):
        made = {"engine": url, "lease": 2.0, "drain_timeout": 5.0} | settings
        async with contextlib.AsyncExitStack() as stack:
            for number in range(workers):
                await stack.enter_async_context(
                    member(app, tmp_path, "worker", owner=f"w{number}", limits=limits, **made)
                )
            gateway = await stack.enter_async_context(
                member(app, tmp_path, "gateway", owner="g", limits=limits, **made)
            )
            await eventually(lambda: gateway.engine.connection.known)
            yield LocalRuntime(gateway)

    return open_them


@pytest.mark.parametrize("step", list(STEPS))
async def test_an_activity_waits_for_its_permit_and_gives_it_back(opened, step):
    limits, asks = Toy(api=0), 2 if step == "brief" else 1
    async with opened(limits) as runtime:
        handle = await runtime.start("line", step=step)
        # A local activity has asked before, and has not waited.
        await eventually(lambda: len(limits.asked) == asks and len(limits.waiting) == 1)
        assert (await handle.document())["steps"] == []
        limits.grant("api")
        assert await result_of(handle) == step
        seen = await log_of(handle)
    assert {(ask.run_id, ask.step, ask.sla, ask.priority) for ask in limits.asked} == {(handle.id, step, "low", -1)}
    assert len(limits.asked) == asks, "it keeps its place"
    assert types(seen).count("step.started") == 1
    assert not of(seen, "step.retrying")
    assert (limits.free, limits.waiting) == ({"api": 1}, {})


async def test_a_short_step_waits_in_no_local_activity(opened, history):
    """One that need not wait stays a local activity; one that has to becomes another one, which may."""
    limits = Toy(api=1)
    async with opened(limits) as runtime:
        handle = await runtime.start("twice")
        assert await result_of(handle) == ["brief", "brief"]
        kinds = [event.WhichOneof("attributes") for event in await history(handle.id)]
        assert not any(kind.startswith("activity_task") for kind in kinds)
        limits.free["api"] = 0
        limits.waits = Signal()
        handle = await runtime.start("twice")
        await limits.waits.wait()
        await eventually(lambda: len(limits.asked) == 4)
        limits.grant("api")
        assert await result_of(handle) == ["brief", "brief"]
        kinds = [event.WhichOneof("attributes") for event in await history(handle.id)]
        assert kinds.count("activity_task_scheduled_event_attributes") == 1
        seen = await log_of(handle)
    assert types(seen).count("step.started") == 2
    assert limits.free == {"api": 1}


async def test_a_cancelled_run_gives_its_place_up(opened):
    limits = Toy(api=0)
    async with opened(limits) as runtime:
        handle = await runtime.start("line", step="long")
        await limits.waits.wait()
        await handle.cancel()
        assert isinstance(await failure_of(handle), RunCancelled)
        await limits.idle.wait()
    assert limits.waiting == {}


async def test_a_wait_that_lasts_too_long_for_its_activity_goes_on_in_the_next(opened, monkeypatch):
    monkeypatch.setattr(steps, "STEP_MARGIN_S", 0.2)
    limits = Toy(api=0)
    async with opened(limits) as runtime:
        handle = await runtime.start("line", step="long")
        await limits.idle.wait()
        limits.grant("api")
        assert await result_of(handle) == "long"
        assert not of(await log_of(handle), "step.retrying")
    assert {ask.run_id for ask in limits.asked} == {handle.id}
    assert limits.free == {"api": 1}


async def test_concurrency_and_order_hold_over_three_workers(opened):
    limits = Toy(api=0)
    GAUGE.update(now=0, most=0)
    async with opened(limits, workers=3) as runtime:
        low = [await runtime.start("line", step="long") for _ in range(12)]
        await eventually(lambda: len(limits.waiting) == 12)
        high = [
            await runtime.submit(Submission(pipeline="line", input=b'{"step":"long"}', sla="high")) for _ in range(3)
        ]
        await eventually(lambda: len(limits.waiting) == 15)
        begun = []
        limits.granted = lambda ask: begun.append(ask.run_id)
        limits.grant("api", 2)
        assert await asyncio.gather(*map(result_of, [*low, *high])) == ["long"] * 15
    assert GAUGE["most"] <= 2
    assert limits.most <= 2
    assert begun[:3] == sorted(handle.id for handle in high)
    assert begun[3:] == sorted(handle.id for handle in low)
    assert limits.free == {"api": 2}


async def test_a_worker_that_stops_takes_no_permit_along(url, tmp_path):
    full, roomy = Toy(api=0), Toy(api=1)
    made = {"engine": url, "lease": 2.0, "drain_timeout": 5.0}
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(member(app, tmp_path, "gateway", owner="g", limits=full, **made))
        async with member(app, tmp_path, "worker", owner="w1", limits=full, **made):
            handle = await LocalRuntime(gateway).start("line", step="long")
            await full.waits.wait()
        assert full.waiting == {}
        await stack.enter_async_context(member(app, tmp_path, "worker", owner="w2", limits=roomy, **made))
        assert await result_of(handle) == "long"
        frames = await frames_of(gateway, handle.id)
    assert [frame.type for frame in frames].count("step.started") == 1
    assert roomy.free == {"api": 1}
