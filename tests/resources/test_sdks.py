"""The SDKs of OpenAI and Anthropic over a resource's clients: their retries take permits, our errors pass through."""

from __future__ import annotations

import asyncio

import anthropic
import openai as sdk
import pytest

from offramp.errors import BlocksLoop, CircuitOpen, ResourceBusy, WaitsForItself
from offramp.execution.clock import SystemClock
from offramp.execution.context import current
from offramp.ports.limits import Refused
from offramp.resources.service import Outside
from tests.resources.provider import failing, message, streamed
from tests.support import Signal, eventually

SOON = {"retry-after-ms": "1"}
MESSAGES = [{"role": "user", "content": "?"}]


class Desk:
    """Asks a model, by one SDK, plain (in a thread) or async."""

    def __init__(self, resource, provider, name, library, **options):
        is_async = name.startswith("Async")
        make = resource.async_http_client if is_async else resource.http_client
        self.module = sdk if "OpenAI" in name else anthropic
        base = f"{provider.url}/v1" if self.module is sdk else provider.url
        self.client = getattr(self.module, name)(api_key="secret", base_url=base, http_client=make(library), **options)
        self.is_async = is_async

    async def ask(self, **options):
        if self.module is sdk:
            method, given = self.client.chat.completions.create, {"model": "m", "messages": MESSAGES, **options}
        else:
            method = self.client.messages.create
            given = {"model": "m", "max_tokens": 5, "messages": MESSAGES, **options}
        return await (method(**given) if self.is_async else asyncio.to_thread(method, **given))

    def good(self):
        return () if self.module is sdk else (message(),)

    async def close(self):
        await (self.client.close() if self.is_async else asyncio.to_thread(self.client.close))


@pytest.fixture(
    params=[
        ("OpenAI", "httpx"),
        ("OpenAI", "httpx2"),
        ("AsyncOpenAI", "httpx"),
        ("AsyncOpenAI", "httpx2"),
        ("Anthropic", "httpx2"),
        ("AsyncAnthropic", "httpx2"),
    ],
    ids="-".join,
)
async def desk(request, openai, provider):
    made = Desk(openai, provider, *request.param)
    yield made
    await made.close()


async def test_what_an_sdk_repeats_takes_a_permit_each(desk, provider, limits):
    provider.replies.extend([failing(503, headers=SOON), failing(503, headers=SOON), *desk.good()])
    await desk.ask()
    assert len(provider.seen) == 3
    assert len(limits.asks) == len({ask.id for ask in limits.asks}) == 3
    assert limits.what() == ["written", "done"] * 3
    assert [done.how for done in limits.dones] == ["failed", "failed", "ok"]
    assert limits.dones[2].tokens == 12


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (Refused("busy", "openai: 140 calls wait, about 12 s", 12.0), ResourceBusy),
        (Refused("open", "openai: 9 of the last 12 calls failed", 8.0), CircuitOpen),
        (Refused("deadlock", "openai: would wait for itself"), WaitsForItself),
    ],
)
async def test_our_errors_pass_through_and_are_not_repeated(desk, provider, limits, refused, kind):
    limits.refuses = [refused]
    with pytest.raises(kind) as caught:
        await desk.ask()
    assert str(caught.value) == refused.says
    assert len(limits.asks) == 1
    assert provider.seen == []


async def test_our_errors_pass_through_a_stream_and_a_raw_answer(desk, provider, limits):
    limits.refuses = [Refused("busy", "full", None)] * 2
    with pytest.raises(ResourceBusy, match="full"):
        await desk.ask(stream=True)
    raw = desk.client.chat.completions if desk.module is sdk else desk.client.messages
    create = raw.with_raw_response.create
    given = {"model": "m", "messages": MESSAGES, "max_tokens": 5}
    with pytest.raises(ResourceBusy, match="full"):
        await (create(**given) if desk.is_async else asyncio.to_thread(create, **given))
    assert provider.seen == []


async def test_the_sdk_raises_what_the_provider_says(desk, provider, limits):
    provider.replies.append(failing(400, "invalid_request_error"))
    with pytest.raises(desk.module.BadRequestError, match="no: invalid_request_error"):
        await desk.ask()
    assert [done.how for done in limits.dones] == ["ok"]


async def test_an_unpaid_bill_is_not_repeated(desk, provider, limits):
    provider.replies.append(failing(429, "insufficient_quota", SOON))
    with pytest.raises(desk.module.RateLimitError, match="insufficient_quota"):
        await desk.ask()
    assert len(provider.seen) == 1
    assert [done.how for done in limits.dones] == ["exhausted"]


async def test_an_sdk_repeats_nothing_where_the_step_does(desk, provider, limits):
    class Repeating(Outside):
        retries = True

    class Ambient:
        holder = Repeating(limits, SystemClock(), 0)

    provider.replies.extend([failing(503, headers=SOON), failing(429, "rate_limit", SOON)])
    token = current.set(Ambient())
    try:
        with pytest.raises(desk.module.InternalServerError):
            await desk.ask()
        with pytest.raises(desk.module.RateLimitError):
            await desk.ask()
    finally:
        current.reset(token)
    assert len(provider.seen) == 2


async def test_a_stream_of_openai_holds_its_permit_until_the_last_word(openai, provider, limits):
    desk = Desk(openai, provider, "AsyncOpenAI", None)
    goes_on = Signal()
    provider.replies.append(streamed("a", "b", goes_on=goes_on))
    words = []
    async with await desk.ask(stream=True) as stream:
        async for chunk in stream:
            words.append(chunk.choices[0].delta.content)
            if words == ["a"]:
                assert limits.in_use == 1
                goes_on.set()
    assert words[:2] == ["a", "b"]
    (done,) = limits.dones
    assert (done.how, done.tokens) == ("ok", 12)
    await desk.close()


async def test_parallel_streams_have_no_more_permits_than_there_are(openai, provider, limits):
    limits.give(2)
    desk = Desk(openai, provider, "AsyncOpenAI", None)

    async def one():
        provider.replies.append(streamed("a"))
        async with await desk.ask(stream=True) as stream:
            assert limits.in_use <= 2
            return [chunk async for chunk in stream]

    answers = await asyncio.gather(*(one() for _ in range(8)))
    assert len(answers) == 8
    assert limits.in_use == 0
    await desk.close()


async def test_an_error_within_a_good_answer_has_failed(openai, provider, limits):
    desk = Desk(openai, provider, "AsyncAnthropic", None, max_retries=0)
    reply = streamed()
    reply.parts = [b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}\n\n']
    provider.replies.append(reply)
    with pytest.raises(anthropic.APIStatusError, match="overloaded"):
        async for _ in await desk.ask(stream=True):
            pass
    (done,) = limits.dones
    assert (done.how, done.says) == ("failed", "overloaded_error")
    await desk.close()


async def test_a_plain_client_on_a_loop_says_so_through_the_sdk(openai, provider):
    client = sdk.OpenAI(api_key="k", base_url=f"{provider.url}/v1", http_client=openai.http_client())
    with client, pytest.raises(BlocksLoop, match="async_http_client"):
        client.chat.completions.create(model="m", messages=MESSAGES)


async def test_a_timeout_of_the_caller_gives_the_place_in_the_queue_back(openai, provider, limits):
    limits.give(0)
    desk = Desk(openai, provider, "AsyncOpenAI", None)
    waits = asyncio.create_task(desk.ask())
    await eventually(lambda: limits.waiting == 1)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert limits.waiting == 0
    await desk.close()
