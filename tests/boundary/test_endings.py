"""What is no `Exception` and ends a step or a body: a failure like any other, unless a cancellation was asked for."""

from __future__ import annotations

import asyncio
import gc

import pytest

import offramp
from offramp import App, Retry, current_run, testing
from offramp.errors import Aborted, LaneDied, RunCancelled
from offramp.testing import FakeClock
from tests.boundary import raising
from tests.boundary.raising import PanicException, kind_of
from tests.execution import cpu
from tests.support import Signal, failure_of, log_of, of, reach, result_of, types

NO_EXCEPTIONS = ["stray", "exits", "interrupts", "closes", "panics", "loose", "many"]


async def journal_of(runtime, handle):
    return await runtime.service.process.store.journal(handle.id)


@pytest.mark.parametrize("name", NO_EXCEPTIONS)
@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_it_is_retried_announced_and_journaled(lane, name):
    app, calls = App("ends"), []

    def raises() -> None:
        calls.append(current_run().attempt)
        raising.RAISES[name]()

    async def on_loop() -> None:
        raises()

    declare = app.step(name="failing", retry=Retry(attempts=2, base=0))
    failing = declare(on_loop if lane == "loop" else raises)

    @app.pipeline
    async def pipe() -> None:
        await failing()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        error = await failure_of(handle)
        log = await log_of(handle)
        [step] = (await handle.document())["steps"]
        [entry] = await journal_of(runtime, handle)
    assert types(log)[1:] == ["step.started", "step.retrying", "step.started", "step.failed", "run.failed"]
    assert calls == [1, 2]
    told = log[-1].data["error"]
    assert (told["code"], told["step"], told["attempt"]) == ("aborted", "failing", 2)
    assert f"step 'failing' ended with {kind_of(name)}" in told["message"]
    assert (step["status"], entry.failure.code, entry.attempt) == ("failed", "aborted", 2)
    assert isinstance(error, Aborted)
    assert type(error.__cause__).__name__ == kind_of(name)


async def test_a_process_says_what_it_was_and_lives_on():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        [child] = await result_of(await runtime.start("of_pids", n=1))
        error = await failure_of(await runtime.start("of_exiting", text="bye"))
        assert isinstance(error, Aborted)
        assert "step 'exiting' ended with SystemExit: bye" in str(error)
        assert isinstance(error.__cause__, SystemExit)
        assert error.__cause__.code == "bye"
        assert "cpu.py" in "\n".join(error.__notes__)
        assert await result_of(await runtime.start("of_pids", n=1)) == [child]
        assert isinstance(await failure_of(await runtime.start("of_dying", code=3)), LaneDied)


async def test_a_fork_of_a_process_that_exits_is_no_answer():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        assert await result_of(await runtime.start("of_forking")) == "the one that forked"


@pytest.mark.parametrize("name", NO_EXCEPTIONS)
async def test_a_body_that_catches_it_goes_on_after_a_demotion(name):
    app, hold, clock = App("ends"), Signal(), FakeClock()

    @app.step
    async def failing() -> None:
        raising.RAISES[name]()

    @app.step
    async def gate() -> None:
        await hold.wait()

    @app.step
    async def note(text: str) -> str:
        return text

    @app.pipeline
    async def pipe() -> str:
        try:
            await failing()
        except Exception as error:  # noqa: BLE001 - the body decides by what it sees
            caught = f"{type(error).__name__}: {error}"
        await gate()
        return await note(caught)

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.started", "gate")
        clock.advance(7.0)
        await reach(handle, "run.demoted")
        hold.set()
        assert kind_of(name) in await clock.run_until(result_of(handle))
        log = await log_of(handle)
    assert len(of(log, "step.failed")) == 1
    assert "run.resumed" in types(log)


@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_a_real_panic_of_a_rust_extension_is_a_failure(lane):
    rpds = pytest.importorskip("rpds")
    app = App("ends")

    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            raise ZeroDivisionError

    def looks_up() -> str:
        return rpds.HashTrieMap({Key(): "found"}).get(Key())

    step = app.step(name="looks_up", lane=lane)(looks_up)

    @app.pipeline
    async def pipe() -> str:
        try:
            return await step()
        except Aborted as error:
            return f"{type(error.__cause__).__module__}: {error}"

    found = await testing.replays(app, "pipe")
    assert found.startswith("pyo3_runtime: step 'looks_up' ended with PanicException: __eq__ failed!")


async def test_a_nested_pipelines_step_fails_alike():
    assert await testing.replays(raising.app, "outer", name="stray") == "Aborted"
    assert await testing.replays(raising.app, "outer", name="panics") == "Aborted"


ENDS = [("ends_with", name) for name in NO_EXCEPTIONS]
BRANCHES = [("branch_ends_with", name) for name in ("exits", "interrupts", "panics")]


