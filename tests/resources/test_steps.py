"""Clients of resources within steps: in every lane, with the permits of `uses=`, whatever ends the step."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from offramp import App, Breaker, Retry
from offramp.core.limits.messages import Refused
from offramp.errors import CircuitOpen, ResourceBusy, StepTimeout
from offramp.execution.clock import SystemClock
from offramp.limits.local import LocalLimits
from offramp.paths.local import LocalRuntime
from tests.resources.fakes import FakeLimits
from tests.resources.provider import failing, streamed
from tests.support import GUARD_S, Signal, eventually, failure_of, member, result_of


@contextlib.asynccontextmanager
async def running(app, folder, limits):
    async with member(app, folder, "local", limits=limits) as service:
        yield LocalRuntime(service)


async def test_the_first_request_takes_over_the_permit_of_the_step(app, limits, provider, tmp_path):
    openai = app.resource("openai", rate="500/min")

    @app.step(uses=openai)
    async def ask() -> int:
        async with openai.async_http_client() as client:
            for _ in range(3):
                await client.get(provider.url)
        return len(limits.asks)

    @app.pipeline
    async def line() -> int:
        return await ask()

    async with running(app, tmp_path, limits) as runtime:
        assert await result_of(await runtime.start("line")) == 3
    assert len({ask.id for ask in limits.asks}) == 3
    assert [ask.step for ask in limits.asks] == ["ask"] * 3
    assert limits.what() == ["written", "done"] * 3
    assert limits.reported[0][1] == limits.asks[0].id


async def test_a_plain_step_asks_from_its_thread(app, limits, provider, tmp_path):
    openai = app.resource("openai", rate="500/min")

    @app.step(uses=openai)
    def ask() -> int:
        with openai.http_client() as client:
            return sum(client.get(provider.url).status_code for _ in range(2))

    @app.pipeline
    async def line() -> int:
        return await ask()

    async with running(app, tmp_path, limits) as runtime:
        assert await result_of(await runtime.start("line")) == 400
    assert limits.what() == ["written", "done"] * 2
    assert {ask.run_id for ask in limits.asks} == {limits.asks[0].run_id}
    assert limits.asks[0].run_id


async def test_what_no_request_takes_over_goes_back_when_the_step_ends(app, limits, tmp_path):
    openai = app.resource("openai", rate="500/min")

    @app.step(uses=openai)
    async def ask() -> None:
        assert limits.in_use == 1

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        await result_of(await runtime.start("line"))
        await eventually(lambda: limits.in_use == 0)
    assert limits.what() == ["withdraw"]


async def test_a_permit_without_tokens_is_given_up_for_one_with_what_the_request_needs(app, limits, provider, tmp_path):
    openai = app.resource("openai", tokens="200k/min")

    @app.step(uses=openai)
    async def ask() -> None:
        async with openai.async_http_client() as client:
            await client.post(provider.url, json={"max_tokens": 500})

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        await result_of(await runtime.start("line"))
    assert limits.asks[0].tokens_max is None
    assert 500 < limits.asks[1].tokens_max < 510
    assert limits.what() == ["withdraw", "written", "done"]


async def test_a_step_that_times_out_gives_back_what_it_has_and_what_it_waits_for(app, limits, provider, tmp_path):
    openai = app.resource("openai", rate="500/min")
    provider.replies.append(streamed("a", goes_on=Signal()))
    limits.give(1)

    @app.step(uses=openai, timeout=0.3)
    async def ask() -> None:
        async with openai.async_http_client() as client, asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(client.get(provider.url))

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        assert isinstance(await failure_of(await runtime.start("line")), StepTimeout)
        await eventually(lambda: limits.in_use == limits.waiting == 0)


async def test_a_thread_that_is_left_behind_waits_for_no_permit(app, limits, provider, tmp_path):
    openai = app.resource("openai", rate="500/min")
    refused = []
    limits.give(0)
    over = threading.Event()

    @app.step(timeout=0.3)
    def ask() -> None:
        try:
            with openai.http_client() as client:
                client.get(provider.url)
        except Exception as error:
            refused.append(str(error))
            raise
        finally:
            over.set()

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        assert isinstance(await failure_of(await runtime.start("line")), StepTimeout)
        assert await asyncio.to_thread(over.wait, 20)
    assert refused == ["openai: the step that asks for a permit is over"]
    assert limits.waiting == 0
    assert provider.seen == []


@pytest.mark.parametrize("earlier", [0, 1])
async def test_a_thread_that_is_left_behind_asks_for_no_permit(app, limits, tmp_path, earlier):
    openai = app.resource("openai", rate="500/min")
    goes_on, over, refused = threading.Event(), threading.Event(), []

    @app.step(timeout=0.3)
    def ask() -> None:
        for _ in range(earlier):
            with openai.permit():
                pass
        goes_on.wait(GUARD_S)
        for _ in range(2):
            try:
                with openai.permit():
                    pass
            except ResourceBusy as error:
                refused.append(str(error))
        over.set()

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        assert isinstance(await failure_of(await runtime.start("line")), StepTimeout)
        goes_on.set()
        assert await asyncio.to_thread(over.wait, GUARD_S)
    assert refused == ["openai: the step that asks for a permit is over"] * 2
    assert len(limits.asks) == earlier
    assert limits.in_use == 0


async def test_an_attempt_that_ends_just_before_an_ask_is_heard_keeps_no_permit(app, limits, tmp_path):
    openai = app.resource("openai", rate="500/min")
    hears = limits.ask
    asking, over = threading.Event(), threading.Event()

    def ask_late(ask, notify):
        asking.set()
        goes_on.wait(GUARD_S)
        hears(ask, notify)

    goes_on, limits.ask = threading.Event(), ask_late

    @app.step(timeout=0.3)
    def ask() -> None:
        try:
            with openai.permit():
                pass
        finally:
            over.set()

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        assert isinstance(await failure_of(await runtime.start("line")), StepTimeout)
        assert asking.is_set()
        goes_on.set()
        assert await asyncio.to_thread(over.wait, GUARD_S)
    assert len(limits.asks) == 1
    assert limits.in_use == 0


async def left_open(openai, provider):
    client = openai.async_http_client()
    return client, await client.send(client.build_request("GET", provider.url), stream=True)


async def test_a_stream_that_a_step_leaves_open_is_closed_when_it_ends(app, limits, provider, tmp_path):
    openai = app.resource("openai", rate="500/min")
    provider.replies.append(streamed("a", "b", goes_on=Signal()))
    left = []

    @app.step(uses=openai)
    async def ask() -> None:
        left.append(await left_open(openai, provider))
        await anext(left[0][1].aiter_raw())

    @app.pipeline
    async def line() -> None:
        await ask()
        await eventually(lambda: limits.in_use == 0)

    async with running(app, tmp_path, limits) as runtime:
        await result_of(await runtime.start("line"))
    assert [done.how for done in limits.dones] == ["cancelled"]
    await eventually(lambda: provider.left == 1)


@pytest.mark.parametrize("reads", [False, True])
async def test_a_plain_stream_that_a_step_leaves_open_is_closed_when_it_ends(app, limits, provider, tmp_path, reads):
    openai = app.resource("openai", rate="500/min")
    goes_on, reading, ended = Signal(), threading.Event(), []
    provider.replies.append(streamed("a", "b", goes_on=goes_on))

    def rest(parts):
        reading.set()
        try:
            list(parts)
        except ResourceBusy as error:
            ended.append(str(error))

    @app.step(uses=openai)
    def ask() -> None:
        client = openai.http_client()
        response = client.send(client.build_request("GET", provider.url), stream=True)
        parts = response.iter_raw()
        next(parts)
        ended.append(response)
        if reads:
            threading.Thread(target=rest, args=(parts,)).start()
            reading.wait(GUARD_S)

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        await result_of(await runtime.start("line"))
        if reads:  # it keeps its permit while its thread waits for the provider
            goes_on.set()
            await eventually(lambda: ended[1:] == ["the step that reads this answer is over"])
        await eventually(lambda: limits.in_use == 0)
        await eventually(lambda: provider.open == 0)


async def test_a_refusal_within_a_step_is_the_steps_failure(app, limits, provider, tmp_path):
    openai = app.resource("openai", rate="500/min")
    limits.refuses = [Refused("open", "openai: 9 of the last 12 calls failed", None)]

    @app.step
    async def ask() -> None:
        async with openai.async_http_client() as client:
            await client.get(provider.url)

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        error = await failure_of(await runtime.start("line"))
    assert isinstance(error, CircuitOpen)
    assert "9 of the last 12" in str(error)


@pytest.mark.parametrize("attempts", [1, 2])
async def test_an_sdk_is_told_to_leave_retries_to_a_step_that_has_them(app, limits, provider, tmp_path, attempts):
    openai = app.resource("openai", rate="500/min")
    provider.replies.extend([failing(503), failing(503)])
    said = []

    @app.step(retry=Retry(attempts=attempts, base=0))
    async def ask() -> None:
        async with openai.async_http_client() as client:
            response = await client.get(provider.url)
            said.append(response.headers.get("x-should-retry"))
            response.raise_for_status()

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        await failure_of(await runtime.start("line"))
    assert said == ([None] if attempts == 1 else ["false", "false"])


async def test_a_start_hook_keeps_to_the_limits_of_its_service(app, limits, provider, tmp_path):
    openai = app.resource("openai", rate="500/min")

    @app.on_start
    async def warm() -> None:
        async with openai.async_http_client() as client:
            await client.get(provider.url)

    async with running(app, tmp_path, limits):
        assert [ask.run_id for ask in limits.asks] == [""]
    assert app.service.holder("openai") is None


async def test_a_late_first_token_of_a_step_is_slow_for_its_resource(app, limits, provider, tmp_path):
    openai = app.resource("openai", rate="500/min")
    answers = Signal()
    provider.replies.append(streamed("a", answers=answers))

    @app.step(uses=openai, slow_after=0.05)
    async def ask() -> None:
        async with openai.async_http_client() as client:
            await client.get(provider.url)

    @app.pipeline
    async def line() -> None:
        await ask()

    async with running(app, tmp_path, limits) as runtime:
        handle = await runtime.start("line")
        await eventually(lambda: "slow" in limits.what())
        answers.set()
        await result_of(handle)


async def test_a_step_may_call_what_another_app_of_the_process_declares(app, limits, provider, tmp_path):
    others = App("other")
    app.resource("own", rate="1/s")
    foreign = others.resource("foreign", rate="500/min")

    @app.step
    async def ask() -> int:
        async with foreign.async_http_client() as client:
            return (await client.get(provider.url)).status_code

    @app.pipeline
    async def line() -> int:
        return await ask()

    async with running(app, tmp_path / "own", FakeLimits()) as runtime, running(others, tmp_path / "other", limits):
        assert await result_of(await runtime.start("line")) == 200
    assert [(ask.resource, ask.run_id) for ask in limits.asks] == [("foreign", "")]


async def test_a_step_calls_what_an_app_that_is_not_served_declares_without_limits(app, limits, provider, tmp_path):
    app.resource("own", rate="1/s")
    foreign = App("other").resource("foreign", rate="500/min")

    @app.step
    async def ask() -> int:
        async with foreign.async_http_client() as client:
            return (await client.get(provider.url)).status_code

    @app.pipeline
    async def line() -> int:
        return await ask()

    async with running(app, tmp_path, limits) as runtime:
        assert await result_of(await runtime.start("line")) == 200
    assert limits.asks == []


async def test_a_key_whose_calls_fail_stops_the_steps_of_no_other(app, provider, tmp_path):
    openai = app.resource("openai", concurrency=10, breaker=Breaker(min_calls=4, open_for=600))

    @app.step(uses=openai)
    async def ask(key: str) -> int:
        async with openai.async_http_client() as client:
            return (await client.get(provider.url, headers={"x-api-key": key})).status_code

    @app.pipeline
    async def line(keys: list[str]) -> list[int]:
        return [await ask(key) for key in keys]

    limits = LocalLimits([openai.spec], {}, SystemClock())
    async with running(app, tmp_path, limits) as runtime:
        assert await result_of(await runtime.start("line", keys=["good"])) == [200]
        provider.replies.extend(failing(503) for _ in range(4))
        assert await result_of(await runtime.start("line", keys=["bad"] * 4)) == [503] * 4
        [level] = await limits.levels()
        assert level.breaker.state == "open"
        handle = await runtime.start("line", keys=["good"] * 3)
        assert await result_of(handle) == [200] * 3
    assert [seen.headers["x-api-key"] for seen in provider.seen] == ["good"] + ["bad"] * 4 + ["good"] * 3
    limits.close()
