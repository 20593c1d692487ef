"""Plain asyncio timers in a body: they fire once, count from their first start, and end in a replay as they ended."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offramp
from offramp import App, current_run, testing
from offramp.core.journal import TIMER
from offramp.execution.alarm import DEAD_MIN
from offramp.execution.history import History
from offramp.paths.deep import steps_of
from offramp.paths.replay import replay
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.paths.waiting import deep, parked, started, until
from tests.support import Signal, frames_of, log_of, member, reach, result_of, swept, types


class Timed(App):
    """Steps that count how often they are executed, one of which waits to be let go."""

    def __init__(self):
        super().__init__("timed")
        self.executed = Counter()
        self.hold = Signal()

        @self.step
        async def work(name: str) -> str:
            self.executed[name] += 1
            return name

        @self.step
        async def stuck(name: str) -> str:
            self.executed[name] += 1
            await self.hold.wait()
            return name

        self.work, self.stuck = work, stuck


@pytest.fixture
def app():
    return Timed()


@pytest.fixture
def clock():
    return FakeClock()


async def limited(awaitable, seconds):
    async with asyncio.timeout(seconds):
        return await awaitable


async def rescheduled(awaitable, seconds):
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(7200) as limit:
        limit.reschedule(loop.time() + seconds)
        return await awaitable


async def nested(awaitable, seconds):
    async with asyncio.timeout(7200), contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(seconds))
        async with asyncio.timeout(7000):
            return await awaitable


async def raced(awaitable, seconds):
    tasks = [asyncio.ensure_future(awaitable), asyncio.create_task(asyncio.sleep(seconds))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if tasks[0] not in done:
        raise TimeoutError
    return tasks[0].result()


WAYS = {"wait_for": asyncio.wait_for, "reschedule": rescheduled, "nested": nested, "sleep": raced}
"""Those that tests/boundary has not, and one that it has."""


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


async def test_a_timer_obeys_the_clock_that_was_injected(app, way, clock):
    @app.pipeline
    async def pipe() -> str:
        try:
            return await way(app.stuck("slow"), 4.0)
        except TimeoutError:
            return await app.work("instead")

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.started")
        clock.advance(3.5)
        assert app.executed == {"slow": 1}
        assert await clock.run_until(result_of(handle), 0.05) == "instead"
        assert 4.0 <= clock.monotonic() < 5.0
        assert types(await log_of(handle))[-1] == "run.completed"


async def test_a_timer_wakes_a_run_that_is_parked_at_a_signal(app, way, clock):
    @app.pipeline
    async def pipe() -> str:
        await app.work("first")
        try:
            return await way(offramp.signal("never"), 3600.0)
        except TimeoutError:
            return await app.work("instead")

    async with started(app, None, clock) as runtime:
        handle = await runtime.submit(deep("pipe"))
        await parked(runtime.service, handle.id, clock=clock)
        assert await clock.run_until(result_of(handle), 2.0) == "instead"
        assert types(await log_of(handle)).count("run.resumed") == 1
    assert 3600.0 <= clock.monotonic() < 3700.0, "it was waited for more than once"
    assert app.executed == {"first": 1, "instead": 1}


async def slept():
    await offramp.sleep(300.0)


async def unanswered():
    with contextlib.suppress(TimeoutError):
        await offramp.signal("never", timeout=300.0)


@pytest.mark.parametrize("waits", [slept, unanswered])
async def test_a_timer_that_follows_a_wait_of_a_parked_run_counts_from_the_end_of_that_wait(app, waits, clock):
    @app.pipeline
    async def pipe() -> str:
        await app.work("first")
        await waits()
        await asyncio.sleep(60.0)
        async with asyncio.timeout(60.0):
            await asyncio.sleep(30.0)
        return "as long as asked for"

    async with started(app, None, clock) as runtime:
        handle = await runtime.submit(deep("pipe"))
        await parked(runtime.service, handle.id, clock=clock)
        assert await clock.run_until(result_of(handle), 5.0) == "as long as asked for"
    assert clock.monotonic() >= 390.0
    assert app.executed == {"first": 1}


class Prompt(FakeClock):
    """Makes a call that is overdue at once, as the system's clock does."""

    def call_at(self, when, callback):
        timer = super().call_at(when, callback)
        if when <= self.monotonic():
            callback()
            timer.cancel()
        return timer


