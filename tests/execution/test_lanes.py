from __future__ import annotations

import asyncio
import threading

import pytest

from offramp import App, Retry, current_run, emit, testing
from offramp.errors import EncodingError, StepTimeout
from tests.support import GUARD_S, Signal, failure_of, log_of, of, reach, result_of, types


async def test_plain_steps_run_in_threads_and_async_ones_on_the_run_loop():
    app = App("lanes")

    @app.step
    def plain() -> str:
        return threading.current_thread().name

    @app.step
    async def on_loop() -> str:
        return threading.current_thread().name

    @app.step(lane="loop")
    def quick() -> str:
        return threading.current_thread().name

    @app.pipeline
    async def pipe() -> list[str]:
        return [await plain(), await on_loop(), await quick(), threading.current_thread().name]

    async with testing.runtime(app) as runtime:
        plain_on, loop_on, quick_on, body_on = await result_of(await runtime.start("pipe"))
    assert plain_on.startswith("offramp-step")
    assert loop_on == quick_on == body_on
    assert body_on.startswith("offramp-run")


async def test_twenty_plain_steps_overlap():
    app, barrier = App("overlap"), threading.Barrier(20)

    @app.step
    def meet(n: int) -> int:
        barrier.wait(GUARD_S)
        return n

    @app.pipeline
    async def pipe() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(meet(n)) for n in range(20)]
        return [task.result() for task in tasks]

    async with testing.runtime(app) as runtime:
        assert await result_of(await runtime.start("pipe")) == list(range(20))


async def test_twenty_async_steps_overlap():
    app, all_here, here = App("overlap"), Signal(), []

    @app.step
    async def meet(n: int) -> int:
        here.append(n)
        if len(here) == 20:
            all_here.set()
        await all_here.wait()
        return n

    @app.pipeline
    async def pipe() -> list[int]:
        return await asyncio.gather(*(meet(n) for n in range(20)))

    async with testing.runtime(app) as runtime:
        assert await result_of(await runtime.start("pipe")) == list(range(20))


async def test_keyword_only_and_defaulted_arguments_reach_the_step():
    app = App("arguments")

    @app.step
    def plain(a: int, b: int = 2, *, c: int, d: int = 4) -> list[int]:
        return [a, b, c, d]

    @app.step(timeout=10)
    async def timed(a: int, /, *, c: int) -> list[int]:
        return [a, c]

    @app.pipeline
    async def pipe(start: int, /, *, end: int = 9) -> list[list[int]]:
        return [await plain(start, c=3), await plain(1, 5, c=end), await timed(1, c=2)]

    async with testing.runtime(app) as runtime:
        assert await result_of(await runtime.start("pipe", start=1)) == [[1, 2, 3, 4], [1, 5, 9, 4], [1, 2]]


@pytest.mark.parametrize("kind", ["thread", "loop"])
async def test_a_step_over_its_timeout_fails_and_what_it_emits_later_is_dropped(kind):
    app, hold, over = App("late"), Signal(), Signal()

    def in_thread() -> None:
        emit("in time")
        hold.block()
        emit("too late")
        over.set()

    async def in_loop() -> None:
        emit("in time")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            emit("too late")
            over.set()

    slow = app.step(name="slow", timeout=0.3)(in_thread if kind == "thread" else in_loop)

    @app.step
    async def afterwards() -> str:
        hold.set()
        await over.wait()
        return "after"

    @app.pipeline
    async def pipe() -> str:
        with pytest.raises(StepTimeout, match=r"step 'slow' took longer than its timeout of 0.3 s"):
            await slow()
        return await afterwards()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "after"
        seen = await log_of(handle)
    assert "in time" in [event.data["delta"] for event in of(seen, "step.delta")]
    assert "step.delta" not in types(seen)[types(seen).index("step.failed") :]


async def test_a_timeout_of_the_steps_own_is_not_taken_for_the_steps_timeout():
    app = App("own")

    @app.step(timeout=GUARD_S)
    async def slow() -> None:
        raise TimeoutError("the provider's")

    @app.pipeline
    async def pipe() -> None:
        await slow()

    async with testing.runtime(app) as runtime:
        error = await failure_of(await runtime.start("pipe"))
    assert type(error) is TimeoutError
    assert error.args == ("the provider's",)


async def test_a_result_that_is_no_json_fails_the_step_once():
    app, calls = App("odd"), []

    def unannotated():
        calls.append(1)
        return object()

    step = app.step(name="odd", retry=Retry(attempts=3, base=0))(unannotated)

    @app.pipeline
    async def pipe() -> None:
        await step()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        error = await failure_of(handle)
        seen = await log_of(handle)
    assert isinstance(error, EncodingError)
    assert "the result of step 'odd'" in str(error)
    assert calls == [1]
    assert of(seen, "step.failed")[0].data["error"]["code"] == "encoding"


@pytest.mark.parametrize("plain", [True, False])
async def test_a_step_that_exits_fails_and_the_loop_lives_on(plain):
    app = App("exits")

    def body() -> None:
        raise SystemExit("bye")

    async def async_body() -> None:
        raise SystemExit("bye")

    leave = app.step(name="leave")(body if plain else async_body)

    @app.step
    async def fine() -> str:
        return "fine"

    @app.pipeline
    async def exits() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())

    @app.pipeline
    async def works() -> str:
        return await fine()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("exits")
        seen = await log_of(handle)
        assert types(seen)[-1] == "run.failed"
        assert "SystemExit: bye" in seen[-1].data["error"]["message"]
        assert await result_of(await runtime.start("works")) == "fine"


async def test_a_step_knows_its_run():
    app, seen = App("views"), {}

    @app.step
    async def look(n: int) -> str:
        seen["step"] = current_run()
        return current_run().idempotency_key

    @app.pipeline
    async def pipe() -> str:
        seen["body"] = current_run()
        return await look(1)

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        key = await result_of(handle)
        events = await log_of(handle)
    assert key == f"{handle.id}:{of(events, 'step.started')[0].data['key']}"
    body, step = seen["body"], seen["step"]
    assert (body.id, body.pipeline, body.step, body.attempt, body.idempotency_key) == (handle.id, "pipe", None, 1, None)
    assert (step.id, step.pipeline, step.step, step.attempt, step.path) == (handle.id, "pipe", "look", 1, "fast")
    assert 0 < step.remaining() <= 6.0
    assert not step.cancelled


async def test_a_task_of_a_pipeline_that_exits_fails_its_run_and_no_other():
    app, hold = App("exits"), Signal()

    async def leave() -> None:
        raise SystemExit("bye")

    @app.step
    async def wait() -> str:
        await hold.wait()
        return "fine"

    @app.pipeline
    async def exits() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())

    @app.pipeline
    async def works() -> str:
        return await wait()

    async with testing.runtime(app) as runtime:
        other = await runtime.start("works")
        await reach(other, "step.started")
        seen = await log_of(await runtime.start("exits"))
        assert "SystemExit" in seen[-1].data["error"]["message"]
        hold.set()
        assert await result_of(other) == "fine"
