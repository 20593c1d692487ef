"""The limits on what a run emits and returns, each at its edge."""

from __future__ import annotations

import pytest

from offramp import App, Retry, emit
from offramp.core.events import EMITTED_BYTES_MAX
from offramp.errors import EncodingError, TooLarge
from offramp.execution.lanes import RESULT_BYTES_MAX
from offramp.settings import Settings
from tests.support import failure_of, log_of, of, result_of

LIMIT = 2048
LARGE = LIMIT - 2  # characters; the quotes are two more
LANES = ["loop", "thread", "process"]

app = App("sizes")


def _make(length: int) -> str:
    return "x" * length


def _say(length: int) -> int:
    emit("x" * length)
    return length


@app.step(lane="loop", retry=Retry(attempts=3, base=0.001))
async def make_loop(length: int) -> str:
    return _make(length)


@app.step(lane="thread", retry=Retry(attempts=3, base=0.001))
def make_thread(length: int) -> str:
    return _make(length)


@app.step(lane="process", retry=Retry(attempts=3, base=0.001))
def make_process(length: int) -> str:
    return _make(length)


@app.step(lane="loop")
async def say_loop(length: int) -> int:
    return _say(length)


@app.step(lane="thread")
def say_thread(length: int) -> int:
    return _say(length)


@app.step(lane="process")
def say_process(length: int) -> int:
    return _say(length)


MAKE = {"loop": make_loop, "thread": make_thread, "process": make_process}
SAY = {"loop": say_loop, "thread": say_thread, "process": say_process}


@app.pipeline
async def making(lane: str, length: int) -> int:
    return len(await MAKE[lane](length))


@app.pipeline
async def saying(lane: str, length: int) -> int:
    return await SAY[lane](length) if lane else _say(length)


@app.pipeline
async def returning(length: int) -> str:
    return _make(length)


@app.pipeline
async def coping(length: int) -> str:
    try:
        return await make_loop(length)
    except TooLarge as error:
        return type(error).__name__


@pytest.fixture
async def runtime():
    async with app.local(max_result_bytes=LIMIT, processes=1) as runtime:
        yield runtime


def test_the_default_is_the_setting():
    assert Settings().max_result_bytes == RESULT_BYTES_MAX == 8 << 20
    assert EMITTED_BYTES_MAX == 256 << 10


@pytest.mark.parametrize("lane", LANES)
async def test_the_edge_of_a_steps_result(runtime, lane):
    assert await result_of(await runtime.start("making", lane=lane, length=LARGE)) == LARGE
    handle = await runtime.start("making", lane=lane, length=LARGE + 1)
    error = await failure_of(handle)
    assert isinstance(error, TooLarge)
    assert f"step 'make_{lane}' has {LIMIT + 1} bytes as JSON, at most {LIMIT} (OFFRAMP_MAX_RESULT_BYTES)" in str(error)
    document = await handle.document()
    assert document["status"] == "failed"
    assert (document["error"]["code"], document["error"]["step"]) == ("too-large", f"make_{lane}")
    # Another attempt would make the same.
    assert document["steps"][0]["attempts"] == 1


async def test_the_edge_of_a_runs_result(runtime):
    assert len(await result_of(await runtime.start("returning", length=LARGE))) == LARGE
    handle = await runtime.start("returning", length=LARGE + 1)
    assert "pipeline 'returning'" in str(await failure_of(handle))
    document = await handle.document()
    assert (document["status"], document["error"]["code"], document["result"]) == ("failed", "too-large", None)


async def test_a_pipeline_may_cope_with_a_step_that_made_too_much(runtime):
    assert await result_of(await runtime.start("coping", length=LARGE + 1)) == "TooLarge"


@pytest.mark.parametrize("lane", [*LANES, ""])
async def test_the_edge_of_an_emitted_value(runtime, lane):
    handle = await runtime.start("saying", lane=lane, length=EMITTED_BYTES_MAX - 2)
    (delta,) = of(await log_of(handle), "step.delta")
    assert len(delta.data["delta"]) == EMITTED_BYTES_MAX - 2
    handle = await runtime.start("saying", lane=lane, length=EMITTED_BYTES_MAX - 1)
    error = await failure_of(handle)
    assert isinstance(error, EncodingError)
    assert f"{EMITTED_BYTES_MAX + 1} bytes as JSON, at most {EMITTED_BYTES_MAX} (EMITTED_BYTES_MAX)" in str(error)
    assert of(await log_of(handle), "step.delta") == []
    assert (await handle.document())["error"]["code"] == "too-large"


async def test_outside_a_run_nothing_is_emitted_and_nothing_is_measured():
    assert emit("x" * (EMITTED_BYTES_MAX + 1)) is None
