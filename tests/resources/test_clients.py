"""Clients of httpx and httpx2, plain and async: one permit for each request, from before it is sent to its end."""

from __future__ import annotations

import asyncio
import copy
import gc
import gzip
import pickle
import ssl
import threading

import httpx
import httpx2
import pytest

import offramp
from offramp.errors import BlocksLoop, BodyNotRepeatable, ResourceBusy
from offramp.ports.limits import Refused
from offramp.testing import FakeClock
from tests.resources.conftest import serving
from tests.resources.provider import Reply, completion, failing, streamed
from tests.support import Signal, eventually

LIBRARIES = {"httpx": httpx, "httpx2": httpx2}
both = pytest.mark.parametrize("library", list(LIBRARIES))


class Shape:
    """A client that is used the same way, plain (in a thread) or async."""

    def __init__(self, resource, library, is_async, **options):
        self.library = LIBRARIES[library]
        make = resource.async_http_client if is_async else resource.http_client
        self.client = make(library, **options)
        self.is_async = is_async

    async def post(self, url, **options):
        if self.is_async:
            return await self.client.post(url, **options)
        return await asyncio.to_thread(self.client.post, url, **options)

    async def open(self, url):
        request = self.client.build_request("POST", url, json={})
        if self.is_async:
            return await self.client.send(request, stream=True)
        return await asyncio.to_thread(self.client.send, request, stream=True)

    async def next(self, parts):
        if self.is_async:
            return await anext(parts, None)
        return await asyncio.to_thread(next, parts, None)

    async def rest(self, parts):
        while await self.next(parts) is not None:
            pass

    def parts(self, response):
        return response.aiter_raw() if self.is_async else response.iter_raw()

    async def close(self, response):
        await (response.aclose() if self.is_async else asyncio.to_thread(response.close))

    async def end(self):
        await (self.client.aclose() if self.is_async else asyncio.to_thread(self.client.close))


@pytest.fixture(params=["plain", "async"])
def is_async(request):
    return request.param == "async"


@pytest.fixture(params=list(LIBRARIES))
def library(request):
    return request.param


@pytest.fixture
async def shape(openai, library, is_async):
    made = Shape(openai, library, is_async)
    yield made
    await made.end()


async def test_each_request_takes_a_permit_which_counts_once_it_is_written(shape, provider, limits):
    answer = await shape.post(provider.url, json={"max_tokens": 5})
    assert answer.json()["usage"]["total_tokens"] == 12
    assert limits.what() == ["written", "done"]
    (done,) = limits.dones
    assert (done.how, done.tokens) == ("ok", 12)
    assert done.first_s > 0
    assert len({permit for _, permit, _ in limits.reported}) == 1
    assert [ask.resource for ask in limits.asks] == ["openai"]


async def test_a_packed_answer_is_read_and_passed_on_as_it_is(shape, provider, limits):
    reply = completion()
    packed = gzip.compress(reply.parts[0])
    reply.parts, reply.headers["content-encoding"] = [packed[:20], packed[20:]], "gzip"
    provider.replies.append(reply)
    assert (await shape.post(provider.url, json={})).json()["usage"]["total_tokens"] == 12
    assert limits.dones[0].tokens == 12


async def test_nothing_is_sent_before_the_permit_is_granted(shape, provider, limits):
    limits.give(0)
    task = asyncio.create_task(shape.post(provider.url, json={}))
    await eventually(lambda: limits.waiting == 1)
    assert provider.seen == []
    limits.give(1)
    assert (await task).status_code == 200


async def test_a_stream_holds_its_permit_until_its_end(shape, provider, limits):
    goes_on = Signal()
    provider.replies.append(streamed("a", "b", goes_on=goes_on))
    response = await shape.open(provider.url)
    parts = shape.parts(response)
    await shape.next(parts)
    assert limits.in_use == 1
    goes_on.set()
    await shape.rest(parts)
    assert limits.in_use == 0
    assert [(done.how, done.tokens) for done in limits.dones] == [("ok", 12)]
    await shape.close(response)
    assert len(limits.dones) == 1


