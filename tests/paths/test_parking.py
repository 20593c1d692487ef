"""A run that only waits costs no worker, wakes by what it waits for, and can be ended meanwhile."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from typing import Any

import msgspec
import pytest

import offramp
from offramp import SLA, App, Retry
from offramp.core import moving
from offramp.execution.turns import SETTLE_TURNS
from offramp.paths.demote import PARK_AFTER_S
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.paths.waiting import deep, is_parked, parked, started, until
from tests.support import (
    GUARD_S,
    Signal,
    assert_one_log,
    eventually,
    frames_of,
    know_each_other,
    log_of,
    member,
    reach,
    result_of,
    types,
)


def waiting(**pipeline):
    app, executed = App("waiting"), Counter()

    @app.step
    async def work(text: str) -> str:
        executed[text] += 1
        return text

    @app.pipeline(**pipeline)
    async def ask(number: int) -> str:
        await work(f"before {number}")
        value = await offramp.signal("go")
        return await work(f"after {number} {value}")

    @app.pipeline
    async def short() -> str:
        return await work("short")

    return app, executed


async def live(service, run_id):
    await until(lambda: service.live.get(run_id) is not None)
    return service.live.get(run_id)


def numbered(number):
    return deep("ask", input=msgspec.json.encode({"number": number}))


async def test_parked_runs_hold_no_place_of_a_worker(place):
    app, executed = waiting()
    async with started(app, place, worker_runs=2) as runtime:
        handles = [await runtime.submit(numbered(number)) for number in range(50)]
        await parked(runtime.service, *(handle.id for handle in handles))
        assert runtime.service.live.all() == []
        assert await result_of(await runtime.submit(deep("short"))) == "short"
        for handle in reversed(handles):
            await handle.signal("go", 1)
        results = [await result_of(handle) for handle in handles]
    assert results == [f"after {number} 1" for number in range(50)]
    assert set(executed.values()) == {1}


async def test_the_journal_of_a_run_that_is_taken_up_again_is_read_for_its_moves_only_when_they_are_asked_for(
    place, monkeypatch
):
    asked, earlier = [], moving.earlier
    monkeypatch.setattr(moving, "earlier", lambda *given: asked.append(given) or earlier(*given))
    app, _ = waiting()

    @app.pipeline
    async def twice() -> int:
        return await offramp.signal("one") + await offramp.signal("two")

    async with started(app, place) as runtime:
        handle = await runtime.submit(deep("twice"))
        await parked(runtime.service, handle.id)
        await handle.signal("one", 1)
        async with asyncio.timeout(GUARD_S):
            async for event in handle.events():
                if event.type == "wait.started" and event.data["name"] == "two":
                    break
        await parked(runtime.service, handle.id)
        assert asked == []
        await handle.signal("two", 2)
        assert await result_of(handle) == 3
        await eventually(lambda: len(asked) == 1)


async def test_a_parked_run_can_be_cancelled(place):
    app, executed = waiting()
    async with started(app, place) as runtime:
        handle = await runtime.submit(numbered(1))
        await parked(runtime.service, handle.id)
        await handle.cancel()
        frames = await frames_of(runtime.service, handle.id)
        document = await handle.document()
    assert_one_log(frames)
    assert frames[-1].type == "run.cancelled"
    assert (document["status"], document["error"]["code"]) == ("cancelled", "cancelled")
    assert executed == {"before 1": 1}


async def test_a_queued_run_can_be_cancelled(tmp_path):
    app, executed = waiting()
    async with member(app, tmp_path, "gateway", owner="gateway", poll=0.1) as gateway:
        run = (await gateway.submit(numbered(1))).record.id
        await gateway.cancel(run)
        frames = await frames_of(gateway, run)
    assert [frame.type for frame in frames] == ["run.accepted", "run.cancelled"]
    assert not executed


async def test_a_run_that_ends_as_it_is_claimed_makes_room_for_the_next(tmp_path, clock):
    """The clock stands still, so that no poll finds the next one."""
    app, executed = waiting()
    async with member(app, tmp_path, "gateway", owner="gateway", clock=clock) as gateway:
        first = (await gateway.submit(deep("short"))).record.id
        clock.advance(1.0)  # so that it is claimed first
        second = (await gateway.submit(deep("short"))).record.id
        await gateway.engine.leases.request_cancel(first)  # by a process that died before it did more
        async with member(app, tmp_path, "worker", owner="worker", clock=clock, worker_runs=1):
            await frames_of(gateway, first)
            await frames_of(gateway, second)
        ends = [(await gateway.get(run)).status for run in (first, second)]
    assert (ends, executed) == (["cancelled", "completed"], {"short": 1})


async def test_a_parked_run_ends_at_its_deadline(place, clock):
    app, executed = waiting(deadline=60.0)
    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(numbered(1))
        await parked(runtime.service, handle.id, clock=clock)
        frames = await clock.run_until(frames_of(runtime.service, handle.id), 0.05)
        record = await runtime.service.get(handle.id)
    assert_one_log(frames)
    assert (record.status, record.error.code) == ("expired", "deadline")
    assert 60.0 <= record.finished_at - record.created_at < 65.0
    assert executed == {"before 1": 1}


async def test_a_queued_run_ends_at_its_deadline_without_a_worker(tmp_path, clock):
    app, executed = waiting(deadline=30.0)
    async with member(app, tmp_path, "gateway", owner="gateway", clock=clock) as gateway:
        run = (await gateway.submit(numbered(1))).record.id
        frames = await clock.run_until(frames_of(gateway, run), 0.05)
        record = await gateway.get(run)
    assert [frame.type for frame in frames] == ["run.accepted", "run.expired"]
    # Looked for at each renewal of the lease, which takes ten seconds.
    assert 30.0 <= record.finished_at - record.created_at < 40.0
    assert not executed


async def test_a_queued_run_behind_waiting_work_ends_at_its_deadline(place, clock):
    app, hold = App("full"), Signal()

    @app.step
    async def gate() -> None:
        await hold.wait()

    @app.pipeline(deadline=20.0)
    async def pipe() -> None:
        await gate()

    @app.pipeline
    async def occupied() -> None:
        await gate()

    async with started(app, place, clock, worker_runs=1) as runtime:
        first = await runtime.submit(deep("occupied"))
        await reach(first, "step.started")
        second = await runtime.submit(deep("pipe"))
        frames = await clock.run_until(frames_of(runtime.service, second.id), 0.5)
        hold.set()
        await clock.run_until(result_of(first))
    assert [frame.type for frame in frames] == ["run.accepted", "run.expired"]


async def test_a_long_sleep_is_parked_and_goes_on_in_time(place, clock):
    app, executed = App("sleeps"), []

    @app.step
    async def note(text: str) -> float:
        executed.append(text)
        return clock.time()

    @app.pipeline
    async def nap() -> float:
        began = await note("began")
        await offramp.sleep(600.0)
        return await note("ended") - began

    async with started(app, place, clock, worker_runs=1, lease=600.0) as runtime:
        handle = await runtime.submit(deep("nap"))
        await parked(runtime.service, handle.id, clock=clock)
        assert runtime.service.live.all() == []
        clock.advance(590.0)
        assert 600.0 <= await clock.run_until(result_of(handle), 0.02) < 603.0
        assert (await handle.document())["status"] == "completed"
    assert executed == ["began", "ended"]


async def test_a_short_sleep_is_not_parked(place, clock):
    app = App("sleeps")

    @app.pipeline
    async def nap() -> None:
        await offramp.sleep(4.0)

    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("nap"))
        await clock.run_until(result_of(handle))
        assert types(await log_of(handle)) == ["run.accepted", "wait.started", "wait.ended", "run.completed"]


async def test_what_still_waits_is_parked_when_what_ended_beside_it_was_a_sleep(place, clock):
    app = App("sleeps")

    @app.pipeline
    async def both() -> list[Any]:
        return list(await asyncio.gather(offramp.signal("go"), offramp.sleep(2.0)))

    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("both"))
        await parked(runtime.service, handle.id, clock=clock)
        await handle.signal("go", 1)
        assert await clock.run_until(result_of(handle)) == [1, None]


async def test_the_delay_of_a_retry_is_parked_and_is_no_attempt(place, clock):
    app, attempts = App("retries"), []

    @app.step(retry=Retry(attempts=2, base=100.0, cap=100.0))
    async def flaky() -> int:
        attempts.append(offramp.current_run().attempt)
        if len(attempts) == 1:
            raise ValueError("not yet")
        return len(attempts)

    @app.pipeline
    async def pipe() -> int:
        return await flaky()

    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("pipe"))
        await parked(runtime.service, handle.id, clock=clock)
        assert await clock.run_until(result_of(handle), 0.5) == 2
        assert [step["attempts"] for step in (await handle.document())["steps"]] == [2]
    assert attempts == [1, 2]


async def test_a_run_is_not_parked_while_a_step_is_in_flight(place, clock):
    app, hold = App("busy"), Signal()

    @app.step
    async def gate() -> str:
        await hold.wait()
        return "open"

    @app.pipeline
    async def both() -> list[Any]:
        return list(await asyncio.gather(gate(), offramp.signal("go")))

    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("both"))
        await reach(handle, "step.started")
        for _ in range(20):
            clock.advance(1.0)
            await asyncio.sleep(0)
        assert not is_parked(runtime.service, handle.id)
        hold.set()
        await parked(runtime.service, handle.id, clock=clock)
        await handle.signal("go", 1)
        assert await clock.run_until(result_of(handle)) == ["open", 1]


async def test_what_a_stopping_process_had_waiting_goes_on_in_another(tmp_path):
    app, executed = waiting()
    async with member(app, tmp_path, "gateway", owner="gateway", poll=0.1) as gateway:
        async with member(app, tmp_path, "worker", owner="first", poll=0.1):
            runs = [(await gateway.submit(numbered(number))).record.id for number in range(5)]
            await until(lambda: len(executed) == 5)
        for run in runs:
            assert (await gateway.get(run)).status in {"running", "queued"}
            await gateway.signal(run, "go", b"1")
        async with member(app, tmp_path, "worker", owner="second", poll=0.1):
            for run in runs:
                assert_one_log(await frames_of(gateway, run))
    assert set(executed.values()) == {1}
    assert len(executed) == 10


@pytest.mark.parametrize("path", ["fast", "deep"])
async def test_a_run_that_waits_is_parked_at_once_when_its_process_stops(tmp_path, clock, path):
    """The clock stands still: neither the moment that a body gets at a handoff nor the drain's end is waited for."""
    app, executed = waiting()
    role = "worker" if path == "deep" else "gateway"
    async with member(app, tmp_path, "gateway", owner="other", clock=clock) as other:
        stopping = member(app, tmp_path, role, owner="stopping", clock=clock, drain_timeout=10 * GUARD_S)
        async with asyncio.timeout(GUARD_S), stopping as leaving:
            await know_each_other(other, leaving)
            taker = other if path == "deep" else leaving
            asked = Submission(pipeline="ask", input=b'{"number":1}', respond_async=path == "deep")
            run = (await taker.submit(asked)).record.id
            scope = (await live(leaving, run)).execution.scope
            await until(lambda: scope.waits.until() is not None)
        assert is_parked(other, run)
        await other.signal(run, "go", b"1")
        async with member(app, tmp_path, "worker", owner="next", clock=clock):
            await frames_of(other, run)
        assert (await other.get(run)).result == b'"after 1 1"'
    assert executed == {"before 1": 1, "after 1 1": 1}