async def test_a_timer_that_did_not_fire_does_not_fire_in_a_replay(app, way):
    """The worker that goes on has the run long after the timer's time."""
    clock = Prompt()

    async def some():
        return (await asyncio.gather(app.work("quick"), app.work("other"), app.work("another")))[0]

    @app.pipeline
    async def pipe() -> list[str]:
        first = await way(some(), 5.0)
        return [first, await app.stuck("held"), await app.work("last")]

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.started", "stuck")
        clock.advance(7.0)
        await reach(handle, "run.demoted")
        clock.advance(60.0)
        app.hold.set()
        assert await clock.run_until(result_of(handle)) == ["quick", "held", "last"]
    assert app.executed == {"quick": 1, "other": 1, "another": 1, "held": 1, "last": 1}


async def test_a_timer_that_fired_fires_in_a_replay(app, way, clock):
    fired = []

    @app.pipeline(budget=100)
    async def pipe() -> list[str]:
        try:
            first = await way(app.stuck("slow"), 5.0)
        except TimeoutError:
            first = "late"
            fired.append(clock.monotonic())
        return [first, await app.stuck("held"), await app.work("last")]

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.started", "stuck")
        await until(lambda: fired, clock)
        await until(lambda: app.executed["held"])
        clock.advance(100.0)
        await reach(handle, "run.demoted")
        app.hold.set()
        assert await clock.run_until(result_of(handle)) == ["late", "held", "last"]
    assert len(fired) == 2
    assert app.executed == {"slow": 1, "held": 1, "last": 1}


async def test_a_timer_counts_from_its_first_start_over_a_restart(app, way, clock, tmp_path):
    @app.pipeline
    async def pipe() -> str:
        await app.work("first")
        try:
            return await way(app.stuck("slow"), 20.0)
        except TimeoutError:
            return f"{clock.monotonic():.0f}"

    async with member(app, tmp_path, "gateway", owner="gateway", clock=clock, lease=5.0) as gateway:
        async with member(app, tmp_path, "worker", owner="old", clock=clock, drain_timeout=0.0, lease=5.0) as old:
            run = (await gateway.submit(deep("pipe"))).record.id
            await until(lambda: app.executed["slow"])
            clock.advance(1.0)
            await swept(old.live.get(run).execution)
            clock.advance(9.0)
            await gateway.retire("old")
        async with member(app, tmp_path, "worker", owner="new", clock=clock, lease=5.0):
            await until(lambda: app.executed["slow"] == 2)
            await clock.run_until(frames_of(gateway, run), 0.05)
        record = await gateway.get(run)
    assert record.status == "completed", record.error
    assert 20 <= int(record.result.strip(b'"')) < 24


async def test_a_timer_that_is_overdue_ends_what_it_is_around_before_that_begins(app, way, clock, tmp_path):
    @app.pipeline
    async def pipe() -> str:
        await app.work("first")
        try:
            return await way(app.stuck("slow"), 20.0)
        except TimeoutError:
            return "late"

    async with member(app, tmp_path, "gateway", owner="gateway", clock=clock, lease=600.0) as gateway:
        async with member(app, tmp_path, "worker", owner="old", clock=clock, lease=600.0, drain_timeout=0.0) as old:
            run = (await gateway.submit(deep("pipe"))).record.id
            await until(lambda: app.executed["slow"])
            execution = old.live.get(run).execution
            clock.advance(0.25)
            await swept(execution)
            await old.live.get(run).log.durable()
            await gateway.retire("old")
        clock.advance(60.0)
        async with member(app, tmp_path, "worker", owner="new", clock=clock, lease=600.0):
            await clock.run_until(frames_of(gateway, run), 0.05)
        record = await gateway.get(run)
    assert (record.status, record.result) == ("completed", b'"late"')
    assert app.executed["slow"] == 1, "it was begun again, though its time was over"


