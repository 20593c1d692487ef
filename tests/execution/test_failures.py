from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

import offramp
from offramp import App, Retry, testing
from tests.support import GUARD_S, Signal, failure_of, log_of, of, reach, result_of, types

OWN = str(Path(offramp.__file__).parent)


class Odd(Exception):
    pass


@dataclass(frozen=True)
class Frozen(Exception):
    reason: str


async def test_the_caller_gets_the_steps_own_exception_with_a_note_of_where():
    app, raised = App("fails"), Odd("no", 3)

    @app.step
    def failing() -> None:
        raise raised

    @app.pipeline
    async def pipe() -> None:
        await failing()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        error = await failure_of(handle)
        document = await handle.document()
    assert error is raised
    assert error.__notes__ == [f"in step 'failing' (attempt 1) of pipeline 'pipe', run {handle.id}"]
    shown = {"code": "step-failed", "message": "Odd: ('no', 3)", "step": "failing", "attempt": 1}
    assert {name: document["error"][name] for name in shown} == shown
    assert document["status"] == "failed"


async def test_a_failure_of_the_body_names_no_step():
    app = App("fails")

    @app.pipeline
    async def pipe() -> None:
        raise Odd("body")

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        error = await failure_of(handle)
        document = await handle.document()
    assert error.__notes__ == [f"in pipeline 'pipe', run {handle.id}"]
    shown = {"code": "pipeline-failed", "message": "Odd: body", "step": None, "attempt": None}
    assert {name: document["error"][name] for name in shown} == shown


def frames(error):
    return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]


async def test_the_traceback_shows_user_code_and_not_the_runtime():
    app = App("fails")

    @app.step
    async def failing() -> None:
        raise Odd("deep")

    @app.pipeline
    async def pipe() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())

    async with testing.runtime(app) as runtime:
        group = await failure_of(await runtime.start("pipe"))
    [error] = group.exceptions
    assert [name for name in frames(error) if name.startswith(OWN)] == []
    assert [name for name in frames(error) if name == __file__]
    # The frame that raises it to the caller cannot be taken away.
    assert [name for name in frames(group) if name.startswith(OWN) and not name.endswith("paths/local.py")] == []


class Answered(Exception):
    def __init__(self, text, response):
        super().__init__(text)
        self.response = response


async def test_the_caller_gets_what_the_body_was_not_given():
    app, seen, response = App("fails"), [], object()

    @app.step
    def failing() -> None:
        try:
            {}["k"]
        except KeyError:
            raise Answered("no", response) from None

    @app.pipeline
    async def pipe() -> None:
        try:
            await failing()
        except Answered as error:
            seen.append((hasattr(error, "response"), str(error), frames(error)))
            error.add_note("of the body")
            raise

    async with testing.runtime(app) as runtime:
        error = await failure_of(await runtime.start("pipe"))
    [(has_response, text, shown)] = seen
    assert (has_response, text) == (False, "no")
    assert shown.count(__file__) > 1  # for a log: the body's line and the step's
    assert error.response is response
    assert isinstance(error.__context__, KeyError)
    assert error.__notes__[0] == "of the body"
    assert error.__notes__[1].startswith("in step 'failing' (attempt 1)")
    assert [name for name in frames(error) if name.startswith(OWN) and not name.endswith("paths/local.py")] == []
    assert frames(error).count(__file__) > 1


async def test_a_body_that_asks_for_what_is_not_journaled_is_told_so():
    app = App("fails")

    @app.step
    def failing() -> None:
        raise Answered("no", object())

    @app.pipeline
    async def pipe() -> None:
        try:
            await failing()
        except Answered as error:
            error.response.close()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        error = await failure_of(handle)
        shown = (await handle.document())["error"]["message"]
    assert isinstance(error, AttributeError)
    for told in (shown, "\n".join(error.__notes__)):
        assert "step 'failing'" in told
        assert "'response' cannot be journaled" in told
        assert "into an exception of its own" in told


async def test_members_and_causes_that_stand_for_others_show_those():
    app, response = App("fails"), object()

    class Local(Odd):
        pass

    @app.step
    async def failing(n: int) -> None:
        raise Local(n) if n else Answered("no", response)

    @app.pipeline
    async def pipe(number: int) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(failing(number))
        except* Odd as errors:
            raise Odd("of the body") from errors.exceptions[0]

    async with testing.runtime(app) as runtime:
        group = await failure_of(await runtime.start("pipe", number=0))
        chained = await failure_of(await runtime.start("pipe", number=1))
    [member] = group.exceptions
    assert (type(member), hasattr(member, "response")) == (Answered, False)
    assert __file__ in frames(member)
    cause = chained.exceptions[0].__cause__ if isinstance(chained, ExceptionGroup) else chained.__cause__
    assert type(cause) is Local