@pytest.mark.parametrize("seed", range(3))
async def test_no_signal_is_lost_whenever_it_is_sent(place, seed):
    """Runs that wait, park, wake and wait again, while their signals come at random moments."""
    app, rng, executed = App("hammer", classes=[SLA("now", budget=0.05)]), random.Random(seed), Counter()

    @app.step
    async def work(run: int, number: int, value: int) -> int:
        executed[run, number] += 1
        return value

    @app.pipeline(sla="now")
    async def pipe(run: int, count: int) -> list[int]:
        return [await work(run, number, await offramp.signal("n")) for number in range(count)]

    async def drive(runtime, run, moments):
        fast = rng.random() < 0.5
        submission = Submission(
            pipeline="pipe",
            input=msgspec.json.encode({"run": run, "count": len(moments)}),
            respond_async=not fast,
        )
        handle = await runtime.submit(submission)
        await reach(handle, "run.accepted")
        for number, moment in enumerate(moments):
            # Around PARK_AFTER_S, where looking and parking race with the signal.
            await asyncio.sleep(moment)
            await handle.signal("n", number)
        return await result_of(handle)

    async with started(app, place, worker_runs=5) as runtime:
        plans = [[rng.choice((0.0, 0.005, rng.uniform(0.09, 0.13))) for _ in range(6)] for _ in range(40)]
        results = await asyncio.gather(*(drive(runtime, run, plan) for run, plan in enumerate(plans)))
        await eventually(lambda: not runtime.service.live.all())
    assert results == [list(range(6))] * 40
    assert set(executed.values()) == {1}


