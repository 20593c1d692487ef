"""The fake clock that users test with."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest

import offramp
from offramp import App, testing
from offramp.testing import FakeClock


async def test_time_passes_until_what_is_awaited_is_there():
    app, clock = App("naps"), FakeClock()

    @app.pipeline
    async def nap() -> list[float]:
        times = [offramp.now().timestamp()]
        for _ in range(3):  # each timer is set when the one before has gone off, by another thread
            await offramp.sleep(1.0)
            times.append(offramp.now().timestamp())
        return times

    async with testing.runtime(app, clock=clock) as runtime:
        times = await clock.run_until((await runtime.start("nap")).result(), 0.01)
    assert all(1.0 <= later - earlier < 2.0 for earlier, later in itertools.pairwise(times))


async def test_what_is_awaited_raises_its_own_error():
    async def fails():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await FakeClock().run_until(fails())


async def test_what_does_not_come_is_given_up_and_cancelled():
    clock, never = FakeClock(), asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError, match=r"not there after 0.05 s, in which \d+ s of the clock passed"):
        await clock.run_until(never, 1.0, within=0.05)
    assert never.cancelled()
    assert clock.monotonic() >= 1.0


def test_a_call_that_another_thread_asks_for_during_a_jump_is_not_lost():
    clock, called = FakeClock(), []

    def other():
        thread = threading.Thread(target=lambda: clock.call_at(0.5, lambda: called.append(clock.monotonic())))
        thread.start()
        thread.join()

    clock.call_at(1.0, other)
    clock.call_at(2.0, lambda: called.append("due"))
    clock.advance(3.0)
    clock.advance(0.0)
    assert called == [1.0, "due"]


def test_a_call_that_is_asked_for_by_a_call_is_made_by_the_same_jump():
    clock, called = FakeClock(), []
    clock.call_at(1.0, lambda: clock.call_at(1.5, lambda: called.append(clock.monotonic())))
    clock.advance(3.0)
    assert called == [1.5]


def test_a_clock_does_not_go_back():
    with pytest.raises(ValueError, match="does not go back"):
        FakeClock().advance(-1.0)