async def test_a_stream_that_is_closed_early_gives_its_permit_back_then(shape, provider, limits):
    provider.replies.append(streamed("a", "b", goes_on=Signal()))
    response = await shape.open(provider.url)
    await shape.next(shape.parts(response))
    await shape.close(response)
    assert limits.in_use == 0
    assert [done.how for done in limits.dones] == ["cancelled"]
    await eventually(lambda: provider.left == 1)


async def test_a_stream_that_nobody_closes_gives_its_permit_back_when_it_is_collected(shape, provider, limits):
    gc.freeze()  # each look at what there was before takes a tenth of a second
    try:
        provider.replies.append(streamed("a", "b", goes_on=Signal()))
        response = await shape.open(provider.url)
        assert limits.in_use == 1
        del response

        def collected():
            gc.collect()
            return limits.in_use == 0

        await eventually(collected)
    finally:
        gc.unfreeze()
    assert [done.how for done in limits.dones] == ["cancelled"]


async def test_a_stream_that_breaks_has_failed(shape, provider, limits):
    provider.replies.append(streamed("a", "b", cuts=True))
    response = await shape.open(provider.url)
    parts = shape.parts(response)
    with pytest.raises(shape.library.RemoteProtocolError):
        await asyncio.create_task(shape.rest(parts))
    assert limits.in_use == 0
    assert [done.how for done in limits.dones] == ["failed"]


async def test_a_connection_that_is_refused_gives_the_permit_back_and_has_used_no_tokens(shape, limits):
    with pytest.raises(shape.library.ConnectError):
        await shape.post("http://127.0.0.1:9", json={})
    (done,) = limits.dones
    assert (done.how, done.tokens) == ("failed", 0)
    assert limits.what() == ["done"]


async def test_an_error_gives_its_permit_back_before_it_is_read(shape, provider, limits):
    provider.replies.append(failing(429, "rate_limit", {"retry-after": "7"}))
    response = await shape.open(provider.url)
    (done,) = limits.dones
    assert (done.how, done.blocked_s) == ("throttled", 7.0)
    text = await response.aread() if shape.is_async else await asyncio.to_thread(response.read)
    assert b"rate_limit" in text
    await shape.close(response)


async def test_a_refusal_is_raised_as_it_is(shape, provider, limits):
    limits.refuses = [Refused("busy", "openai: 140 calls wait", 12.0)]
    with pytest.raises(ResourceBusy, match="140 calls wait") as caught:
        await shape.post(provider.url, json={})
    assert caught.value.retry_after == 12.0
    assert provider.seen == []


async def test_a_redirect_is_a_request_of_its_own(openai, library, is_async, provider, limits):
    shape = Shape(openai, library, is_async, follow_redirects=True)
    provider.replies.append(Reply(307, {"location": "/elsewhere"}))
    assert (await shape.post(provider.url, json={})).status_code == 200
    assert len(limits.asks) == 2
    assert limits.what() == ["written", "done"] * 2
    await shape.end()


async def test_a_trace_of_the_user_is_still_called(shape, provider, limits):
    seen = []

    async def later(event, info):
        seen.append(event)

    await shape.post(
        provider.url, json={}, extensions={"trace": later if shape.is_async else lambda event, info: seen.append(event)}
    )
    assert "http11.send_request_body.complete" in seen
    assert limits.what() == ["written", "done"]


async def test_a_transport_of_the_user_is_kept_and_counts_at_its_answer(openai, library, is_async, limits):
    module = LIBRARIES[library]
    transport = module.MockTransport(lambda request: module.Response(200, json={"usage": {"total_tokens": 3}}))
    shape = Shape(openai, library, is_async, transport=transport)
    assert (await shape.post("https://models.example", json={})).json() == {"usage": {"total_tokens": 3}}
    assert limits.what() == ["written", "done"]
    assert limits.dones[0].tokens == 3
    await shape.end()


async def test_mounted_transports_take_permits_too(openai, library, is_async, limits, provider):
    module = LIBRARIES[library]
    transport = module.MockTransport(lambda request: module.Response(200, text=""))
    shape = Shape(openai, library, is_async, mounts={"https://models.example": transport, "http://": None})
    await shape.post("https://models.example", json={})
    await shape.post(provider.url, json={})
    assert len(limits.asks) == 2
    await shape.end()


