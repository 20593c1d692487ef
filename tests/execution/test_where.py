"""Where a failure was raised: the same in every lane, in the run's document and events, live and after a replay."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from offramp import SLA, App, Retry, testing
from offramp.core.tracebacks import written
from tests.execution import cpu
from tests.support import Signal, log_of, of, reach

HERE = "tests/execution/test_where.py"


def helper(prices: dict[str, int]) -> int:
    password = "hunter2"
    return prices["x"] if password else 0


LINE = helper.__code__.co_firstlineno + 2
RAISED = {"file": HERE, "line": LINE, "function": "helper"}
app = App("where", classes=[SLA("now", budget=30.0)])


@app.step
def in_thread() -> int:
    return helper({})


@app.step
async def on_loop() -> int:
    await asyncio.sleep(0)
    return helper({})


@app.step(retry=Retry(attempts=2, base=0))
async def twice() -> int:
    return helper({})


@app.step(timeout=0.05)
async def waits() -> None:
    await asyncio.Event().wait()


@app.step(timeout=0.05)
def sleeps() -> None:
    time.sleep(0.3)


@app.step
async def unencodable() -> Any:
    return object()


STEPS = {each.fn.__name__: each for each in (in_thread, on_loop, twice, waits, sleeps, unencodable)}


@app.pipeline
async def of_step(name: str) -> int:
    return await STEPS[name]()


@app.pipeline
async def of_body() -> int:
    return helper({})


@app.pipeline
async def from_another() -> int:
    try:
        return await on_loop()
    except KeyError as error:
        raise ValueError("no price") from error


async def ended(runtime, pipeline, **given):
    """The run's events, its document and its recorded failure."""
    handle = await runtime.start(pipeline, **given)
    seen = await log_of(handle)
    record = await runtime.service.get(handle.id)
    return seen, await handle.document(), record.error


def functions_in(failure):
    return [frame.function for frame in failure.traceback.frames]


async def check(runtime):
    """What a runtime of any engine has to say of the failures of `app`."""
    for name in ("in_thread", "on_loop", "twice"):
        seen, document, failure = await ended(runtime, "of_step", name=name)
        assert document["error"]["where"] == RAISED, name
        assert all(event.data["error"]["where"] == RAISED for event in (*of(seen, "step.failed"), seen[-1])), name
        assert [event.data["error"]["where"] for event in of(seen, "step.retrying")] == [RAISED] * (name == "twice")
        assert [each for each in functions_in(failure) if each != "wait_for"] == ["of_step", name, "helper"]
    _, document, failure = await ended(runtime, "of_body")
    assert (document["error"]["where"], functions_in(failure)) == (RAISED, ["of_body", "helper"])
    _, document, failure = await ended(runtime, "from_another")
    assert document["error"]["where"]["function"] == "from_another"
    assert "KeyError: 'x'" in written(failure)
    assert functions_in(failure.cause) == ["from_another", "on_loop", "helper"]
    for text in (written(failure), msgspec.json.encode(document).decode()):
        assert "hunter2" not in text
        assert str(Path(__file__).parent) not in text


async def test_a_failure_says_where_it_was_raised():
    async with testing.runtime(app) as runtime:
        await check(runtime)


@pytest.mark.parametrize("name", ["waits", "sleeps", "unencodable"])
async def test_what_no_line_of_the_users_raises_is_at_its_function(name):
    async with testing.runtime(app) as runtime:
        _, document, failure = await ended(runtime, "of_step", name=name)
    where = document["error"]["where"]
    assert (where["file"], where["function"]) == (HERE, name)
    first = STEPS[name].fn.__code__.co_firstlineno
    assert where["line"] == first + (2 if name == "waits" else 0)  # a coroutine was at its await
    assert f"in {name}" in written(failure)


async def test_a_process_lane_says_the_same():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        _, document, failure = await ended(runtime, "of_raising", text="no")
    line = cpu.raising.fn.__code__.co_firstlineno + 2
    assert document["error"]["where"] == {"file": "tests/execution/cpu.py", "line": line, "function": "raising"}
    assert functions_in(failure) == ["of_raising", "raising"]


async def test_the_caller_is_shown_the_frames_that_its_traceback_lacks():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        handle = await runtime.start("of_raising", text="no")
        with pytest.raises(cpu.Odd) as caught:
            await handle.result()
    assert any('File "tests/execution/cpu.py"' in note for note in caught.value.__notes__)


async def test_a_replay_raises_it_at_the_same_place():
    replayed, may = App("replayed", classes=[SLA("now", budget=0.05)]), Signal()

    @replayed.step
    async def fails() -> int:
        return helper({})

    @replayed.step
    async def holds() -> None:
        await may.wait()

    @replayed.step
    async def ends() -> None:
        pass

    @replayed.pipeline(sla="now")
    async def goes_on() -> int:
        error = None
        try:
            await fails()
        except KeyError as raised:
            error = raised
        await holds()
        await ends()
        raise error

    async with testing.runtime(replayed) as runtime:
        handle = await runtime.start("goes_on")
        await reach(handle, "run.demoted")
        may.set()
        seen = await log_of(handle)
        record = await runtime.service.get(handle.id)
    assert of(seen, "run.resumed")
    assert seen[-1].data["error"]["where"] == RAISED
    assert functions_in(record.error)[-2:] == ["fails", "helper"]


async def test_ends_from_outside_and_a_divergence_are_nowhere():
    cut, began = App("cut"), Signal()

    @cut.step
    async def holds() -> None:
        began.set()
        await asyncio.Event().wait()

    @cut.pipeline
    async def cancelled() -> None:
        await holds()

    @cut.pipeline(deadline=0.05)
    async def late() -> None:
        await holds()

    async with testing.runtime(cut) as runtime:
        handle = await runtime.start("cancelled")
        await began.wait()
        await handle.cancel()
        assert (await log_of(handle))[-1].data["error"]["where"] is None
        assert (await log_of(await runtime.start("late")))[-1].data["error"]["where"] is None