async def test_a_signal_that_is_there_goes_before_a_timer_that_is_overdue(app, clock, tmp_path):
    """It may have come in time, while no worker was there."""

    @app.pipeline
    async def pipe() -> str:
        try:
            async with asyncio.timeout(20.0):
                return await offramp.signal("go")
        except TimeoutError:
            return "late"

    async with member(app, tmp_path, "gateway", owner="gateway", clock=clock, lease=600.0) as gateway:
        async with member(app, tmp_path, "worker", owner="old", clock=clock, lease=600.0):
            run = (await gateway.submit(deep("pipe"))).record.id
            await parked(gateway, run, clock=clock)
        await gateway.signal(run, "go", b'"came"')
        clock.advance(60.0)
        async with member(app, tmp_path, "worker", owner="new", clock=clock, lease=600.0):
            await clock.run_until(frames_of(gateway, run), 0.05)
        assert (await gateway.get(run)).result == b'"came"'


async def test_what_a_body_sees_of_its_run_is_the_same_in_a_replay(app, clock):
    seen = []

    @app.pipeline(deadline=500.0)
    async def pipe() -> float:
        run = current_run()
        seen.append((run.path, run.remaining(), run.path))
        await app.stuck("held")
        seen.append((run.path, run.remaining(), run.path))
        await app.work("last")
        return run.remaining()

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.started")
        clock.advance(7.0)
        await reach(handle, "run.demoted")
        app.hold.set()
        left = await clock.run_until(result_of(handle))
    assert seen[0] == ("fast", 6.0, "fast")
    assert seen[1:3] == [("deep", pytest.approx(493.0, abs=0.5), "deep"), seen[0]]
    assert seen[3] == seen[1]
    assert left <= 493.0


async def test_what_is_left_of_a_run_without_a_deadline_is_journaled(app):
    @app.pipeline(budget=0)
    async def pipe() -> bool:
        left = current_run().remaining()
        await app.work("step")
        return left == float("inf")

    assert await testing.replays(app, "pipe") is True


async def test_timers_that_do_not_fire_cost_no_write(app, clock):
    @app.pipeline
    async def pipe() -> int:
        for number in range(500):
            async with asyncio.timeout(30.0), asyncio.timeout(3600.0):
                await app.work(str(number))
        return len(app.executed)

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        timers = runtime.service.live.get(handle.id).execution.scope.timers
        assert await result_of(handle) == 500
        names = {entry.name for entry in await runtime.service.process.store.journal(handle.id)}
        assert len(timers.alarm) <= DEAD_MIN * 2 + 2
    assert names == {"work"}


async def test_a_long_limit_around_what_is_not_journaled_does_not_park_the_run(app, clock):
    inside, outcome = Signal(), Signal()

    @app.pipeline
    async def pipe() -> str:
        async with asyncio.timeout(3600.0):
            inside.set()
            await outcome.wait()
            return await app.work("done")

    async with started(app, None, clock) as runtime:
        handle = await runtime.submit(deep("pipe"))
        await inside.wait()
        for _ in range(20):
            clock.advance(0.1)
            await asyncio.sleep(0)
        assert runtime.service.live.get(handle.id).execution.scope.waits.until() is None
        outcome.set()
        assert await clock.run_until(result_of(handle)) == "done"
        assert "run.resumed" not in types(await log_of(handle))


async def test_a_task_that_the_pipeline_left_behind_is_woken(app, clock):
    woken = Signal()

    async def later():
        await asyncio.sleep(30.0)
        woken.set()

    @app.pipeline
    async def pipe() -> None:
        left.append(asyncio.create_task(later()))
        await app.work("step")

    left = []
    async with testing.runtime(app, clock=clock) as runtime:
        await result_of(await runtime.start("pipe"))
        clock.advance(31.0)
        await woken.wait()


