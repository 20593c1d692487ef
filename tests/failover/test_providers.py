"""Failovers and hedges with a real SDK and real providers over HTTP: streams that break, stall, or bring errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import openai as sdk
import pytest

from offramp import App, Breaker, emit, testing
from offramp.core.limits.messages import Refused
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.failover.hedged import AFTER_S, Budget, hedge
from tests.resources.fakes import FakeLimits
from tests.resources.provider import Provider, Reply, completion, failing, streamed
from tests.support import Signal, eventually, log_of, member, of, reading, result_of

MESSAGES = [{"role": "user", "content": "?"}]
OVERLOADED = {"error": {"message": "Overloaded", "type": "overloaded_error", "code": None, "param": None}}


class Watched(FakeLimits):
    def watch(self, notify):
        notify([])


class Desk:
    """An app with a failover between two providers, each behind a resource of its own."""

    def __init__(self, folder, stack, *, first_token=None, is_async=True, hedges=False, clock=None, retries=2):
        self.folder = folder
        self.clock = clock
        self.limits = Watched()
        self.app = App("desk")
        self.retries = retries
        self.first, self.second = Provider(), Provider()
        stack.callback(self.first.close)
        stack.callback(self.second.close)
        options = {"is_async": is_async, "hedge": hedges}
        steps = [self._step(name, getattr(self, name), **options) for name in ("first", "second")]
        answer = self.app.failover(*steps, first_token=first_token, name="answer")

        @self.app.pipeline(budget=60)
        async def fast() -> str:
            return await answer()

        @self.app.pipeline(budget=0)
        async def deep() -> str:
            return await answer()

    def _step(self, name, provider, *, is_async, hedge):
        resource = self.app.resource(name, rate="500/min", breaker=Breaker())

        def given():
            return {"api_key": "secret", "base_url": f"{provider.url}/v1", "max_retries": self.retries}

        async def awaited() -> str:
            said = []
            client = sdk.AsyncOpenAI(http_client=resource.async_http_client(), **given())
            async with (
                client,
                await client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream,
            ):
                async for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        said.append(chunk.choices[0].delta.content)
                        emit(said[-1])
            return " ".join(said)

        def plain() -> str:
            with sdk.OpenAI(http_client=resource.http_client(), **given()) as client:
                return client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content

        call = awaited if is_async else plain
        return self.app.step(name=name, uses=resource, kind="llm", hedge=hedge)(call)

    @contextlib.asynccontextmanager
    async def open(self):
        async with member(self.app, self.folder, "local", limits=self.limits, clock=self.clock) as service:
            yield LocalRuntime(service)

    def hows(self, resource):
        """How the calls of a resource ended, in order."""
        ids = {ask.id for ask in self.limits.asks if ask.resource == resource}
        return [value.how for what, permit, value in self.limits.reported if what == "done" and permit in ids]


@pytest.fixture
def stack():
    with contextlib.ExitStack() as made:
        yield made


BROKEN = {
    "a stream that breaks off": streamed("one", "two", cuts=True),
    "an error within a stream": Reply(
        headers={"content-type": "text/event-stream"},
        parts=[streamed("one").parts[0], b"data: " + json.dumps(OVERLOADED).encode() + b"\n\n"],
    ),
    "an error at the beginning of a stream": Reply(
        headers={"content-type": "text/event-stream"}, parts=[b"data: " + json.dumps(OVERLOADED).encode() + b"\n\n"]
    ),
    "503": failing(),
    "a wrong key": failing(401, "invalid_api_key"),
    "a refusal": failing(429, "rate_limit_exceeded", {"retry-after": "60"}.items()),
}
HOWS = {"a wrong key": "ok", "a refusal": "throttled"}


@pytest.mark.parametrize("path", ["fast", "deep"])
@pytest.mark.parametrize("what", BROKEN)
async def test_another_provider_is_called_where_one_breaks(tmp_path, stack, what, path):
    desk = Desk(tmp_path, stack)
    desk.first.replies.append(BROKEN[what])
    desk.second.replies.append(streamed("a", "b", "c"))
    if what == "a stream that breaks off":
        BROKEN[what].parts = BROKEN[what].parts[:2]
    async with desk.open() as runtime:
        handle = await runtime.start(path)
        assert await result_of(handle) == "a b c"
        seen = await log_of(handle)
        await eventually(lambda: desk.limits.in_use == 0)
    [retrying] = of(seen, "step.retrying")
    after = [event.data["delta"] for event in of(seen, "step.delta") if event.seq > retrying.seq]
    assert after == ["a", "b", "c"]
    assert (len(desk.first.seen), len(desk.second.seen)) == (1, 1), "no SDK repeats its request"
    assert desk.hows("first") == [HOWS.get(what, "failed")]
    assert desk.hows("second") == ["ok"]


async def test_a_provider_that_cannot_be_reached_is_left(tmp_path, stack):
    desk = Desk(tmp_path, stack, retries=0)
    desk.second.replies.append(streamed("a"))
    desk.first.port = stack.enter_context(_unused())
    async with desk.open() as runtime:
        assert await result_of(await runtime.start("fast")) == "a"
    assert desk.hows("first") == ["failed"]


async def test_a_late_first_token_is_slow_for_the_breaker(tmp_path, stack):
    clock, never = FakeClock(), Signal()
    desk = Desk(tmp_path, stack, first_token=3.0, clock=clock)
    desk.first.replies.append(streamed("one", answers=never))
    desk.second.replies.append(streamed("a"))
    async with desk.open() as runtime:
        handle = await runtime.start("fast")
        await eventually(lambda: "written" in desk.limits.what())
        clock.advance(3.1)
        assert await result_of(handle) == "a"
        await eventually(lambda: desk.limits.in_use == 0)
    assert desk.hows("first") == ["slow"]
    never.set()


async def test_a_first_byte_in_time_lets_the_stream_go_on(tmp_path, stack):
    clock, goes_on = FakeClock(), Signal()
    desk = Desk(tmp_path, stack, first_token=3.0, clock=clock)
    desk.first.replies.append(streamed("one", "two", goes_on=goes_on))
    async with desk.open() as runtime:
        handle = await runtime.start("fast")
        async with asyncio.timeout(20), contextlib.aclosing(handle.events()) as events:
            async for event in events:
                if event.type == "step.delta":
                    break
        clock.advance(30)
        goes_on.set()
        assert await result_of(handle) == "one two"
    assert desk.second.seen == []


async def test_a_thread_is_left_to_itself_and_its_call_counts_as_slow(tmp_path, stack):
    clock, answers = FakeClock(), Signal()
    desk = Desk(tmp_path, stack, first_token=3.0, is_async=False, clock=clock)
    desk.first.replies.append(completion("late", answers=answers))
    desk.second.replies.append(completion("in time"))
    async with desk.open() as runtime:
        handle = await runtime.start("fast")
        await eventually(lambda: "written" in desk.limits.what())
        clock.advance(3.1)
        assert await result_of(handle) == "in time"
        assert "slow" in desk.limits.what()
        assert desk.limits.in_use == 1, "its request goes on"
        answers.set()
        await eventually(lambda: desk.limits.in_use == 0)


async def test_the_loser_of_a_hedge_gives_its_permit_back(tmp_path, stack):
    clock, never = FakeClock(), Signal()
    desk = Desk(tmp_path, stack, hedges=True, clock=clock)
    desk.first.replies += [streamed("slow", answers=never), streamed("a", "b")]
    async with desk.open() as runtime:
        won = hedge(runtime.service, Budget())
        handle = await runtime.start("fast")
        await eventually(lambda: "written" in desk.limits.what())
        clock.advance(AFTER_S)
        assert await result_of(handle) == "a b"
        assert [event.data["delta"] for event in of(await log_of(handle), "step.delta")] == ["a", "b"]
        await eventually(lambda: desk.limits.in_use == 0)
    # The step's own permit was for no key yet: its first request asks with its own.
    assert [(ask.resource, ask.queues) for ask in desk.limits.asks] == [("first", True)] * 2 + [("first", False)]
    assert sorted(desk.hows("first")) == ["cancelled", "ok"]
    assert (won, desk.second.seen) == ([True], [])
    never.set()


async def test_a_hedge_never_waits_for_a_permit(tmp_path, stack):
    clock, answers = FakeClock(), Signal()
    desk = Desk(tmp_path, stack, hedges=True, clock=clock)
    desk.first.replies.append(streamed("a", answers=answers))
    async with desk.open() as runtime:
        budget = Budget()
        won = hedge(runtime.service, budget)
        handle = await runtime.start("fast")
        await eventually(lambda: "written" in desk.limits.what())
        desk.limits.refuses.append(Refused("busy", "no place", 1.0))
        clock.advance(AFTER_S)
        await eventually(lambda: budget.given_back == 1)
        answers.set()
        assert await result_of(handle) == "a"
    assert (len(desk.first.seen), won) == (1, [])


@contextlib.contextmanager
def _unused():
    """A port on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("kind", ["one process", "a folder that processes share"])
async def test_calls_into_an_outage_end_when_the_breaker_opens(tmp_path, stack, kind):
    desk, min_calls, runs = Desk(tmp_path, stack), Breaker().min_calls, 30
    desk.first.replies += [failing() for _ in range(runs)]
    desk.second.replies += [streamed("a") for _ in range(runs)]
    async with contextlib.AsyncExitStack() as opened:
        if kind == "one process":
            runtime = await opened.enter_async_context(testing.runtime(desk.app))
        else:
            runtime = LocalRuntime(await opened.enter_async_context(member(desk.app, tmp_path, "local")))
        targets = []
        for _ in range(runs):
            handle = await runtime.start("fast")
            assert await result_of(handle) == "a"
            targets += [event.data["target"] for event in of(await log_of(handle), "step.started")]
        left = [
            reading(runtime.service, "offramp_failovers_total", reason=reason)
            for reason in ("error", "breaker", "wait")
        ]
    assert targets == ["first", "second"] * min_calls + ["second"] * (runs - min_calls)
    assert len(desk.first.seen) == min_calls
    assert left == [min_calls, runs - min_calls, 0]
