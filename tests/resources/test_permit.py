"""`resource.permit()`: one call of anything else, on a loop and in a thread."""

from __future__ import annotations

import asyncio

import pytest

from offramp import App
from offramp.errors import BlocksLoop, BodyNotRepeatable, CircuitOpen, WaitsForItself
from offramp.ports.limits import Refused
from tests.resources.conftest import serving
from tests.support import eventually


class ThrottlingException(Exception):
    """As botocore's ClientError has its answer."""

    def __init__(self):
        super().__init__("slow down")
        self.response = {
            "Error": {"Code": "ThrottlingException", "Message": "slow down"},
            "ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "3"}},
        }


async def test_a_block_is_one_call(openai, limits):
    async with openai.permit(tokens=1_200) as permit:
        assert limits.in_use == 1
        assert limits.what() == ["written"]
        permit.used(tokens=900)
    assert limits.asks[0].tokens == 1_200
    assert [(done.how, done.tokens) for done in limits.dones] == [("ok", 900)]


async def test_in_a_thread_it_is_a_plain_block(openai, limits):
    def call():
        with openai.permit() as permit:
            permit.used(tokens=3)

    limits.give(0)
    thread = asyncio.create_task(asyncio.to_thread(call))
    await eventually(lambda: limits.waiting == 1)
    limits.give(1)
    await thread
    assert [(done.how, done.tokens) for done in limits.dones] == [("ok", 3)]
    assert limits.asks[0].tokens is None


async def test_on_a_loop_a_plain_block_is_refused(openai, limits):
    with pytest.raises(BlocksLoop, match="async with"), openai.permit():
        pass
    assert limits.asks == []


async def test_an_exception_says_how_the_call_failed(openai, limits):
    with pytest.raises(ThrottlingException):
        async with openai.permit():
            raise ThrottlingException
    (done,) = limits.dones
    assert (done.how, done.blocked_s) == ("throttled", 3.0)


async def test_a_cancelled_call_says_nothing_of_the_provider(openai, limits):
    async def call():
        async with openai.permit():
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await eventually(lambda: limits.in_use == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [done.how for done in limits.dones] == ["cancelled"]


async def test_a_cancelled_wait_leaves_the_queue(openai, limits):
    limits.give(0)
    task = asyncio.create_task(openai.permit().__aenter__())
    await eventually(lambda: limits.waiting == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (limits.waiting, limits.what()) == (0, ["withdraw"])


async def test_a_refusal_is_raised(openai, limits):
    limits.refuses = [Refused("open", "openai: 9 of the last 12 calls failed", 8.0)]
    with pytest.raises(CircuitOpen, match="9 of the last 12") as caught:
        async with openai.permit():
            pass
    assert caught.value.retry_after == 8.0


async def test_one_within_another_waits_for_itself_if_there_is_no_other(openai, limits):
    limits.give(1)
    async with openai.permit():
        with pytest.raises(WaitsForItself):
            async with openai.permit():
                pass
    async with openai.permit():  # the first is over
        pass
    assert limits.asks[-1].within == ()


async def test_a_task_within_a_block_keeps_the_permit_too(openai, limits):
    limits.give(1)

    async def call():
        async with openai.permit():
            pass

    async with openai.permit():
        with pytest.raises(WaitsForItself):
            await asyncio.create_task(call())


async def test_a_permit_is_for_one_call(openai):
    permit = openai.permit()
    async with permit:
        pass
    with pytest.raises(RuntimeError, match="write permit\\(\\) for each"):
        async with permit:
            pass


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "10"])
async def test_tokens_are_whole_numbers(openai, tokens):
    with pytest.raises(ValueError, match=r"permit\(tokens=\) is a whole number from 0 on"):
        openai.permit(tokens=tokens)
    async with openai.permit() as permit:
        with pytest.raises(ValueError, match=r"permit.used\(tokens=\) is a whole number from 0 on"):
            permit.used(tokens=tokens)


async def test_without_a_service_nothing_is_limited():
    openai = App("alone").resource("openai", rate="1/h")
    for _ in range(3):
        async with openai.permit() as permit:
            permit.used(tokens=3)
    with openai.permit():  # nor refused on a loop
        pass


async def test_in_a_body_it_is_refused(app, limits):
    openai = app.resource("openai", rate="1/min")

    @app.pipeline
    async def asks(question: str) -> str:
        async with openai.permit():
            return question

    async with app.local() as runtime:
        handle = await runtime.start("asks", question="?")
        with pytest.raises(BodyNotRepeatable, match="call it in a step"):
            await handle.result()


async def test_the_last_service_that_began_counts(app, openai, limits):
    class Others(type(limits)):
        pass

    others = Others()
    with serving(app, others):
        async with openai.permit():
            pass
    async with openai.permit():
        pass
    assert (len(others.asks), len(limits.asks)) == (1, 1)


async def test_asks_from_outside_of_runs_count_in_the_default_class(openai, limits):
    for _ in range(2):
        async with openai.permit():
            pass
    first, second = limits.asks
    assert (first.sla, first.priority, first.run_id, first.tenant) == ("default", 0, "", "")
    assert first.id < second.id