async def test_a_proxy_is_used_and_counts_as_no_request(openai, library, is_async, limits, provider):
    shape = Shape(openai, library, is_async, proxy=provider.url)
    await shape.post("http://models.example/v1", json={})
    assert provider.seen[0].path == "http://models.example/v1"
    assert len(limits.asks) == 1
    await shape.end()


@both
async def test_the_tunnel_through_a_proxy_is_not_the_request(openai, library, limits, provider):
    """The answer to CONNECT is 200, and then TLS fails: the request was never written."""
    provider.replies.append(Reply(200, cuts=True))
    async with openai.async_http_client(library, proxy=provider.url) as client:
        with pytest.raises((LIBRARIES[library].TransportError, OSError)):
            await client.post("https://models.example/v1", json={})
    assert provider.seen[0].method == "CONNECT"
    assert limits.what() == ["done"]


@both
def test_other_options_reach_the_client(openai, library):
    context = ssl.create_default_context()
    client = openai.http_client(
        library, base_url="https://models.example", headers={"x-team": "a"}, timeout=3, verify=context, http2=True
    )
    assert isinstance(client, LIBRARIES[library].Client)
    assert str(client.base_url).startswith("https://models.example")
    assert client.headers["x-team"] == "a"
    assert client.timeout.read == 3
    client.close()


@both
def test_answers_come_in_an_encoding_that_can_be_read_for_usage(openai, library):
    with openai.http_client(library) as client:
        assert set(client.headers["accept-encoding"].split(", ")) == {"gzip", "deflate"}
    with openai.http_client(library, headers={"Accept-Encoding": "identity"}) as client:
        assert client.headers["accept-encoding"] == "identity"


def test_the_library_is_httpx2_where_it_is_installed_and_named_otherwise(openai):
    with openai.http_client() as client:
        assert type(client) is httpx2.Client
    with pytest.raises(ValueError, match="library= is 'httpx' or 'httpx2', got 'requests'"):
        openai.http_client("requests")


async def test_a_plain_client_on_an_event_loop_is_refused(openai, provider, limits):
    with openai.http_client() as client, pytest.raises(BlocksLoop, match="async_http_client"):
        client.get(provider.url)
    assert limits.asks == []


async def test_without_a_service_nothing_is_limited(app, provider):
    openai = app.resource("openai", rate="1/min")
    async with openai.async_http_client() as client:
        for _ in range(3):
            assert (await client.get(provider.url)).status_code == 200
    with openai.http_client() as client:
        assert client.get(provider.url).status_code == 200


async def test_in_a_body_a_request_is_refused(app, provider, limits):
    openai = app.resource("openai", rate="1/min")

    @app.pipeline
    async def asks(question: str) -> str:
        async with openai.async_http_client() as client:
            await client.get(provider.url)
        return question

    async with app.local() as runtime:
        handle = await runtime.start("asks", question="?")
        with pytest.raises(BodyNotRepeatable, match="'openai' is used in the body of a pipeline"):
            await handle.result()
    assert provider.seen == []