async def test_a_journal_from_before_timers_were_recorded_is_gone_on_with(app, clock):
    @app.pipeline(budget=60)
    async def pipe() -> list[str]:
        try:
            async with asyncio.timeout(5.0):
                await app.stuck("slow")
        except TimeoutError:
            await app.work("instead")
        return [await app.work("last")]

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await clock.run_until(result_of(handle), 0.05)
        service = runtime.service
        entries = [entry for entry in await service.process.store.journal(handle.id) if entry.kind == "step"]
        assert [entry.name for entry in entries] == ["work", "work"]
        begun = {step.key: step for step in (await steps_of(service.process.store, handle.id)).values()}
        slow = {key: step for key, step in begun.items() if step.name == "stuck"}
        interrupted = {key: msgspec.structs.replace(step, status="running") for key, step in slow.items()}
        record = await service.get(handle.id)
        replaying = asyncio.create_task(replay(service.process, record, History(entries, interrupted)))
        outcome, executed, *_ = await clock.run_until(replaying, 0.1)
    assert outcome.error is None
    assert outcome.result == b'["last"]'
    assert executed == [TIMER]
    assert app.executed["slow"] == 1


def test_timers_are_the_bodys_on_asyncios_own_loop(monkeypatch):
    """Where uvloop is not installed."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    app, clock = Timed(), FakeClock()

    @app.pipeline
    async def pipe() -> str:
        try:
            return await limited(app.stuck("slow"), 600.0)
        except TimeoutError:
            return await asyncio.sleep(600.0, "late")

    async def main():
        async with testing.runtime(app, clock=clock) as runtime:
            [loop] = runtime.service.process.loops.loops
            assert isinstance(loop.loop, asyncio.SelectorEventLoop)
            assert await clock.run_until(result_of(await runtime.start("pipe")), 1.0) == "late"

    asyncio.run(main())
    assert 1200.0 <= clock.monotonic() < 1220.0


def shapes():
    """Bodies of steps, sleeps, limits and branches, with durations in tenths of seconds."""
    tenths = st.integers(1, 40)
    leaves = st.one_of(st.tuples(st.just("step"), tenths), st.tuples(st.just("sleep"), tenths))

    def around(children):
        some = st.lists(children, min_size=1, max_size=3)
        return st.one_of(
            st.tuples(st.just("turn"), some),
            st.tuples(st.just("gather"), some),
            st.tuples(st.just("timeout"), tenths, children),
            st.tuples(st.just("wait_for"), tenths, children),
        )

    return st.recursive(leaves, around, max_leaves=6)


class Played(App):
    """Plays a shape; `ended` has the steps that were executed to their end."""

    def __init__(self, shape):
        super().__init__("played")
        self.ended = Counter()

        @self.step
        async def work(place: str, seconds: float) -> str:
            await offramp.sleep(seconds)
            self.ended[current_run().idempotency_key] += 1
            return place

        @self.pipeline(budget=60)
        async def pipe() -> str:
            return repr(await self.play(shape, "0"))

        self.work = work

    async def play(self, node, place):
        kind, *rest = node
        if kind in {"turn", "gather"}:
            children = [(child, f"{place}.{number}") for number, child in enumerate(rest[0])]
            if kind == "gather":
                return list(await asyncio.gather(*(self.play(*each) for each in children)))
            return [await self.play(*each) for each in children]
        if kind == "sleep":
            return await asyncio.sleep(rest[0] / 10, f"slept {place}")
        if kind == "step":
            return await self.work(place, rest[0] / 10)
        try:
            if kind == "wait_for":
                return await asyncio.wait_for(self.play(rest[1], f"{place}.0"), rest[0] / 10)
            async with asyncio.timeout(rest[0] / 10):
                return await self.play(rest[1], f"{place}.0")
        except TimeoutError:
            return f"late {place}"


async def played(shape, cut):
    """Play a shape in two workers, the first of which is left after so many tenths of seconds."""
    app, clock = Played(shape), Prompt()
    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.submit(Submission(pipeline="pipe", budget=cut / 10))
        result = await clock.run_until(result_of(handle), 0.05)
        outcome, executed, *_ = await runtime.service.replay(handle.id)
        assert (outcome.error, executed) == (None, [])
        assert outcome.result == msgspec.json.encode(result)
        entries = await runtime.service.process.store.journal(handle.id)
    assert not [key for key, times in app.ended.items() if times > 1], "a step was executed twice"
    fired = [entry.key for entry in entries if entry.name == TIMER]
    assert len(fired) == len(set(fired)), "a timer fired twice"
    return result


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shape=shapes(), cut=st.integers(1, 60))
def test_what_timers_did_is_replayed_wherever_a_run_is_cut(shape, cut):
    asyncio.run(played(shape, cut))
