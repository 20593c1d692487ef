"""Plain asyncio timers in a body on Temporal: they go on with their run, from a gateway and from history to history."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec

import offramp
from offramp import SLA, App, current_run
from offramp.core.journal import DUE, TIMER
from tests.boundary import waits_timers as waits
from tests.support import Signal, eventually, result_of

app = App("timed", classes=[SLA("now", budget=0.3), SLA("deep", budget=0)])
executed = Counter()
gate = Signal()


@app.step(timeout=20)
async def count(number: int) -> int:
    executed[number] += 1
    return number


@app.step(timeout=30)
async def stuck() -> None:
    executed["stuck"] += 1
    await gate.wait()


@app.pipeline(sla="now")
async def moved() -> list[str]:
    """Its first timer fires in the gateway, the second after the demotion, the third never."""
    loop, seen = asyncio.get_running_loop(), [f"{current_run().path}"]
    began, left = loop.time(), current_run().remaining()
    for seconds in (0.1, 1.5):
        try:
            async with asyncio.timeout(60), asyncio.timeout_at(began + seconds):
                await stuck()
        except TimeoutError:
            seen.append(f"late {seconds}")
    await count(1)
    await asyncio.sleep(0.1)
    return [*seen, f"{left:.6f}", f"{loop.time() - began:.1f}"]


@app.pipeline(sla="deep")
async def lasts(steps: int) -> list[Any]:
    """Timers before, around and after the point where its history ends."""
    seen: list[Any] = [current_run().remaining()]
    try:
        await asyncio.wait_for(offramp.signal("never"), 0.1)
    except TimeoutError:
        seen.append("none came")
    nap = asyncio.create_task(asyncio.sleep(2.5, "slept"))
    async with asyncio.timeout(600):
        seen += [await asyncio.wait_for(count(number), 20) for number in range(steps)]
        seen.append(await nap)
    try:
        async with asyncio.timeout(0.1):
            await offramp.signal("never")
    except TimeoutError:
        seen.append("none came")
    return seen[1:] if seen[0] == float("inf") else seen


async def journal_of(runtime, handle):
    return await runtime.service.process.store.journal(handle.id)


def fired(entries):
    """When timers were due and fired, in epoch seconds, by key."""
    dues = {entry.key: msgspec.json.decode(entry.value) for entry in entries if entry.name == DUE}
    return dues, {entry.key: entry.started_at for entry in entries if entry.name == TIMER}


async def test_a_timer_counts_on_in_the_workflow_from_its_start_in_the_gateway(service):
    executed.clear()
    async with service(app) as runtime:
        handle = await runtime.start("moved")
        path, first, second, left, took = await result_of(handle)
        entries = await journal_of(runtime, handle)
        record = await runtime.service.get(handle.id)
    assert (path, first, second) == ("fast", "late 0.1", "late 1.5")
    assert 0 < float(left) <= 0.3, "what was left of its budget is what the body saw first"
    assert float(took) >= 1.6
    assert record.path == "deep"
    dues, times = fired(entries)
    began = next(float(entry.value) for entry in entries if entry.name == "offramp.time")
    assert abs(dues["offramp.timer:timer:3:due"] - (began + 1.5)) < 1e-3
    assert began + 1.5 <= times["offramp.timer:timer:3"] < began + 4.0
    assert executed[1] == 1


async def test_a_timer_goes_on_in_a_new_history(service):
    executed.clear()
    async with service(app) as runtime:
        runtime.worker.engine.history_events_max = 60
        handle = await runtime.start("lasts", steps=25)
        assert await result_of(handle) == ["none came", *range(25), "slept", "none came"]
        entries = await journal_of(runtime, handle)
        replayed = await runtime.service.replay(handle.id)
    dues, times = fired(entries)
    created = entries[0].started_at
    slept = dues["offramp.timer:sleep:0:due"]
    assert 2.5 <= slept - created < 4.5, "it counted anew in the new history"
    assert slept <= times["offramp.timer:sleep:0"] < slept + 3.0
    assert set(executed.values()) == {1}, "a step was executed again in the new history"
    assert (replayed.outcome.error, replayed.executed) == (None, [])


async def test_a_step_in_a_worker_ends_with_the_timer_around_it(service):
    executed.clear()

    async with service(app) as runtime:
        handle = await runtime.start("bounded")
        assert await result_of(handle) == "late"
        await eventually(lambda: ended)
    assert executed["endless"] == 1


ended = []


@app.step(timeout=30)
async def endless() -> None:
    executed["endless"] += 1
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(1)


@app.pipeline(sla="deep")
async def bounded() -> str:
    try:
        async with asyncio.timeout(1.0):
            await endless()
    except TimeoutError:
        return "late"
    return "in time"


@app.step(timeout=20)
async def work(name: str) -> str:
    executed[name] += 1
    return name


@app.step(timeout=20)
async def slow(name: str) -> str:
    await asyncio.Event().wait()
    return name


class Steps:
    """What the cases of the table are given."""

    work, slow = work, slow


async def late(way: Any) -> str:
    try:
        return str(await way(slow("slow")))
    except TimeoutError:
        return "late"


@app.pipeline(sla="now")
async def table() -> list[str]:
    """Every wait that docs/reference/boundary.md says to be journaled, side by side, while the run is demoted."""
    ways = (waits.by_timeout, waits.by_timeout_at, waits.by_wait_for, waits.by_wait, waits.by_as_completed)
    plain = (waits.own_sleep, waits.plain_sleep, waits.gathered, waits.between_branches, waits.in_turn)
    limited = [late(way) for way in (*ways, waits.by_call_later, waits.by_call_at)]
    return list(await asyncio.gather(*limited, *(wait(Steps) for wait in (*plain, waits.a_shared_deadline))))


async def test_what_may_be_waited_for_is_the_same_here(service, monkeypatch):
    executed.clear()
    monkeypatch.setattr(waits, "LONG_S", 0.8)
    monkeypatch.setattr(waits, "SHARED_S", 0.4)
    async with service(app) as runtime:
        handle = await runtime.start("table")
        seen = await result_of(handle)
        record = await runtime.service.get(handle.id)
        replayed = await runtime.service.replay(handle.id)
    assert seen[:7] == ["late"] * 7
    assert seen[7:-2] == ["slept", "slept", "c d a b slept", "a b c"]
    assert sorted(seen[-2].split()) == ["a", "b", "c", "d"]
    assert seen[-1] == "2 late, over: True"
    assert record.path == "deep"
    assert (replayed.outcome.error, replayed.executed) == (None, [])
