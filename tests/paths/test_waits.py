"""What the event log says of a run's waits: each begins once and ends once, however often the run is moved."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime

import pytest

import offramp
from offramp import App
from offramp.errors import SignalTimeout
from tests.paths.waiting import deep, parked, started
from tests.support import log_of, of, reach, result_of, types


def epoch(text):
    return datetime.fromisoformat(text).timestamp()


async def test_a_long_sleep_begins_and_ends_once_though_it_is_parked(place, clock):
    app = App("sleeps")

    @app.pipeline
    async def nap() -> None:
        await offramp.sleep(3600.0)

    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("nap"))
        await reach(handle, "wait.started")  # when, and until when, are two looks at the clock
        await parked(runtime.service, handle.id, clock=clock)
        await clock.run_until(result_of(handle), 1.0)
        events = await log_of(handle)
    assert types(events) == ["run.accepted", "wait.started", "run.resumed", "wait.ended", "run.completed"]
    assert events[2].data["reason"] == "wait"
    begun, over = events[1], events[3]
    assert (begun.data["wait"], begun.data["name"]) == ("sleep", None)
    assert epoch(begun.data["until"]) - epoch(begun.at) == pytest.approx(3600.0, abs=0.01)
    assert epoch(over.at) >= epoch(begun.data["until"])
    assert over.data == {"wait": "sleep", "name": None, "key": begun.data["key"], "reason": "due"}


async def test_a_signal_that_does_not_come_in_time_ends_its_wait_as_due(place, clock):
    app = App("asks")

    @app.pipeline
    async def ask() -> str:
        try:
            await offramp.signal("go", timeout=2.0)
        except SignalTimeout:
            return "none came"
        return "it came"

    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("ask"))
        await reach(handle, "wait.started")
        assert await clock.run_until(result_of(handle)) == "none came"
        events = await log_of(handle)
    begun, over = of(events, "wait.started")[0], of(events, "wait.ended")[0]
    assert epoch(begun.data["until"]) - epoch(begun.at) == pytest.approx(2.0, abs=0.01)
    assert (over.data["name"], over.data["reason"]) == ("go", "due")


async def test_a_wait_that_the_pipeline_gives_up_is_cancelled(place):
    app = App("races")

    @app.pipeline
    async def race() -> int:
        tasks = [asyncio.create_task(offramp.signal(name)) for name in ("left", "right")]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        return int(done.pop().result())

    async with started(app, place) as runtime:
        handle = await runtime.start("race")
        await reach(handle, "wait.started")
        await handle.signal("right", 7)
        assert await result_of(handle) == 7
        ended = of(await log_of(handle), "wait.ended")
    assert {event.data["name"]: event.data["reason"] for event in ended} == {"right": "received", "left": "cancelled"}


async def test_a_wait_without_an_end_that_a_calendar_knows_has_no_until(place):
    app = App("sleeps")

    @app.pipeline
    async def nap() -> None:
        await offramp.sleep(math.inf)

    @app.pipeline
    async def work() -> int:
        await offramp.sleep(0.01)
        return 1

    async with started(app, place) as runtime:
        handle = await runtime.start("nap")
        begun = (await reach(handle, "wait.started"))[-1]
        assert await result_of(await runtime.start("work")) == 1, "the clock stands still"
        await handle.cancel()
        await log_of(handle)
    assert begun.data["until"] is None
