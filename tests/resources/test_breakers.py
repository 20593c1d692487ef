"""A breaker opens and closes by what real SDKs and a real provider do: all that libraries of breakers get wrong."""

from __future__ import annotations

import asyncio
import json

import anthropic
import openai as sdk
import pytest

from offramp import Breaker
from offramp.errors import CircuitOpen
from offramp.limits.local import LocalLimits
from offramp.testing import FakeClock
from tests.resources.conftest import serving
from tests.resources.provider import Reply, completion, failing, message, streamed
from tests.support import GUARD_S, Signal, eventually

ASKED = [{"role": "user", "content": "hello"}]
RULES = Breaker(min_calls=4, error_rate=0.5, open_for=10)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def resource(app, clock):
    made = app.resource("openai", concurrency=100, breaker=RULES)
    limits = LocalLimits([made.spec], {}, clock)
    with serving(app, limits, clock):
        made.limits = limits
        yield made
    limits.close()


@pytest.fixture
async def call(resource, provider):
    """One streamed call by the SDK; its words."""
    async with resource.async_http_client() as http_client:
        client = sdk.AsyncOpenAI(base_url=provider.url, api_key="k", max_retries=0, http_client=http_client)

        async def called() -> str:
            stream = await client.chat.completions.create(model="m", messages=ASKED, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        yield called


async def state(resource) -> tuple[str, dict[str, int]]:
    [level] = await resource.limits.levels()
    return level.breaker.state, level.breaker.counts


def broken(kind="server_error") -> Reply:
    """An error event in a stream of status 200."""
    reply = streamed("hello")
    reply.parts[1:] = [b"data: " + json.dumps({"error": {"type": kind, "message": "no"}}).encode() + b"\n\n"]
    return reply


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (failing, "4 x 503"),
        (broken, "4 x server_error"),
        (lambda: streamed("hello", cuts=True), "4 broken connections"),
    ],
)
async def test_failures_open_it_in_mid_stream_too(call, resource, provider, clock, reply, says):
    for _ in range(RULES.min_calls):
        made = reply()
        if made.cuts:
            made.parts = made.parts[:1]
        provider.replies.append(made)
        with pytest.raises(Exception):  # noqa: B017, PT011 - each has its own
            await call()
    with pytest.raises(CircuitOpen, match=rf"openai: 4 of the last 4 calls failed \({says}\); next try in 10 s"):
        await call()
    assert len(provider.seen) == RULES.min_calls, "the last one was not made"

    clock.advance(10)
    for _ in range(2):
        provider.replies.append(streamed("well"))
        assert await call() == "well"
    assert await state(resource) == ("closed", {})


@pytest.mark.parametrize("kind", [400, 401, 404])
async def test_errors_of_the_caller_and_refusals_do_not(call, resource, provider, kind):
    for _ in range(2 * RULES.min_calls):
        provider.replies.append(failing(kind, "invalid_request_error"))
        with pytest.raises(sdk.APIStatusError):
            await call()
    assert await state(resource) == ("closed", {"ok": 2 * RULES.min_calls})


async def test_cancelled_calls_do_not(call, resource, provider):
    for number in range(1, 2 * RULES.min_calls):
        provider.replies.append(completion(answers=Signal()))
        task = asyncio.create_task(call())
        await eventually(lambda number=number: len(provider.seen) == number)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await state(resource) == ("closed", {})


async def outage(call, provider):
    for _ in range(RULES.min_calls):
        provider.replies.append(failing())
        with pytest.raises(sdk.InternalServerError):
            await call()


async def test_of_ten_calls_at_once_two_find_out_whether_it_may_close(call, resource, provider, clock):
    await outage(call, provider)
    clock.advance(10)
    answers = Signal()
    provider.replies.extend([streamed("well", answers=answers) for _ in range(2)])
    tasks = [asyncio.create_task(call()) for _ in range(10)]
    await eventually(lambda: sum(task.done() for task in tasks) == 8)
    assert (await state(resource))[0] == "half-open"
    answers.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(type(each).__name__ for each in ended) == ["CircuitOpen"] * 8 + ["str"] * 2
    assert (await state(resource))[0] == "closed"


async def test_a_late_success_of_before_the_opening_closes_nothing(call, resource, provider, clock):
    answers = Signal()
    provider.replies.extend([streamed("late", answers=answers) for _ in range(3)])
    tasks = [asyncio.create_task(call()) for _ in range(3)]
    await eventually(lambda: len(provider.seen) == 3)
    await outage(call, provider)
    clock.advance(10)
    answers.set()
    assert await asyncio.gather(*tasks) == ["late"] * 3
    assert (await state(resource))[0] == "half-open"


async def test_a_slow_first_token_counts_when_it_becomes_late(app, provider, clock):
    made = app.resource("slow", breaker=Breaker(min_calls=2, slow_after=5))
    limits = LocalLimits([made.spec], {}, clock)
    with serving(app, limits, clock):
        async with made.async_http_client() as http_client:
            client = anthropic.AsyncAnthropic(
                base_url=provider.url, api_key="k", max_retries=0, http_client=http_client
            )
            answers = Signal()
            provider.replies.extend([message(answers=answers) for _ in range(2)])
            tasks = [
                asyncio.create_task(client.messages.create(model="m", max_tokens=9, messages=ASKED)) for _ in range(2)
            ]
            await eventually(lambda: len(provider.seen) == 2)
            async with asyncio.timeout(GUARD_S):
                while (level := (await limits.levels())[0].breaker).state == "closed":
                    clock.advance(5)  # again, if a request was not yet known to be written
                    await asyncio.sleep(0)
            assert (level.state, level.counts) == ("open", {"slow": 2})
            with pytest.raises(CircuitOpen, match=r"2 of the last 2 calls were slow \(no first token within 5 s\)"):
                await client.messages.create(model="m", max_tokens=9, messages=ASKED)
            answers.set()
            await asyncio.gather(*tasks)
    limits.close()
