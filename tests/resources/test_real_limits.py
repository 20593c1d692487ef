"""Clients of resources with the limits of a process: permits that wait for each other, parallel requests, windows."""

from __future__ import annotations

import asyncio
import contextlib

import openai as sdk
import pytest

from offramp import Breaker, Retry
from offramp.errors import CircuitOpen, ExceedsLimit, WaitsForItself
from offramp.execution.clock import SystemClock
from offramp.limits.local import LocalLimits
from offramp.paths.local import LocalRuntime
from tests.resources.provider import completion, failing, streamed
from tests.support import GUARD_S, Signal, eventually, failure_of, member, result_of


@contextlib.asynccontextmanager
async def running(app, folder):
    clock = SystemClock()
    limits = LocalLimits([each.spec for each in app.resources.values()], app.classes, clock)
    try:
        async with member(app, folder, "local", limits=limits) as service, asyncio.timeout(GUARD_S):
            yield LocalRuntime(service), limits
    finally:
        limits.close()


async def levels(limits):
    return {level.name: level for level in await limits.levels()}


async def test_parallel_requests_of_a_step_are_never_more_than_allowed(app, provider, tmp_path):
    model = app.resource("model", concurrency=2)

    @app.step(uses=model)
    async def ask() -> int:
        async with model.async_http_client() as client:
            answers = await asyncio.gather(*(client.get(provider.url) for _ in range(8)))
        return len(answers)

    @app.pipeline
    async def line() -> int:
        return sum(await asyncio.gather(ask(), ask(), ask()))

    async with running(app, tmp_path) as (runtime, limits):
        assert await result_of(await runtime.start("line")) == 24
        assert (await levels(limits))["model"].in_use == 0
        assert (await levels(limits))["model"].calls == {"ok": 24}
    assert provider.peak <= 2


async def test_a_request_within_the_only_stream_says_that_it_waits_for_itself(app, provider, tmp_path):
    model = app.resource("model", concurrency=1)
    provider.replies.append(streamed("a", goes_on=Signal()))

    @app.step(uses=model)
    async def ask() -> str:
        client = sdk.AsyncOpenAI(api_key="k", base_url=f"{provider.url}/v1", http_client=model.async_http_client())
        async with client:
            given = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
            async with await client.chat.completions.create(**given, stream=True) as stream:
                async for _ in stream:
                    await client.chat.completions.create(**given)
        return ""

    @app.pipeline
    async def line() -> str:
        return await ask()

    async with running(app, tmp_path) as (runtime, limits):
        assert isinstance(await failure_of(await runtime.start("line")), WaitsForItself)
        await eventually(lambda: provider.left == 1)
        assert (await levels(limits))["model"].in_use == 0


async def test_steps_that_use_two_resources_in_either_order_all_end(app, provider, tmp_path):
    a, b = app.resource("a", concurrency=1), app.resource("b", concurrency=1)

    async def both(first, second):
        async with first.async_http_client() as one, second.async_http_client() as other:
            await one.get(provider.url)
            await other.get(provider.url)

    @app.step(uses=[a, b])
    async def forth() -> None:
        await both(a, b)

    @app.step(uses=[b, a])
    async def back() -> None:
        await both(b, a)

    @app.pipeline
    async def line() -> None:
        await asyncio.gather(*(step() for _ in range(5) for step in (forth, back)))

    async with running(app, tmp_path) as (runtime, limits):
        await result_of(await runtime.start("line"))
        assert {level.in_use for level in (await levels(limits)).values()} == {0}
    assert len(provider.seen) == 20


@pytest.mark.parametrize(("attempts", "ends"), [(1, ["WaitsForItself", "both"]), (3, ["both", "both"])])
async def test_steps_that_hold_what_the_other_asks_for_do_not_wait_for_ever(app, tmp_path, attempts, ends):
    a, b = app.resource("a", concurrency=1), app.resource("b", concurrency=1)
    holds = {"a": Signal(), "b": Signal()}

    async def one(mine, others):
        async with mine.permit():
            holds[mine.name].set()
            await holds[others.name].wait()
            async with others.permit():
                return "both"

    retry = Retry(attempts=attempts, base=0.0)

    @app.step(uses=a, retry=retry)
    async def forth() -> str:
        return await one(a, b)

    @app.step(uses=b, retry=retry)
    async def back() -> str:
        return await one(b, a)

    @app.pipeline
    async def line() -> list[str]:
        ends = await asyncio.gather(forth(), back(), return_exceptions=True)
        return sorted(end if isinstance(end, str) else type(end).__name__ for end in ends)

    async with running(app, tmp_path) as (runtime, _):
        assert await result_of(await runtime.start("line")) == ends


async def test_a_breaker_opens_for_requests(app, provider, tmp_path):
    model = app.resource("model", breaker=Breaker(min_calls=3, error_rate=1))
    provider.replies.extend([failing(503)] * 3)

    @app.step
    async def ask() -> str:
        async with model.async_http_client() as client:
            for _ in range(3):
                assert (await client.get(provider.url)).status_code == 503
            with pytest.raises(CircuitOpen, match="3 of the last 3 calls failed") as caught:
                await client.get(provider.url)
            return str(caught.value)

    @app.pipeline
    async def line() -> str:
        return await ask()

    async with running(app, tmp_path) as (runtime, limits):
        assert await result_of(await runtime.start("line"))
        assert (await levels(limits))["model"].breaker.state == "open"
    assert len(provider.seen) == 3


async def test_a_call_that_needs_more_than_there_is_says_both(app, tmp_path):
    model = app.resource("model", tokens="1k/min")

    @app.step
    async def ask() -> None:
        async with model.permit(tokens=5_000):
            pass

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path) as (runtime, _):
        error = await failure_of(await runtime.start("line"))
    assert isinstance(error, ExceedsLimit)
    assert str(error) == "model: the call needs 5,000 tokens, the limit is 1k/min"


async def test_the_first_request_of_a_step_reserves_what_it_may_use(app, provider, tmp_path):
    model = app.resource("model", tokens="100k/min")
    answers = Signal()
    provider.replies.append(completion(answers=answers))

    @app.step(uses=model)
    async def ask() -> None:
        async with model.async_http_client() as client:
            await client.post(provider.url, json={"max_tokens": 50_000})

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path) as (runtime, limits):
        handle = await runtime.start("line")
        await eventually(lambda: provider.seen)
        (window,) = (await levels(limits))["model"].windows
        assert 50_000 < window.used < 50_010
        answers.set()
        await result_of(handle)


async def test_what_calls_used_is_counted_whatever_they_reserved(app, provider, tmp_path):
    model = app.resource("model", tokens="100k/min")

    @app.step(uses=model)
    async def ask() -> None:
        async with model.async_http_client() as client:
            for _ in range(3):
                await client.post(provider.url, json={"max_tokens": 5_000})

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path) as (runtime, limits):
        await result_of(await runtime.start("line"))
        level = (await levels(limits))["model"]
    assert (level.tokens, [window.used for window in level.windows]) == (36, [36])