async def test_every_failure_of_a_task_group_is_reported():
    app, both = App("fails"), Signal()

    @app.step
    async def first() -> None:
        await both.wait()
        raise Odd("first")

    @app.step
    async def second() -> None:
        both.set()
        raise KeyError("second")

    @app.pipeline
    async def pipe() -> None:
        results = await asyncio.gather(first(), second(), return_exceptions=True)
        raise ExceptionGroup("both", results)

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        error = await failure_of(handle)
        shown = (await handle.document())["error"]
    assert sorted(type(cause).__name__ for cause in error.exceptions) == ["KeyError", "Odd"]
    assert [(cause["step"], cause["message"]) for cause in shown["causes"]] == [
        ("first", "Odd: first"),
        ("second", "KeyError: 'second'"),
    ]
    assert "Odd: first" in shown["message"]
    assert "KeyError: 'second'" in shown["message"]


@pytest.mark.parametrize("plain", [True, False])
async def test_siblings_of_a_failure_are_cancelled_and_neither_failed_nor_recorded(plain):
    app, begun, end = App("fails"), Signal(), Signal()

    def in_thread() -> None:
        begun.set()
        end.block()

    async def in_loop() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    sibling = app.step(name="sibling", retry=Retry(attempts=5, base=0))(in_thread if plain else in_loop)

    @app.step
    async def failing() -> None:
        await begun.wait()
        raise Odd("one")

    @app.pipeline
    async def pipe() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            group.create_task(failing())

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        seen = await log_of(handle)
        steps = (await handle.document())["steps"]
        journal = await runtime.service.process.store.journal(handle.id)
        end.set()
    assert [event.data["step"] for event in of(seen, "step.failed")] == ["failing"]
    assert "step.retrying" not in types(seen)
    assert {step["name"]: step["status"] for step in steps} == {"sibling": "cancelled", "failing": "failed"}
    assert [entry.name for entry in journal] == ["failing"]


async def test_a_pipeline_may_catch_a_step_failure_and_go_on():
    app = App("fails")

    @app.step
    def failing() -> str:
        raise Odd("caught")

    @app.step
    def fallback() -> str:
        return "fallback"

    @app.pipeline
    async def pipe() -> str:
        try:
            return await failing()
        except Odd:
            return await fallback()

    assert await asyncio.wait_for(testing.replays(app, "pipe"), GUARD_S) == "fallback"


@pytest.mark.parametrize(
    "error",
    [
        Frozen("late"),
        ValueError("half a pair: \udc80"),
        ValueError("x" * 100_000),
        ValueError(object()),
        ExceptionGroup("g", [ExceptionGroup("h", [Frozen("x")])]),
        KeyboardInterrupt("now"),
        GeneratorExit(),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["body", "thread", "loop"])
async def test_whatever_is_raised_the_run_ends_failed(error, where):
    app = App("fails")

    async def in_loop() -> None:
        raise error

    def in_thread() -> None:
        raise error

    failing = app.step(name="failing")(in_thread if where == "thread" else in_loop)

    @app.pipeline
    async def pipe() -> None:
        if where == "body":
            raise error
        await failing()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert types(await log_of(handle))[-1] == "run.failed"
        assert (await handle.document())["status"] == "failed"


async def test_a_result_of_the_pipeline_that_is_no_json_fails_the_run():
    app = App("fails")

    @app.pipeline
    async def pipe():
        return object()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await failure_of(handle)
        assert (await handle.document())["error"]["code"] == "encoding"


async def test_an_argument_that_is_no_json_fails_where_the_step_is_called():
    app = App("fails")

    @app.step
    def take(value: dict) -> None: ...

    @app.pipeline
    async def pipe() -> str:
        with pytest.raises(Exception, match="an argument of step 'take' is not JSON-encodable"):
            await take({"client": object()})
        return "told"

    async with testing.runtime(app) as runtime:
        assert await result_of(await runtime.start("pipe")) == "told"


async def test_tasks_that_a_pipeline_leaves_behind_start_no_step_after_its_end():
    app, go, tried, calls = App("fails"), Signal(), Signal(), []

    @app.step
    async def late() -> None:
        calls.append(1)

    async def behind() -> None:
        await go.wait()
        try:
            await late()
        finally:
            tried.set()

    tasks = []

    @app.pipeline
    async def pipe() -> str:
        tasks.append(asyncio.create_task(behind()))
        return "done"

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "done"
        go.set()
        await tried.wait()
        assert types(await log_of(handle)) == ["run.accepted", "run.completed"]
    assert calls == []


async def test_reading_a_failed_run_twice_gives_the_same_exception():
    app = App("fails")

    @app.step
    def failing() -> None:
        raise Odd("twice")

    @app.pipeline
    async def pipe() -> None:
        await failing()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "run.failed")
        assert await failure_of(handle) is await failure_of(handle)
