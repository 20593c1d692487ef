"""A late first token has a step executed again beside itself: one attempt, which the first to have a token wins."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from offramp import App, testing
from offramp.core.limits.hedging import CALLS_PER_HEDGE, TIMES_MIN
from offramp.core.limits.messages import Level
from offramp.errors import DeclarationError, ResourceBusy, RunCancelled, StepTimeout
from offramp.testing import FakeClock
from tests.failover.hedged import AFTER_S, Budget, Executions, declared, hedge, on_loop
from tests.permits import Toy
from tests.support import Signal, eventually, failure_of, log_of, member, of, reading, result_of, types


class Begun:
    """A run of a hedged step whose first token is late."""

    def __init__(self, runtime, handle, executions, budget, won, clock):
        self.runtime = runtime
        self.handle = handle
        self.executions = executions
        self.budget = budget
        self.won = won
        self.clock = clock
        self.says = executions.says


async def begun(runtime, clock, executions, budget, path="fast"):
    won = hedge(runtime.service, budget)
    handle = await runtime.start(path, text="why")
    await executions.began[0].wait()
    clock.advance(AFTER_S)
    return Begun(runtime, handle, executions, budget, won, clock)


@pytest.mark.parametrize("path", ["fast", "deep"])
async def test_the_second_execution_wins_by_the_first_token(path):
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget, path)
        await executions.began[1].wait()
        await on_loop(runtime, executions.says, 1, "a")
        await eventually(lambda: executions.ended == [0])
        await on_loop(runtime, executions.says, 1, "b", None)
        assert await result_of(run.handle) == "1: why"
        seen = [event for event in await log_of(run.handle) if event.type.startswith("step.")]
    assert types(seen) == ["step.started", "step.delta", "step.delta", "step.completed"]
    assert [event.data["delta"] for event in of(seen, "step.delta")] == ["1 a", "1 b"]
    assert {event.data["attempt"] for event in seen} == {1}
    assert run.won == [True]
    assert (budget.calls, budget.asked, budget.seen) == (1, [()], [("write", AFTER_S)])


async def test_the_first_execution_wins_by_the_first_token_and_the_other_is_never_seen():
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()

        def both():
            executions.says(0, "a")
            executions.says(1, "b", "c")

        await on_loop(runtime, both)
        await eventually(lambda: executions.ended == [1])
        await on_loop(runtime, executions.says, 0, None)
        assert await result_of(run.handle) == "0: why"
        seen = await log_of(run.handle)
    assert [event.data["delta"] for event in of(seen, "step.delta")] == ["0 a"]
    assert run.won == [False]


@pytest.mark.parametrize("number", [0, 1])
async def test_one_that_ends_without_a_token_wins(number):
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()
        await on_loop(runtime, executions.says, number, None)
        assert await result_of(run.handle) == f"{number}: why"
    assert executions.ended == [1 - number]
    assert run.won == [number == 1]


@pytest.mark.parametrize("number", [0, 1])
async def test_one_that_fails_leaves_the_attempt_to_the_other(number):
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()
        await on_loop(runtime, executions.says, number, ValueError("no"))
        await on_loop(runtime, executions.says, 1 - number, "a", None)
        assert await result_of(run.handle) == f"{1 - number}: why"
        assert of(await log_of(run.handle), "step.retrying") == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_where_both_fail_the_error_is_that_of_the_first_execution(order):
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()
        for number in order:
            await on_loop(runtime, executions.says, number, ValueError(f"no {number}"))
        error = await failure_of(run.handle)
    assert (type(error), str(error)) == (ValueError, "no 0")


async def test_the_error_of_one_that_has_won_counts_though_the_other_failed_before():
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()
        for number, words in ((0, [ValueError("no")]), (1, ["a"]), (1, [ValueError("broken off")])):
            await on_loop(runtime, executions.says, number, *words)
        error = await failure_of(run.handle)
        deltas = of(await log_of(run.handle), "step.delta")
    assert (str(error), [each.data["delta"] for each in deltas]) == ("broken off", ["1 a"])


async def test_a_request_that_may_not_wait_is_no_hedge():
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()
        await on_loop(runtime, executions.says, 1, ResourceBusy("model: 1 call waits"))
        await on_loop(runtime, executions.says, 0, "a", None)
        assert await result_of(run.handle) == "0: why"
    assert (run.won, budget.given_back) == ([], 1)


async def test_a_first_token_that_a_timeout_waited_for_in_vain_is_learned():
    executions, clock, budget = Executions(), FakeClock(), Budget(left=0)
    async with testing.runtime(declared(executions, timeout=0.2), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await failure_of(run.handle)
    assert budget.seen == [("write", AFTER_S)]


async def test_the_winner_fails_the_attempt():
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()
        await on_loop(runtime, executions.says, 1, "a", ValueError("broken off"))
        error = await failure_of(run.handle)
    assert str(error) == "broken off"
    assert executions.ended == [0]


async def test_nothing_is_executed_again_for_a_token_in_time_or_without_budget():
    executions, clock, budget = Executions(), FakeClock(), Budget(left=0)
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await eventually(lambda: budget.asked)
        await on_loop(runtime, executions.says, 0, None)
        assert await result_of(run.handle) == "0: why"
        handle = await runtime.start("fast", text="again")
        await executions.began[1].wait()
        await on_loop(runtime, executions.says, 1, "a")
        clock.advance(AFTER_S)
        await on_loop(runtime, executions.says, 1, None)
        assert await result_of(handle) == "1: again"
    assert (len(budget.asked), len(executions.words), run.won) == (1, 2, [])


async def test_a_timeout_ends_both():
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions, timeout=0.2), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()
        assert type(await failure_of(run.handle)) is StepTimeout
    assert sorted(executions.ended) == [0, 1]


async def test_a_cancellation_ends_both():
    executions, clock, budget = Executions(), FakeClock(), Budget()
    async with testing.runtime(declared(executions), clock=clock) as runtime:
        run = await begun(runtime, clock, executions, budget)
        await executions.began[1].wait()
        await run.handle.cancel()
        assert type(await failure_of(run.handle)) is RunCancelled
        await eventually(lambda: sorted(executions.ended) == [0, 1])


async def test_both_have_arguments_of_their_own():
    app, given, both = App("hedged"), [], Signal()

    @app.step(hedge=True)
    async def write(words: list[str]) -> int:
        given.append(words)
        words.append("more")
        if len(given) == 1:
            await asyncio.get_running_loop().create_future()
        both.set()
        return len(words)

    @app.pipeline
    async def pipe() -> int:
        return await write(["why"])

    clock = FakeClock()
    async with testing.runtime(app, clock=clock) as runtime:
        hedge(runtime.service, Budget())
        handle = await runtime.start("pipe")
        await eventually(lambda: given)
        clock.advance(AFTER_S)
        assert await result_of(handle) == 2
    assert given[0] is not given[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hedge": True, "effect": "once"}, "hedge=True may execute its code twice, which effect='once' excludes"),
        ({"hedge": 1.5}, "hedge= is one of True, False, got 1.5"),
        ({"slow_after": 0}, "slow_after= is in seconds, above 0, got 0"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_declared(options, says):
    app = App("hedged")
    with pytest.raises(DeclarationError, match=says):

        @app.step(**options)
        async def write(text: str) -> str:
            return text


def test_a_plain_function_cannot_be_hedged():
    app = App("hedged")
    with pytest.raises(DeclarationError, match="hedge=True takes an async function"):

        @app.step(hedge=True)
        def write(text: str) -> str:
            return text


async def test_what_is_late_is_learned_from_earlier_calls():
    app, clock, executions, late = App("hedged"), FakeClock(), [], Signal()

    @app.step(hedge=True)
    async def write(number: int) -> int:
        executions.append(number)
        if executions.count(TIMES_MIN) == 1 and number == TIMES_MIN:
            late.set()
            await asyncio.get_running_loop().create_future()
        return number

    @app.pipeline(budget=600)
    async def pipe() -> int:
        return sum([await write(number) for number in range(TIMES_MIN + 1)])

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await late.wait()
        clock.advance(0.1)
        assert await result_of(handle) == sum(range(TIMES_MIN + 1))
        won = [reading(runtime.service, "offramp_hedges_total", won=won) for won in ("true", "false")]
    assert (won, len(executions)) == ([1, 0], TIMES_MIN + 2)


async def test_nothing_is_executed_again_while_a_resource_is_in_trouble(tmp_path):
    executions, watching = Executions(), []

    class Watched(Toy):
        def watch(self, notify):
            watching.append(notify)

    app = declared(executions)
    async with member(app, tmp_path, "local", limits=Watched(model=1)) as service:
        hedging, attempt = service.process.lanes.hedging, SimpleNamespace(call=_call())
        for _ in range(2 * CALLS_PER_HEDGE):
            hedging.called(attempt)
        for notify in watching:
            notify([Level(name="model", in_use=0, concurrency=1, scale=0.9)])
        assert not hedging.may(attempt)
        for notify in watching:
            notify([Level(name="model", in_use=0, concurrency=1)])
        assert hedging.may(attempt)


def _call():
    return SimpleNamespace(name="write", target=None, policy=SimpleNamespace(uses=("model",)))