async def test_a_task_that_is_cancelled_while_it_waits_asks_no_longer(openai, limits, provider):
    limits.give(0)
    async with openai.async_http_client() as client:
        task = asyncio.create_task(client.get(provider.url))
        await eventually(lambda: limits.waiting == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert limits.waiting == 0
    assert limits.what() == ["withdraw"]


async def test_a_task_that_is_cancelled_before_the_answer_gives_its_permit_back(openai, limits, provider):
    provider.replies.append(completion(answers=Signal()))
    async with openai.async_http_client() as client:
        task = asyncio.create_task(client.get(provider.url))
        await eventually(lambda: provider.seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert limits.in_use == 0
    assert [done.how for done in limits.dones] == ["cancelled"]


async def test_a_task_that_is_cancelled_in_mid_stream_gives_its_permit_back(openai, limits, provider):
    provider.replies.append(streamed("a", "b", goes_on=Signal()))
    began = Signal()

    async def read(client):
        async with client.stream("GET", provider.url) as response:
            async for _ in response.aiter_raw():
                began.set()

    async with openai.async_http_client() as client:
        task = asyncio.create_task(read(client))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert limits.in_use == 0
    assert [done.how for done in limits.dones] == ["cancelled"]


async def test_a_thread_that_waits_blocks_no_loop_and_goes_on_when_it_is_granted(openai, limits, provider):
    limits.give(0)
    with openai.http_client() as client:
        waits = asyncio.create_task(asyncio.to_thread(client.get, provider.url))
        await eventually(lambda: limits.waiting == 1)
        granting = threading.Thread(target=limits.give, args=(1,))
        granting.start()
        assert (await waits).status_code == 200
        granting.join()


async def test_a_context_that_keeps_a_permit_says_so(openai, limits, provider):
    limits.give(1)
    provider.replies.append(streamed("a", goes_on=Signal()))
    async with openai.async_http_client() as client:
        async with client.stream("GET", provider.url):
            (kept,) = (ask.id for ask in limits.asks)
            with pytest.raises(offramp.errors.WaitsForItself):
                await client.get(provider.url)
            assert limits.asks[-1].within == (kept,)
        await client.get(provider.url)
        assert limits.asks[-1].within == ()


async def test_parallel_requests_keep_nothing_from_each_other(openai, limits, provider):
    limits.give(1)
    async with openai.async_http_client() as client, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(client.get(provider.url))
    assert {ask.within for ask in limits.asks} == {()}
    assert len(limits.dones) == 5


async def test_the_reader_of_a_stream_that_another_task_opened_keeps_its_permit(openai, limits, provider):
    limits.give(1)
    provider.replies.append(streamed("a", goes_on=Signal()))
    async with openai.async_http_client() as client:
        request = client.build_request("GET", provider.url)
        response = await asyncio.create_task(client.send(request, stream=True))
        parts = response.aiter_raw()
        await anext(parts)
        with pytest.raises(offramp.errors.WaitsForItself):
            await client.get(provider.url)
        await response.aclose()


@both
async def test_a_late_first_token_is_told_when_it_becomes_late(app, limits, provider, library):
    clock = FakeClock()
    answers = Signal()
    resource = app.resource("slow", breaker=offramp.Breaker(slow_after=5))
    provider.replies.append(streamed("a", answers=answers))
    with serving(app, limits, clock):
        async with resource.async_http_client(library) as client:
            task = asyncio.create_task(client.get(provider.url))
            await eventually(lambda: limits.what() == ["written"])
            clock.advance(4.9)
            assert limits.what() == ["written"]
            clock.advance(0.2)
            assert limits.what() == ["written", "slow"]
            answers.set()
            await task
    assert limits.dones[0].first_s == pytest.approx(5.1)


@both
async def test_a_first_token_in_time_is_not_slow(app, limits, provider, library):
    clock = FakeClock()
    resource = app.resource("fast", breaker=offramp.Breaker(slow_after=5))
    goes_on = Signal()
    provider.replies.append(streamed("a", "b", goes_on=goes_on))
    with serving(app, limits, clock):
        async with resource.async_http_client(library) as client, client.stream("GET", provider.url) as response:
            parts = response.aiter_raw()
            await anext(parts)
            clock.advance(100)
            goes_on.set()
            async for _ in parts:
                pass
    assert limits.what() == ["written", "done"]


async def test_what_a_request_needs_is_read_from_its_body(app, limits, provider):
    resource = app.resource("tokens", tokens="200k/min")
    with serving(app, limits):
        async with resource.async_http_client() as client:
            await client.post(provider.url, json={"max_tokens": 500, "messages": "x" * 400})
            await client.post(provider.url, json={"messages": "x" * 400})
            await client.post(provider.url, content=b"no json")
            await client.post(provider.url, files={"file": b"x"})
    needs = [ask.tokens_max for ask in limits.asks]
    assert 600 <= needs[0] <= 620
    assert needs[1:] == [None, None, None]


async def test_keys_have_breakers_of_their_own_and_are_not_told(openai, limits, provider):
    async with openai.async_http_client() as client:
        for key in ("secret-one", "secret-one", "secret-two", "secret-one"):
            await client.get(provider.url, headers={"Authorization": f"Bearer {key}"})
    names = [ask.credential for ask in limits.asks]
    assert names[0] == names[1] == names[3] != names[2]
    assert all(names)
    assert "secret" not in repr(limits.asks)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_resource_cannot_be_copied(openai, copied):
    with pytest.raises(TypeError, match="resource 'openai' cannot be pickled or copied"):
        copied(openai)
