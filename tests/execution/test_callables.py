"""What may be declared besides plain functions: decorated ones and partials."""

from __future__ import annotations

import functools

import pytest

from offramp import App, Retry, testing
from offramp.errors import EncodingError
from tests.support import failure_of, result_of


def plain(function):
    """A decorator of a user's, as they are usually written: a plain function around any other."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def bare(function):
    """One that does not say what it wraps."""

    def wrapper(q: str):
        return function(q)

    return wrapper


def awaiting(function):
    """One that gives back a value though what it wraps is async."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with pytest.raises(StopIteration) as stopped:
            function(*args, **kwargs).send(None)
        return stopped.value.value

    return wrapper


async def shout(q: str, *, mark: str = "!") -> str:
    return q.upper() + mark


def whisper(q: str, mark: str = ".") -> str:
    return q.lower() + mark


@pytest.mark.parametrize(
    "decorate", [plain, awaiting, lambda f: plain(plain(f)), lambda f: functools.partial(plain(f))]
)
@pytest.mark.parametrize("timeout", [None, 5.0])
async def test_an_async_function_behind_a_plain_decorator_is_awaited(decorate, timeout):
    app = App("decorated")
    step = app.step(name="shout", timeout=timeout)(decorate(shout))

    @app.pipeline
    @plain
    async def pipe(q: str) -> str:
        return await step(q)

    assert step.spec.is_async
    assert step.spec.policy.lane == "loop"
    assert await testing.replays(app, "pipe", q="a") == "A!"
    assert await step("b") == "B!"


@pytest.mark.parametrize(("function", "lane"), [(shout, "loop"), (whisper, "thread")])
async def test_a_partial_is_a_step_without_what_it_binds(function, lane):
    app = App("partials")
    step = app.step(name="marked")(functools.partial(functools.partial(function), mark="?"))

    @app.pipeline
    async def pipe(q: str) -> str:
        return await step(q)

    assert (step.spec.name, step.spec.policy.lane, step.spec.signature.names) == ("marked", lane, ["q"])
    assert await testing.replays(app, "pipe", q="a") in {"A?", "a?"}
    with pytest.raises(TypeError, match="mark"):
        step.spec.signature.encode_call(("a",), {"mark": "!"})


async def test_what_a_partial_binds_need_not_be_data():
    app, client = App("partials"), object()

    def search(client: object, q: str, *, other: object) -> bool:
        return client is other

    step = app.step(name="search")(functools.partial(search, client, other=client))

    @app.pipeline
    async def pipe(q: str) -> bool:
        return await step(q)

    assert await testing.replays(app, "pipe", q="a") is True


async def test_a_plain_function_that_gives_a_coroutine_says_so():
    app = App("forgets")
    step = app.step(name="shout")(bare(shout))

    @app.pipeline
    async def pipe() -> str:
        return await step("a")

    async with testing.runtime(app) as runtime:
        error = await failure_of(await runtime.start("pipe"))
    assert type(error) is EncodingError
    assert "a coroutine of 'shout': did you forget await?" in str(error)


async def test_a_pipeline_that_returns_a_coroutine_says_so():
    app = App("forgets")

    @app.step
    async def one() -> int:
        return 1

    @app.pipeline
    async def pipe() -> int:
        return one()

    async with testing.runtime(app) as runtime:
        assert "did you forget await?" in str(await failure_of(await runtime.start("pipe")))


async def test_a_default_of_a_pipeline_is_fresh_for_each_run():
    app = App("fresh")

    @app.pipeline
    async def pipe(seen: list[str] = []) -> list[str]:  # noqa: B006 - what users write
        seen.append("me")
        return seen

    async with testing.runtime(app) as runtime:
        assert [await result_of(await runtime.start("pipe")) for _ in range(2)] == [["me"], ["me"]]


async def test_a_default_is_fresh_for_each_call_of_an_inner_pipeline_and_outside_a_run():
    app, executions = App("fresh"), []

    @app.step
    async def note(seen: list[str] = []) -> list[str]:  # noqa: B006 - what users write
        seen.append("step")
        return seen

    @app.pipeline
    async def inner(name: str, seen: list[str] = [], *, more: set[str] = set()) -> list[str]:  # noqa: B006 - the same
        seen.append(name)
        more.add(name)
        return await note([*seen, *more])

    @app.pipeline
    async def outer() -> list[list[str]]:
        executions.append([await inner("a"), await inner("b", ["given"])])
        return executions[-1]

    await testing.replays(app, "outer")
    assert executions == [[["a", "a", "step"], ["given", "b", "b", "step"]]] * 2
    assert [await note(), await note()] == [["step"]] * 2
    with pytest.warns(RuntimeWarning, match="outside a run"):
        assert await inner("c") == ["c", "c", "step"]


async def test_a_retry_has_a_copy_of_the_arguments_as_they_were_given():
    app, seen = App("retries"), []

    @app.step(retry=Retry(attempts=3, base=0.001))
    async def shaky(items: list[int]) -> list[int]:
        items.append(1)
        seen.append(list(items))
        if len(seen) < 3:
            raise ValueError("once more")
        return items

    @app.pipeline
    async def pipe() -> list[int]:
        return await shaky([])

    assert await testing.replays(app, "pipe") == [1]
    assert seen == [[1]] * 3
