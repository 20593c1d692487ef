"""A pipeline that waits for somebody outside gets each signal once, in order, whenever it was sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import offramp
from offramp import App, testing
from offramp.core.ownership import SIGNALS_BYTES_MAX, SIGNALS_MAX
from offramp.errors import DeclarationError, IdempotencyMismatch, OutsideRun, RunConflict, SignalTimeout, UnknownRun
from offramp.paths.live import LiveRun
from offramp.paths.submission import Submission
from tests.paths.waiting import deep, is_parked, parked, started, until
from tests.support import (
    Signal,
    assert_one_log,
    failure_of,
    frames_of,
    log_of,
    member,
    of,
    reach,
    result_of,
    types,
)


def asking(*names, timeout=None):
    """A pipeline that executes a step, waits for these signals one after the other, and executes another step."""
    app, executed = App("asking"), Counter()

    @app.step
    async def before() -> None:
        executed["before"] += 1

    @app.step
    async def after(values: list[Any]) -> list[Any]:
        executed["after"] += 1
        return values

    @app.pipeline
    async def ask() -> list[Any]:
        await before()
        return await after([await offramp.signal(name, timeout=timeout) for name in names])

    return app, executed


async def test_a_signal_on_the_fast_path_needs_no_demotion(place):
    app, executed = asking("approved")
    async with started(app, place) as runtime:
        handle = await runtime.start("ask")
        await reach(handle, "step.completed", "before")
        await handle.signal("approved", {"by": "ada", "sums": [1, 2.5, None]})
        assert await result_of(handle) == [{"by": "ada", "sums": [1, 2.5, None]}]
        assert (await handle.document())["path"] == "fast"
    assert executed == {"before": 1, "after": 1}


async def test_a_signal_is_kept_until_it_is_asked_for(place):
    app, hold = App("early"), Signal()

    @app.step
    async def gate() -> None:
        await hold.wait()

    @app.pipeline
    async def ask() -> list[Any]:
        await gate()
        return [await offramp.signal("a"), await offramp.signal("b"), await offramp.signal("a")]

    async with started(app, place) as runtime:
        handle = await runtime.start("ask")
        await reach(handle, "step.started", "gate")
        for name, value in (("b", 1), ("a", 2), ("other", 0), ("a", 3)):
            await handle.signal(name, value)
        hold.set()
        assert await result_of(handle) == [2, 1, 3]


async def test_signals_of_one_name_come_in_the_order_in_which_they_were_sent(place):
    app, _ = asking(*["n"] * 20)
    async with started(app, place) as runtime:
        handle = await runtime.start("ask")
        await reach(handle, "run.accepted")
        for number in range(20):
            await handle.signal("n", number)
        assert await result_of(handle) == list(range(20))


@pytest.mark.parametrize("path", ["fast", "deep"])
async def test_a_signal_reaches_its_run_while_another_step_is_in_flight(place, path):
    app, hold, got = App("parallel"), Signal(), Signal()

    @app.step
    async def gate() -> str:
        await hold.wait()
        return "open"

    @app.pipeline
    async def listen() -> Any:
        value = await offramp.signal("x")
        got.set()
        return value

    @app.pipeline
    async def ask() -> list[Any]:
        return list(await asyncio.gather(gate(), listen()))

    async with started(app, place) as runtime:
        handle = await runtime.submit(Submission(pipeline="ask", respond_async=path == "deep"))
        await reach(handle, "step.started", "gate")
        await handle.signal("x", 1)
        await got.wait()
        hold.set()
        assert await result_of(handle) == ["open", 1]


async def test_a_signal_sent_before_the_run_is_claimed_does_not_wait_for_a_step_beside_it(tmp_path):
    app, hold, got = App("parallel"), Signal(), Signal()

    @app.step
    async def gate() -> str:
        await hold.wait()
        return "open"

    @app.pipeline
    async def listen() -> Any:
        value = await offramp.signal("x")
        got.set()
        return value

    @app.pipeline
    async def ask() -> list[Any]:
        return list(await asyncio.gather(gate(), listen()))

    async with member(app, tmp_path, "gateway", owner="gateway", poll=0.1) as gateway:
        run = (await gateway.submit(deep("ask"))).record.id
        await gateway.signal(run, "x", b"1")
        async with member(app, tmp_path, "worker", owner="worker", poll=0.1):
            await got.wait()
            hold.set()
            assert_one_log(await frames_of(gateway, run))
        assert (await gateway.get(run)).result == b'["open",1]'


async def test_a_signal_sent_before_the_run_is_claimed_is_there(tmp_path):
    app, executed = asking("x", "x")
    async with member(app, tmp_path, "gateway", owner="gateway", poll=0.1) as gateway:
        run = (await gateway.submit(deep("ask"))).record.id
        for number in (b"1", b"2"):
            await gateway.signal(run, "x", number)
        assert (await gateway.get(run)).status == "queued"
        async with member(app, tmp_path, "worker", owner="worker", poll=0.1):
            await frames_of(gateway, run)
        assert (await gateway.get(run)).result == b"[1,2]"
    assert executed == {"before": 1, "after": 1}


async def test_a_parked_run_goes_on_with_its_signal(place):
    app, executed = asking("x", "y")
    async with started(app, place) as runtime:
        handle = await runtime.submit(deep("ask"))
        for name in ("x", "y"):
            await parked(runtime.service, handle.id)
            document = await handle.document()
            assert (document["status"], document["path"]) == ("running", "deep")
            assert runtime.service.live.get(handle.id) is None
            await handle.signal(name, name)
        assert await result_of(handle) == ["x", "y"]
        frames = await frames_of(runtime.service, handle.id)
    assert_one_log(frames)
    assert executed == {"before": 1, "after": 1}
    assert [frame.type for frame in frames].count("run.resumed") == 2


async def test_a_run_that_waits_at_the_end_of_its_budget_is_demoted_and_parked(place, clock):
    app, executed = asking("x")
    async with started(app, place, clock) as runtime:
        handle = await runtime.start("ask")
        await reach(handle, "step.completed", "before")
        clock.advance(6.0)
        await parked(runtime.service, handle.id, clock=clock)
        assert "run.demoted" in types(await reach(handle, "run.demoted"))
        await handle.signal("x", 1)
        assert await clock.run_until(result_of(handle)) == [1]
    assert executed == {"before": 1, "after": 1}


async def test_no_signal_in_time_raises_at_the_journaled_time(place, clock):
    app = App("late")

    @app.pipeline
    async def ask() -> list[Any]:
        began = offramp.now()
        try:
            return ["came", await offramp.signal("x", timeout=30.0)]
        except TimeoutError as error:  # as one would catch asyncio's
            told = f"{type(error).__name__}: {error}"
            return [told, round((offramp.now() - began).total_seconds())]

    async with started(app, place, clock, lease=600.0) as runtime:
        handle = await runtime.submit(deep("ask"))
        await until(lambda: is_parked(runtime.service, handle.id), clock, 0.005)
        clock.advance(29.5 - clock.monotonic())
        assert await clock.run_until(result_of(handle), 0.005) == ["SignalTimeout: no signal 'x' came within 30 s", 30]
        assert not (await runtime.service.replay(handle.id)).executed


async def test_a_timeout_that_nobody_catches_fails_the_run(place, clock):
    app, _ = asking("x", timeout=1.0)
    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("ask"))
        assert isinstance(await clock.run_until(failure_of(handle)), SignalTimeout)
        assert (await handle.document())["error"]["code"] == "signal-timeout"


async def test_a_signal_after_a_timeout_goes_to_the_next_call(place, clock):
    app, timeouts = App("reminds"), []

    @app.step
    async def remind(number: int) -> None:
        timeouts.append(number)

    @app.pipeline
    async def ask() -> Any:
        for number in range(10):
            try:
                return await offramp.signal("approved", timeout=20.0)
            except SignalTimeout:
                await remind(number)
        return None

    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("ask"))
        await until(lambda: len(timeouts) == 2, clock)
        await parked(runtime.service, handle.id, clock=clock)
        await handle.signal("approved", "at last")
        assert await clock.run_until(result_of(handle)) == "at last"
        replayed = await runtime.service.replay(handle.id)
    assert not replayed.executed
    assert timeouts == [0, 1]


async def test_a_call_that_was_cancelled_takes_no_signal(place, clock):
    app = App("either")

    @app.step
    async def note(text: str) -> str:
        return text

    @app.pipeline
    async def ask() -> list[Any]:
        approved, refused = (asyncio.create_task(offramp.signal(name)) for name in ("approved", "refused"))
        done, open_ = await asyncio.wait([approved, refused], return_when=asyncio.FIRST_COMPLETED)
        for task in open_:
            task.cancel()
        first = [await note("approved" if approved in done else "refused"), *(task.result() for task in done)]
        return [*first, await offramp.signal("refused")]

    async with started(app, place, clock) as runtime:
        handle = await runtime.submit(deep("ask"))
        await parked(runtime.service, handle.id, clock=clock)
        await handle.signal("approved", 1)
        await parked(runtime.service, handle.id, clock=clock)
        await handle.signal("refused", 2)
        assert await clock.run_until(result_of(handle)) == ["approved", 1, 2]


@pytest.mark.parametrize("sent", [1, 2])
async def test_what_a_cancelled_call_was_given_goes_to_another(place, clock, sent, monkeypatch):
    """Two calls wait for x; the first is cancelled in the turn of the loop in which its signal comes."""
    app = App("cancels")

    @app.pipeline
    async def ask() -> list[Any]:
        first, second = (asyncio.create_task(offramp.signal("x")) for _ in range(2))
        await offramp.signal("stop")
        first.cancel()
        values = [await second, await offramp.signal("go")]
        return [*values, *[await offramp.signal("x") for _ in range(sent - 1)]]

    async with started(app, place, clock) as runtime:
        live, looks = runtime.service.live, []
        deliver = LiveRun.deliver

        async def counted(run):
            await deliver(run)
            looks.append(run)

        monkeypatch.setattr(LiveRun, "deliver", counted)
        handle = await runtime.submit(deep("ask"))
        await until(lambda: len(looks) == 3)  # each of its waits looks for existing signals, as it begins
        mailbox = live.get(handle.id).execution.scope.waits.mailbox
        await until(lambda: len(mailbox.waiting) == 2)
        leases = runtime.service.engine.leases
        for name, value in (("stop", b"0"), ("x", b"1"), ("x", b"2"))[: sent + 1]:
            await leases.send_signal(handle.id, name, value, clock.time())  # they arrive together
        runtime.service.deep.notice(handle.id)
        await parked(runtime.service, handle.id, clock=clock)
        await handle.signal("go", 0)
        assert await clock.run_until(result_of(handle)) == [sent, 0, 1][: sent + 1]
        assert not (await runtime.service.replay(handle.id)).executed


async def test_a_branch_goes_on_while_another_still_waits(place):
    app, done = App("branches"), []

    @app.step
    async def work(name: str, number: int) -> None:
        done.append((name, number))

    @app.pipeline
    async def branch(name: str) -> None:
        await offramp.signal(name)
        for number in range(3):
            async with asyncio.TaskGroup() as group:
                group.create_task(work(name, number))

    @app.pipeline
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                group.create_task(branch(name))

    async with started(app, place) as runtime:
        handle = await runtime.submit(deep("both"))
        await parked(runtime.service, handle.id)
        await handle.signal("a")
        await until(lambda: len(done) == 3)
        await handle.signal("b")
        await result_of(handle)
    assert done == [(name, number) for name in "ab" for number in range(3)]


async def test_a_replay_gets_the_same_signals_in_the_same_order():
    app = App("races")

    @app.step
    async def seen(value: Any) -> Any:
        return value

    @app.pipeline
    async def ask() -> list[Any]:
        tasks = [asyncio.create_task(offramp.signal(name)) for name in ("a", "b", "c")]
        return [await seen(await each) for each in asyncio.as_completed(tasks)]

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("ask")
        for name in ("c", "a", "b"):
            await handle.signal(name, name)
        first = await result_of(handle)
        outcome, executed, *_ = await runtime.service.replay(handle.id)
        recorded = (await runtime.service.get(handle.id)).result
    assert sorted(first) == ["a", "b", "c"]
    assert (executed, outcome.result) == ([], recorded)


async def test_a_signal_is_waited_for_in_bodies_only():
    app = App("where")

    @app.step
    async def step() -> None:
        await offramp.signal("x")

    @app.pipeline
    async def inner() -> Any:
        return await offramp.signal("x")

    @app.pipeline
    async def outer(how: str) -> Any:
        if how == "step":
            await step()
        return await (inner() if how == "inner" else offramp.signal(how))

    with pytest.raises(OutsideRun, match="works inside a pipeline"):
        await offramp.signal("x")
    async with testing.runtime(app) as runtime:
        error = await failure_of(await runtime.start("outer", how="step"))
        assert isinstance(error, OutsideRun)
        assert "'step'" in str(error)
        assert isinstance(await failure_of(await runtime.start("outer", how="not a name")), DeclarationError)
        handle = await runtime.start("outer", how="inner")
        await handle.signal("x", 1)
        assert await result_of(handle) == 1


async def test_what_takes_no_signal_says_so(place):
    app, _ = asking("x")
    async with started(app, place) as runtime:
        handle = await runtime.start("ask")
        await reach(handle, "run.accepted")
        await handle.signal("x")
        await result_of(handle)
        with pytest.raises(RunConflict, match="has ended"):
            await handle.signal("x")
        with pytest.raises(UnknownRun):
            await runtime.service.signal("run_" + "0" * 26, "x", b"1")
        with pytest.raises(UnknownRun):
            await runtime.service.signal(handle.id, "x", b"1", tenant="another")


async def test_a_signal_that_is_sent_again_with_its_key_arrives_once(place):
    app, _ = asking("x", "y")
    async with started(app, place) as runtime:
        send = runtime.service.signal
        handle = await runtime.start("ask")
        await reach(handle, "run.accepted")
        for _ in range(3):
            await send(handle.id, "x", b"1", key="a")
        with pytest.raises(IdempotencyMismatch, match="another signal"):
            await send(handle.id, "x", b"2", key="a")
        with pytest.raises(IdempotencyMismatch):
            await send(handle.id, "y", b"1", key="a")
        await send(handle.id, "y", b"2", key="b")
        assert await result_of(handle) == [1, 2]
        # Who did not hear of it may ask after the end: it was taken.
        assert (await send(handle.id, "x", b"1", key="a")).record.status == "completed"
        with pytest.raises(RunConflict, match="has ended"):
            await send(handle.id, "x", b"1", key="c")


async def test_the_signals_of_a_run_are_bounded_in_bytes(place):
    app, _ = asking("x", "done")
    async with started(app, place) as runtime:
        handle = await runtime.start("ask")
        await reach(handle, "run.accepted")
        half = "x" * (SIGNALS_BYTES_MAX // 2 - 2)
        await handle.signal("x", half)
        with pytest.raises(RunConflict, match=f"takes {SIGNALS_BYTES_MAX} in all"):
            await handle.signal("other", half + "y")
        await handle.signal("other", half[:-4])
        await handle.signal("done", 1234)
        assert await result_of(handle) == [half, 1234]


async def test_the_last_signal_that_is_taken_arrives_and_the_next_is_refused(place):
    app = App("many")

    @app.pipeline
    async def ask() -> list[Any]:
        await offramp.signal("begin")
        return [await offramp.signal("x") for _ in range(SIGNALS_MAX - 1)]

    async with started(app, place) as runtime:
        handle = await runtime.submit(deep("ask"))
        await parked(runtime.service, handle.id)
        # Sent at once, so that the run does not begin before the last one is there.
        await asyncio.gather(*(handle.signal("x", number) for number in range(SIGNALS_MAX - 1)))
        await until(lambda: not is_parked(runtime.service, handle.id))
        await handle.signal("begin")
        try:
            with pytest.raises(RunConflict, match=f"was sent {SIGNALS_MAX} signals|has ended"):
                await handle.signal("x")
        finally:
            values = await result_of(handle)
    assert sorted(values) == list(range(SIGNALS_MAX - 1))


async def test_events_of_a_waiting_run_say_what_happened_and_nothing_twice(place):
    app, _ = asking("x")
    async with started(app, place) as runtime:
        handle = await runtime.submit(deep("ask"))
        await parked(runtime.service, handle.id)
        await handle.signal("x", 1)
        await result_of(handle)
        events = await log_of(handle)
    assert types(events) == [
        "run.accepted",
        "step.started",
        "step.completed",
        "wait.started",
        "run.resumed",
        "wait.ended",
        "step.started",
        "step.completed",
        "run.completed",
    ]
    assert of(events, "run.resumed")[0].data["replayed_steps"] == 1
    (begun,), (over,) = of(events, "wait.started"), of(events, "wait.ended")
    assert (begun.data["wait"], begun.data["name"], begun.data["until"]) == ("signal", "x", None)
    assert (over.data["key"], over.data["reason"]) == (begun.data["key"], "received")
