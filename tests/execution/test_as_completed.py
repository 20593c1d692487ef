"""`offramp.as_completed` is asyncio's with an order that a replay repeats; the plain one is found by the test kit."""

from __future__ import annotations

import asyncio
import random
import uuid

import pytest

import offramp
from offramp import App, testing
from offramp.execution.as_completed import Races
from tests.support import Signal


def drawing(as_completed, wanted=6):
    """A pipeline whose branches draw a value each, before and between two steps; some end before others begin."""
    app = App("draws")

    @app.step
    async def work(turns: int, token: str) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return token

    @app.pipeline
    async def branch(number: int) -> list[str]:
        first = str(offramp.uuid4())
        return [str(number), await work(number % 3, first), await work(0, str(offramp.uuid4()))]

    @app.pipeline
    async def pipe() -> list[list[str]]:
        return [await ended for ended in as_completed([branch(number) for number in range(wanted)])]

    return app


async def test_branches_that_draw_values_repeat():
    app = drawing(offramp.as_completed)
    result = await testing.replays(app, "pipe")
    assert sorted(number for number, *_ in result) == list("012345")
    assert len({token for _, *tokens in result for token in tokens}) == 12


@pytest.mark.parametrize("wanted", [2, 6])
async def test_the_plain_one_is_caught(wanted):
    with pytest.raises(
        AssertionError, match=r"asyncio.as_completed at .*test_as_completed.py:\d+ begins its coroutines"
    ):
        await testing.replays(drawing(asyncio.as_completed, wanted), "pipe")


async def test_the_plain_one_over_tasks_or_a_single_coroutine_has_an_order():
    app = App("tasks")

    @app.step
    async def work(number: int) -> int:
        return number

    @app.pipeline
    async def pipe() -> list[int]:
        tasks = [asyncio.create_task(work(number)) for number in range(4)]
        return [await ended for ended in asyncio.as_completed(tasks)] + [
            await ended for ended in asyncio.as_completed([work(9)])
        ]

    assert sorted(await testing.replays(app, "pipe")) == [0, 1, 2, 3, 9]


async def test_tasks_begin_in_the_order_given_and_come_as_they_end():
    begun, may = [], [Signal() for _ in range(5)]
    arrivals = random.Random(3).sample(range(5), 5)

    async def branch(number):
        begun.append(number)
        await may[number].wait()
        return number

    ended = offramp.as_completed(branch(number) for number in range(5))
    order = []
    for number, result in zip(arrivals, ended, strict=True):
        await asyncio.sleep(0)
        may[number].set()
        order.append(await result)
    assert begun == [0, 1, 2, 3, 4]
    assert order == arrivals


async def test_what_has_ended_already_comes_in_the_order_given():
    futures = [asyncio.get_running_loop().create_future() for _ in range(50)]
    for number, future in enumerate(futures):
        future.set_result(number)
    assert [await ended for ended in offramp.as_completed(futures)] == list(range(50))


async def test_async_for_gives_the_futures_themselves_and_duplicates_once():
    tasks = [asyncio.create_task(asyncio.sleep(0, number)) for number in range(3)]
    assert [ended async for ended in offramp.as_completed([*tasks, tasks[0]])] == tasks


async def test_an_exception_is_raised_by_its_own_turn():
    async def fails():
        raise ValueError("no")

    [ended] = offramp.as_completed([fails()])
    with pytest.raises(ValueError, match="no"):
        await ended


async def test_a_timeout_is_raised_for_each_that_has_not_ended():
    never = [asyncio.get_running_loop().create_future() for _ in range(2)]
    results = list(offramp.as_completed([asyncio.sleep(0, "soon"), *never], timeout=0.01))
    assert await results[0] == "soon"
    for result in results[1:]:
        with pytest.raises(TimeoutError):
            await result
    assert not any(future.done() for future in never)


@pytest.mark.parametrize("wrong", [set(), frozenset()], ids=["set", "frozenset"])
async def test_a_set_is_refused(wrong):
    with pytest.raises(TypeError, match="the order of a set"):
        offramp.as_completed(wrong)


async def test_a_single_awaitable_is_refused():
    coroutine = asyncio.sleep(0)
    with pytest.raises(TypeError, match="several awaitables"):
        offramp.as_completed(coroutine)
    coroutine.close()


async def test_nothing_ends_at_once():
    assert list(offramp.as_completed([])) == []
    assert [ended async for ended in offramp.as_completed([], timeout=1)] == []


async def test_the_place_where_asyncio_makes_its_tasks_is_known(monkeypatch):
    """Python's own code, which differs by version: here without a run around it."""
    races = Races()

    def factory(loop, coroutine, **options):
        races()
        return asyncio.Task(coroutine, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)
    assert [await ended for ended in offramp.as_completed([uuid_of(), uuid_of()])]
    assert races.problem is None
    assert [await ended for ended in asyncio.as_completed([uuid_of(), uuid_of()])]
    assert "use offramp.as_completed" in races.problem


async def uuid_of():
    return uuid.uuid4()
