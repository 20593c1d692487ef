"""A failover's steps in process lanes and threads, and what its trace shows."""

from __future__ import annotations

import pytest

from offramp import App, emit, testing
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.failover import desk
from tests.failover.hedged import AFTER_S, Budget, Executions, hedge, on_loop
from tests.failover.hedged import declared as declared_hedged
from tests.failover.test_providers import Watched
from tests.support import Signal, log_of, member, of, result_of
from tests.telemetry.conftest import host_program


@pytest.fixture
def memory(monkeypatch):
    with host_program(monkeypatch) as made:
        yield made


@pytest.mark.parametrize(
    ("which", "result", "targets"),
    [
        ("hangs", "2: why", ["hangs", "plain"]),
        ("emits", "in time: why", ["emits_and_stays"]),
        ("broken", "2: why", ["broken", "plain"]),
    ],
)
async def test_a_step_in_a_process_is_killed_where_its_first_token_is_late(tmp_path, which, result, targets):
    async with member(desk.app, tmp_path, "local", processes=1) as service:
        handle = await LocalRuntime(service).start("fast", which=which)
        assert await result_of(handle) == result
        seen = await log_of(handle)
    assert [event.data["target"] for event in of(seen, "step.started")] == targets
    codes = {"hangs": ["first-token-timeout"], "broken": ["step-failed"], "emits": []}
    assert [event.data["error"]["code"] for event in of(seen, "step.retrying")] == codes[which]


async def test_targets_and_late_first_tokens_are_in_the_trace(memory):
    app, clock, waits, may_end = App("desk"), FakeClock(), Signal(), Signal()

    @app.step
    async def first(text: str) -> str:
        emit("a part")
        raise ConnectionError("down")

    @app.step(slow_after=2.0)
    async def second(text: str) -> str:
        waits.set()
        await may_end.wait()
        return text

    answer = app.failover(first, second, name="answer")

    @app.pipeline(budget=60)
    async def pipe() -> str:
        return await answer("why")

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await waits.wait()
        clock.advance(2.1)
        await on_loop(runtime)
        may_end.set()
        assert await result_of(handle) == "why"
    span = memory.one("offramp.step answer")
    assert span.attributes["offramp.step.target"] == "second"
    retrying, slow = span.events
    assert (retrying.name, retrying.attributes["offramp.step.target"]) == ("step.retrying", "first")
    assert (slow.name, dict(slow.attributes)) == (
        "step.slow",
        {"offramp.step.attempt": 2, "offramp.slow_after_ms": 2000},
    )


async def test_a_hedge_is_in_the_trace(memory):
    executions, clock = Executions(), FakeClock()
    async with testing.runtime(declared_hedged(executions), clock=clock) as runtime:
        hedge(runtime.service, Budget())
        handle = await runtime.start("fast", text="why")
        await executions.began[0].wait()
        clock.advance(AFTER_S)
        await executions.began[1].wait()
        loop = runtime.service.process.loops.loops[0].loop
        loop.call_soon_threadsafe(executions.says, 1, None)
        await result_of(handle)
    [hedged] = memory.one("offramp.step write").events
    assert (hedged.name, dict(hedged.attributes)) == (
        "step.hedged",
        {"offramp.step.attempt": 1, "offramp.hedge.won": True},
    )


@pytest.mark.parametrize(("emits", "reported"), [(False, ["slow"]), (True, [])])
async def test_a_call_with_a_permit_is_slow_unless_its_step_has_emitted(tmp_path, emits, reported):
    app, clock, limits, waits, may_end = App("desk"), FakeClock(), Watched(), Signal(), Signal()
    model = app.resource("model", concurrency=5)

    @app.step(slow_after=2.0, uses=model)
    async def ask() -> str:
        async with model.permit():
            if emits:
                emit("a token")
            waits.set()
            await may_end.wait()
        return "done"

    @app.pipeline(budget=60)
    async def pipe() -> str:
        return await ask()

    async with member(app, tmp_path, "local", clock=clock, limits=limits) as service:
        handle = await LocalRuntime(service).start("pipe")
        await waits.wait()
        clock.advance(2.1)
        may_end.set()
        assert await result_of(handle) == "done"
    assert limits.what() == ["written", *reported, "done"]