class Hasty(FakeClock):
    """Makes a short timed call in the middle of asking for it, and lets the control loop do what follows from that."""

    def __init__(self):
        super().__init__()
        self.control = None

    def call_at(self, when, callback):
        timer = super().call_at(when, callback)
        if self.control is not None and when <= self.monotonic() + PARK_AFTER_S:
            callback()
            done = threading.Event()
            self.control.call(done.set)
            assert done.wait(GUARD_S)
        return timer


async def test_a_run_is_not_parked_while_it_takes_a_signal_that_came_early():
    app, hold, clock = App("early"), Signal(), Hasty()

    @app.step
    async def gate() -> None:
        await hold.wait()

    @app.pipeline
    async def ask() -> list[Any]:
        await gate()
        return [await offramp.signal("x"), await offramp.signal("x")]

    async with started(app, None, clock) as runtime:
        handle = await runtime.submit(deep("ask"))
        await reach(handle, "step.started")
        scope = (await live(runtime.service, handle.id)).execution.scope
        for number in (1, 2):
            await handle.signal("x", number)
        await until(lambda: scope.waits.mailbox.seen == 2)
        clock.control = runtime.service.process.control
        hold.set()
        assert await clock.run_until(result_of(handle)) == [1, 2]


@pytest.mark.parametrize("turns", [0, SETTLE_TURNS - 2])
async def test_a_run_is_not_parked_between_a_signal_and_what_it_starts(clock, turns):
    app, executed = App("branches"), []

    @app.step
    async def work(name: str) -> str:
        executed.append(name)
        return name

    @app.pipeline
    async def branch(name: str) -> str:
        await offramp.signal(name)
        for _ in range(turns):
            await asyncio.sleep(0)
        return await work(name)

    @app.pipeline
    async def both() -> list[str]:
        return list(await asyncio.gather(branch("a"), branch("b")))

    async with started(app, None, clock) as runtime:
        handle = await runtime.submit(deep("both"))
        run = await live(runtime.service, handle.id)
        scope = run.execution.scope
        await until(lambda: len(scope.waits.mailbox.waiting) == 2)
        await runtime.service.process.store.send_signal(handle.id, "a", b"1", clock.time())

        def look():  # on the run's loop, in one turn
            scope.waits.mailbox.put([("a", b"1")])
            scope.move_at_rest("park", clock.time(), lambda: executed.append("parked"))

        run.execution.call(look)
        await until(lambda: executed)
        assert executed == ["a"]
        await handle.signal("b")
        assert await clock.run_until(result_of(handle)) == ["a", "b"]


@pytest.mark.parametrize("seed", range(3))
async def test_no_cancellation_is_lost_to_the_parking(tmp_path, seed):
    app, executed = waiting()
    rng = random.Random(seed)

    async def drive(gateway, number):
        run = (await gateway.submit(numbered(number))).record.id
        await asyncio.sleep(rng.uniform(0.08, 0.14))
        await gateway.cancel(run)
        return (await frames_of(gateway, run))[-1].type

    async with (
        member(app, tmp_path, "gateway", owner="gateway") as gateway,
        member(app, tmp_path, "worker", owner="worker"),
    ):
        ends = await asyncio.gather(*(drive(gateway, number) for number in range(60)))
    assert ends == ["run.cancelled"] * 60
    assert not any(text.startswith("after") for text in executed)