@pytest.mark.parametrize(("pipeline", "name"), [*ENDS, *BRANCHES])
async def test_a_body_that_ends_so_fails_its_run_and_no_other(pipeline, name):
    async with testing.runtime(raising.app) as runtime:
        handle = await runtime.start(pipeline, name=name)
        log = await log_of(handle)
        error = await failure_of(handle)
        assert await result_of(await runtime.start("outer", name="plain")) == "Plain"
    assert types(log)[-1] == "run.failed"
    assert types(log).count("run.failed") == 1
    assert isinstance(error, Aborted)
    message = log[-1].data["error"]["message"]
    assert f"the body of pipeline '{pipeline}' ended with" in message
    assert kind_of(name) in message


async def test_a_stray_cancellation_of_a_body_is_named():
    async with testing.runtime(raising.app) as runtime:
        error = await failure_of(await runtime.start("ends_with", name="stray"))
    assert "ended with CancelledError, though nothing cancelled it" in str(error)
    assert "raise an Exception" in str(error)


async def test_awaiting_what_was_cancelled_elsewhere_is_a_failure_of_the_step():
    app = App("ends")

    @app.step
    async def waits_for_another() -> None:
        other = asyncio.get_running_loop().create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    @app.pipeline
    async def pipe() -> str:
        try:
            await waits_for_another()
        except Aborted as error:
            return type(error.__cause__).__name__
        return "nothing"

    assert await testing.replays(app, "pipe") == "CancelledError"


async def test_a_cancellation_that_the_body_asked_for_is_no_failure():
    app, begun = App("ends"), Signal()

    @app.step(retry=Retry(attempts=5, base=0))
    async def endless() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    @app.pipeline
    async def pipe() -> str:
        task = asyncio.create_task(endless())
        await begun.wait()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "nothing"

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "cancelled"
        assert not {"step.failed", "step.retrying"} & set(types(await log_of(handle)))
        assert await journal_of(runtime, handle) == []


async def test_a_timeout_of_the_body_around_a_step_is_no_failure_of_it():
    app = App("ends")

    @app.step
    async def endless() -> None:
        await asyncio.get_running_loop().create_future()

    @app.pipeline
    async def pipe() -> str:
        try:
            async with asyncio.timeout(0.01):
                await endless()
        except TimeoutError:
            return "too slow"
        return "nothing"

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "too slow"
        assert "step.failed" not in types(await log_of(handle))
        assert "step.failed" not in types(await log_of(handle))


async def test_a_timeout_inside_a_step_is_the_steps_own():
    app = App("ends")

    @app.step
    async def impatient() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.get_running_loop().create_future()

    @app.pipeline
    async def pipe() -> str:
        try:
            await impatient()
        except TimeoutError as error:
            return type(error).__name__
        return "nothing"

    assert await testing.replays(app, "pipe") == "TimeoutError"


async def test_a_step_in_a_task_that_was_cancelled_before_still_fails_by_a_stray_one():
    app = App("ends")

    @app.step
    async def stray() -> None:
        raise asyncio.CancelledError

    async def cleans() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            try:
                await stray()
            except Aborted:
                return "told"
        return "nothing"

    @app.pipeline
    async def pipe() -> str:
        task = asyncio.create_task(cleans())
        await asyncio.sleep(0)
        task.cancel()
        return await task

    async with testing.runtime(app) as runtime:
        assert await result_of(await runtime.start("pipe")) == "told"


async def test_a_task_that_cancels_itself_before_a_step_is_cancelled_in_it():
    app = App("ends")

    @app.step
    async def waits() -> None:
        await asyncio.sleep(0)

    async def gives_up() -> None:
        asyncio.current_task().cancel()
        await waits()

    @app.pipeline
    async def pipe() -> str:
        task = asyncio.create_task(gives_up())
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else repr(task.exception())

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "cancelled"
        assert "step.failed" not in types(await log_of(handle))


async def test_a_run_that_is_cancelled_fails_no_step():
    app, begun = App("ends"), Signal()

    @app.step(retry=Retry(attempts=5, base=0))
    async def endless() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    @app.pipeline
    async def pipe() -> None:
        await asyncio.gather(endless())

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        await handle.cancel()
        assert isinstance(await failure_of(handle), RunCancelled)
        assert not {"step.failed", "step.retrying"} & set(types(await log_of(handle)))


async def test_a_coroutine_that_is_thrown_away_fails_no_step():
    app, begun = App("ends"), Signal()

    @app.step
    async def endless() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    @app.pipeline
    async def pipe() -> str:
        await asyncio.sleep(0)
        coroutine = endless()
        coroutine.send(None)  # it waits now, as what a library drives by hand
        await begun.wait()
        asyncio.get_running_loop().call_soon(coroutine.close)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
        return "done"

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "done"
        assert "step.failed" not in types(await log_of(handle))
        assert "step.failed" not in types(await log_of(handle))


async def test_the_loop_of_a_service_is_ended_by_no_pipeline():
    async with testing.runtime(raising.app) as runtime:
        handles = [await runtime.start("outer", name="exits") for _ in range(20)]
        ends = [await runtime.start("branch_ends_with", name="exits") for _ in range(5)]
        assert [await result_of(handle) for handle in handles] == ["Aborted"] * 20
        assert [type(await failure_of(handle)) for handle in ends] == [Aborted] * 5


def test_what_stands_for_a_panic_is_no_exception():
    assert not issubclass(PanicException, Exception)
    assert offramp.errors.Aborted.code == "aborted"
