"""A timeout and a cancellation bound an async step whatever its code makes of them."""

from __future__ import annotations

import asyncio
import inspect
import logging

import pytest

from offramp import App, Retry, emit, testing
from offramp.errors import StepTimeout
from offramp.testing import FakeClock
from tests.support import GUARD_S, Signal, eventually, failure_of, log_of, of, reach, reading, result_of, types

GRACE_S = 0.5


@pytest.fixture
def clock():
    return FakeClock()


def running(app, clock=None):
    return testing.runtime(app, clock=clock, cancel_grace=GRACE_S)


def abandoned(runtime, step, pipeline="pipe"):
    return reading(runtime.service, "offramp_steps_abandoned_total", pipeline=pipeline, step=step)


async def refuse():
    """Go on whatever is asked."""
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            emit("not yet")


REFUSES_AT = inspect.getsourcelines(refuse)[1] + 4


async def test_a_step_that_swallows_its_timeout_is_abandoned_after_the_grace_counted_and_logged(clock, caplog):
    app, closed = App("stubborn"), Signal()

    @app.step(timeout=0.05)
    async def stubborn() -> str:
        try:
            await refuse()
        finally:
            closed.set()
            emit("too late")

    @app.pipeline
    async def pipe() -> str:
        try:
            return await stubborn()
        except StepTimeout as error:
            return str(error)

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        seen = await reach(handle, "step.delta")
        clock.advance(GRACE_S - 0.01)
        assert not closed.is_set()
        with caplog.at_level(logging.WARNING, "offramp"):
            clock.advance(0.02)
            assert await result_of(handle) == "step 'stubborn' took longer than its timeout of 0.05 s"
        assert closed.is_set()
        assert abandoned(runtime, "stubborn") == 1
        assert reading(runtime.service, "offramp_step_timeouts_total", pipeline="pipe", step="stubborn") == 1
        assert f"{__file__}:{REFUSES_AT} in refuse" in caplog.text
        assert "attempt 1 of step 'stubborn'" in caplog.text
        seen = await log_of(handle)
    assert of(seen, "step.failed")[0].data["error"]["code"] == "step-timeout"
    assert "step.delta" not in types(seen)[types(seen).index("step.failed") :]


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_a_step_that_makes_something_else_of_its_timeout_has_still_timed_out(how):
    app, attempts = App("late"), []

    @app.step(timeout=0.05, retry=Retry(attempts=2, base=0))
    async def late() -> str:
        attempts.append(len(attempts))
        if len(attempts) > 1:
            return "in time"
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if how == "raises":
                raise ValueError("cancelled, it seems") from None
        return "late"

    @app.pipeline
    async def pipe() -> str:
        return await late()

    async with running(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "in time"
        seen = await log_of(handle)
        assert abandoned(runtime, "late") == 0
    assert of(seen, "step.retrying")[0].data["error"]["code"] == "step-timeout"
    assert len(attempts) == 2


async def test_what_an_abandoned_step_left_behind_writes_nothing_into_its_next_attempt(clock):
    app, again, left, over = App("leftover"), Signal(), Signal(), Signal()
    children = []

    @app.step(timeout=0.05, retry=Retry(attempts=2, base=0))
    async def stubborn() -> str:
        if children:
            again.set()
            await over.wait()
            return "second"

        async def child() -> None:
            left.set()
            await again.wait()
            emit("from the first")
            over.set()

        children.append(asyncio.create_task(child()))
        await refuse()
        return "first"

    @app.pipeline
    async def pipe() -> str:
        return await stubborn()

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        await left.wait()
        assert await clock.run_until(handle.result()) == "second"
        seen = await log_of(handle)
    assert "from the first" not in [event.data["delta"] for event in of(seen, "step.delta")]
    assert [event.data["attempt"] for event in of(seen, "step.completed")] == [2]


@pytest.mark.parametrize("kind", ["timeout", "wait_for", "group"])
async def test_a_body_that_gives_up_a_step_goes_on_after_the_grace(kind, clock):
    app, begun = App("gives-up"), Signal()

    @app.step
    async def stubborn() -> None:
        begun.set()
        await refuse()

    @app.step
    async def fails() -> None:
        await begun.wait()
        raise ValueError("enough")

    @app.step
    async def after() -> str:
        return "after"

    async def give_up() -> None:
        if kind == "timeout":
            async with asyncio.timeout(0.05):
                await stubborn()
        elif kind == "wait_for":
            await asyncio.wait_for(stubborn(), 0.05)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(stubborn())
                group.create_task(fails())

    @app.pipeline
    async def pipe() -> str:
        with pytest.raises(ExceptionGroup if kind == "group" else TimeoutError):
            await give_up()
        return await after()

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        assert await clock.run_until(handle.result()) == "after"
        assert abandoned(runtime, "stubborn") == 1
        seen = await log_of(handle)
    assert "stubborn" not in [event.data["step"] for event in of(seen, "step.completed") + of(seen, "step.failed")]


async def test_a_cancelled_run_ends_and_its_step_is_abandoned(clock):
    app = App("cancelled")

    @app.step
    async def stubborn() -> None:
        await refuse()

    @app.pipeline
    async def pipe() -> None:
        await stubborn()

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.started")
        await handle.cancel()
        await reach(handle, "step.delta")
        clock.advance(GRACE_S + 0.01)
        assert types(await log_of(handle))[-1] == "run.cancelled"
        await eventually(lambda: abandoned(runtime, "stubborn") == 1)


@pytest.mark.parametrize("what", ["itself", "a future of another loop", "no future"])
async def test_a_step_that_awaits_what_cannot_be_awaited_fails_as_in_any_task(what):
    app = App("mistakes")
    elsewhere = asyncio.create_task(asyncio.Event().wait())

    class Odd:
        def __await__(self):
            yield 5

    @app.step
    async def odd() -> None:
        made = {"itself": asyncio.current_task, "no future": Odd}.get(what, lambda: elsewhere)
        await made()

    @app.pipeline
    async def pipe() -> None:
        await odd()

    async with running(app) as runtime:
        error = await failure_of(await runtime.start("pipe"))
    assert isinstance(error, RuntimeError)
    assert str(error).startswith("Task ")
    elsewhere.cancel()
    await asyncio.wait([elsewhere])


async def test_a_step_may_cancel_another_run(clock):
    app, runs = App("cancels"), {}

    @app.step
    async def stubborn() -> None:
        await refuse()

    @app.step
    async def cancels() -> None:
        await runs["stubborn"].cancel()

    @app.pipeline
    async def pipe(other: bool = False) -> None:
        await (cancels() if other else stubborn())

    async with running(app, clock) as runtime:
        runs["stubborn"] = await runtime.start("pipe")
        await reach(runs["stubborn"], "step.started")
        await result_of(await runtime.start("pipe", other=True))
        await reach(runs["stubborn"], "step.delta")
        clock.advance(GRACE_S + 0.01)
        assert types(await log_of(runs["stubborn"]))[-1] == "run.cancelled"
        await eventually(lambda: abandoned(runtime, "stubborn") == 1)


async def test_what_a_cancelled_step_returns_is_not_what_its_body_gets():
    app, begun = App("swallows"), Signal()

    @app.step
    async def swallows() -> str:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "swallowed"

    @app.step
    async def after() -> str:
        return "after"

    @app.pipeline
    async def pipe() -> str:
        try:
            async with asyncio.timeout(0.05):
                return await swallows() + await after()
        except TimeoutError:
            return "timed out, " + await after()

    async with running(app) as runtime:
        assert await result_of(await runtime.start("pipe")) == "timed out, after"


async def test_a_step_may_clean_up_within_the_grace(clock):
    app, cleaning, go_on = App("tidy"), Signal(), Signal()

    @app.step(timeout=0.05)
    async def tidy() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaning.set()
            await go_on.wait()
            await asyncio.sleep(0)
            emit("tidied")

    @app.pipeline
    async def pipe() -> None:
        await tidy()

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        await cleaning.wait()
        clock.advance(GRACE_S - 0.01)
        go_on.set()
        assert isinstance(await failure_of(handle), StepTimeout)
        assert abandoned(runtime, "tidy") == 0
        assert [event.data["delta"] for event in of(await log_of(handle), "step.delta")] == ["tidied"]


async def test_a_timeout_inside_of_a_step_is_no_cancellation_however_long_it_takes(clock):
    app, cleaning, go_on = App("own"), Signal(), Signal()

    @app.step(timeout=GUARD_S)
    async def own() -> str:
        try:
            async with asyncio.timeout(0.05):
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    cleaning.set()
                    await go_on.wait()
        except TimeoutError:
            return "my own"

    @app.pipeline
    async def pipe() -> str:
        return await own()

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        await cleaning.wait()
        clock.advance(GRACE_S + 1)
        go_on.set()
        assert await result_of(handle) == "my own"
        assert abandoned(runtime, "own") == 0


@pytest.mark.parametrize("how", ["ignores", "turns", "child", "group"])
async def test_no_code_can_keep_its_run(how, clock):
    app, begun, exits = App("keeps"), Signal(), []

    async def stays() -> None:
        begun.set()
        while True:
            try:
                if how == "turns":
                    await asyncio.sleep(0)
                elif how == "group":
                    async with asyncio.TaskGroup() as group:
                        group.create_task(refuse())
                elif how == "child":
                    await asyncio.gather(refuse())
                else:
                    await asyncio.get_running_loop().create_future()
            except GeneratorExit:
                exits.append(how)
                if how != "ignores" or len(exits) > 1:  # else Python complains of it when it is thrown away
                    raise
            except asyncio.CancelledError:
                pass

    keeps = app.step(name="keeps", timeout=0.05)(stays)

    @app.pipeline
    async def pipe() -> None:
        await keeps()

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        with pytest.raises(StepTimeout):
            await clock.run_until(handle.result())
        assert abandoned(runtime, "keeps") == 1


async def test_a_step_that_happens_once_and_is_abandoned_has_timed_out_for_good(clock):
    app, begun = App("once"), []

    @app.step(timeout=0.05, effect="once")
    async def charge() -> None:
        begun.append(1)
        await refuse()

    @app.pipeline
    async def pipe() -> str:
        try:
            await charge()
        except StepTimeout:
            return "unknown whether it was charged"

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        assert await clock.run_until(handle.result()) == "unknown whether it was charged"
        outcome, executed, *_ = await runtime.service.replay(handle.id)
    assert (begun, executed, outcome.status) == ([1], [], "completed")


async def test_a_drain_does_not_wait_for_an_abandoned_step(clock):
    app, begun, waiting = App("drains"), Signal(), Signal()

    @app.step(timeout=0.05)
    async def stubborn() -> None:
        begun.set()
        await refuse()

    @app.step
    async def last() -> str:
        waiting.set()
        await asyncio.get_running_loop().create_future()

    @app.pipeline(budget=60)
    async def pipe() -> None:
        with pytest.raises(StepTimeout):
            await stubborn()
        await last()

    async with running(app, clock) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        await clock.run_until(waiting.wait())
        live = runtime.service.live.get(handle.id)
        assert [attempt.call.name for attempt in live.execution.scope.gate.in_flight.values()] == ["last"]
        await handle.cancel()
        assert types(await log_of(handle))[-1] == "run.cancelled"
