"""`offramp.cleanup()`: steps after a cancellation or a deadline, bounded, once, wherever the run is."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import msgspec
import pytest

import offramp
from offramp import App, Retry, current_run, testing
from offramp.core.ending import CLEANUP_S_MAX
from offramp.errors import OutsideRun
from offramp.execution import replay
from offramp.execution.ending import STRIKE_S_MAX
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.paths.waiting import is_parked
from tests.support import (
    Signal,
    assert_one_log,
    eventually,
    failure_of,
    frames_of,
    know_each_other,
    log_of,
    member,
    of,
    reach,
    result_of,
    types,
)


class Desk:
    """An app whose steps say that they executed; `held` and `tidying` are at a gate."""

    def __init__(self):
        self.app, self.executed = App("desk"), []
        self.began, self.hold = {}, {}

        @self.app.step
        async def held(name: str) -> str:
            await self._at(name)
            return name

        @self.app.step
        async def tidy(name: str) -> str:
            self.executed.append(name)
            return name

        @self.app.step
        async def tidying(name: str) -> str:
            await self._at(name)
            return name

        self.held, self.tidy, self.tidying = held, tidy, tidying

    async def _at(self, name):
        self.executed.append(name)
        self.begun(name).set()
        await self.gate(name).wait()

    def begun(self, name):
        return self.began.setdefault(name, Signal())

    def gate(self, name):
        return self.hold.setdefault(name, Signal())


@pytest.fixture
def desk():
    return Desk()


async def cancelled(runtime, handle, desk, at="work"):
    await desk.begun(at).wait()
    await handle.cancel()
    return await log_of(handle)


def finished(seen):
    return [event.data["step"] for event in of(seen, "step.completed")]


@pytest.mark.parametrize("budget", [60.0, 0.0])
@pytest.mark.parametrize("how", ["except", "finally"])
async def test_steps_execute_after_a_cancellation_and_the_run_ends_cancelled(desk, how, budget):
    @desk.app.pipeline(budget=budget)
    async def pipe(how: str) -> str:
        if how == "finally":
            try:
                return await desk.held("work")
            finally:
                async with offramp.cleanup():
                    await desk.tidy("one")
                    await desk.tidy("two")
        try:
            return await desk.held("work")
        except asyncio.CancelledError:
            async with offramp.cleanup(timeout=5):
                await desk.tidy("one")
                await desk.tidy("two")
            await desk.tidy("outside")
        finally:
            async with offramp.cleanup():
                await desk.tidy("last")
        return "swallowed"

    async with testing.runtime(desk.app, cancel_grace=600) as runtime:
        handle = await runtime.start("pipe", how=how)
        seen = await cancelled(runtime, handle, desk)
        document = await handle.document()
        outcome, repeated, *_ = await runtime.service.replay(handle.id)
    tidied = ["one", "two", "last"] if how == "except" else ["one", "two"]
    assert desk.executed == ["work", *tidied]
    assert finished(seen) == ["tidy"] * len(tidied)
    assert (types(seen)[-1], document["status"]) == ("run.cancelled", "cancelled")
    assert [step["status"] for step in document["steps"]] == ["cancelled", *["completed"] * len(tidied)]
    assert (outcome.status, repeated) == ("cancelled", [])


@pytest.mark.parametrize("budget", [60.0, 0.0])
async def test_steps_execute_after_the_deadline_and_the_run_ends_expired(desk, budget):
    clock = FakeClock()

    @desk.app.pipeline(budget=budget, deadline=3.0)
    async def pipe() -> str:
        try:
            return await desk.held("work")
        finally:
            async with offramp.cleanup():
                await desk.tidying("one")

    async with testing.runtime(desk.app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("work").wait()
        clock.advance(3.1)
        await desk.begun("one").wait()
        clock.advance(6.0)  # longer than the grace of a run that does not clean up
        assert (await handle.document())["status"] == "running"
        desk.gate("one").set()
        seen = await log_of(handle)
    assert finished(seen) == ["tidying"]
    assert types(seen)[-1] == "run.expired"


async def test_at_its_timeout_its_steps_are_cancelled_and_the_run_ends(desk):
    clock = FakeClock()

    @desk.app.pipeline
    async def pipe() -> str:
        try:
            return await desk.held("work")
        finally:
            async with offramp.cleanup(timeout=7):
                await desk.tidying("one")

    async with testing.runtime(desk.app, clock=clock, cancel_grace=600) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("work").wait()
        await handle.cancel()
        await desk.begun("one").wait()
        clock.advance(6.9)
        await asyncio.sleep(0)
        assert (await handle.document())["status"] == "running"
        clock.advance(0.2)
        seen = await log_of(handle)
    assert finished(seen) == []
    assert types(seen)[-1] == "run.cancelled"
    assert desk.executed == ["work", "one"]


async def test_all_cleanups_of_a_run_share_a_bound(desk):
    clock, rounds = FakeClock(), []

    @desk.app.pipeline
    async def pipe() -> None:
        try:
            await desk.held("work")
        finally:
            while True:
                async with offramp.cleanup(timeout=50):
                    rounds.append(await desk.tidying(f"round {len(rounds)}"))

    async with testing.runtime(desk.app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("work").wait()
        await handle.cancel()
        await desk.begun("round 0").wait()
        clock.advance(40)
        desk.gate("round 0").set()
        await desk.begun("round 1").wait()
        clock.advance(CLEANUP_S_MAX - 40 - 0.1)
        assert (await handle.document())["status"] == "running"
        clock.advance(0.2)
        seen = await log_of(handle)
    assert types(seen)[-1] == "run.cancelled"
    assert rounds == ["round 0"]


async def test_without_an_end_the_block_is_ordinary_code_and_a_replay_finds_its_steps(desk):
    @desk.app.pipeline
    async def pipe() -> list[str]:
        async with offramp.cleanup():
            return [await desk.tidy("one"), await desk.tidy("two")]

    assert await testing.replays(desk.app, "pipe") == ["one", "two"]
    assert desk.executed == ["one", "two"]


async def test_an_end_that_comes_inside_lets_the_block_end_first(desk):
    after = []

    @desk.app.pipeline
    async def pipe() -> None:
        try:
            async with offramp.cleanup():
                await desk.held("work")
                await desk.tidy("inside")
            after.append("went on")
        except asyncio.CancelledError:
            after.append("struck")
            raise

    async with testing.runtime(desk.app) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("work").wait()
        await handle.cancel()
        desk.gate("work").set()
        seen = await log_of(handle)
    assert finished(seen) == ["held", "tidy"]
    assert (after, types(seen)[-1]) == (["struck"], "run.cancelled")


async def test_groups_shields_retries_and_blocks_inside(desk):
    tries, caught = Counter(), []

    @desk.app.step(retry=Retry(attempts=3, base=0.001))
    async def shaky() -> int:
        tries["shaky"] += 1
        if tries["shaky"] < 3:
            raise ValueError("again")
        return tries["shaky"]

    @desk.app.step
    async def fails() -> None:
        raise LookupError("this one")

    @desk.app.step
    def seen_in_a_thread() -> bool:
        return current_run().cancelled

    @desk.app.pipeline
    async def pipe() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.held("other"))
            try:
                await desk.held("work")
            finally:
                async with offramp.cleanup(timeout=1), offramp.cleanup(timeout=50):
                    async with asyncio.TaskGroup() as inner:
                        inner.create_task(shaky())
                        inner.create_task(desk.tidy("in a group"))
                    try:
                        async with asyncio.TaskGroup() as inner:
                            inner.create_task(fails())
                    except* LookupError as error:
                        caught.append(type(error).__name__)
                    await asyncio.shield(desk.tidy("shielded"))
                    caught.append(await seen_in_a_thread())

    async with testing.runtime(desk.app) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("other").wait()
        seen = await cancelled(runtime, handle, desk)
        outcome, repeated, *_ = await runtime.service.replay(handle.id)
    assert caught == ["ExceptionGroup", False] * 2
    assert tries["shaky"] == 3
    assert sorted(finished(seen)) == ["seen_in_a_thread", "shaky", "tidy", "tidy"]
    assert types(seen)[-1] == "run.cancelled"
    assert (outcome.status, repeated) == ("cancelled", [])


async def test_each_branch_may_clean_up(desk):
    @desk.app.pipeline
    async def pipe() -> None:
        async def branch(name: str) -> None:
            try:
                await desk.held(name)
            finally:
                async with offramp.cleanup():
                    await desk.tidy(f"after {name}")

        async with asyncio.TaskGroup() as group:
            for name in ("left", "right"):
                group.create_task(branch(name))

    async with testing.runtime(desk.app) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("left").wait()
        seen = await cancelled(runtime, handle, desk, at="right")
        outcome, repeated, *_ = await runtime.service.replay(handle.id)
    assert (outcome.status, repeated) == ("cancelled", [])
    assert sorted(desk.executed) == ["after left", "after right", "left", "right"]
    assert finished(seen) == ["tidy", "tidy"]


async def test_a_second_wish_changes_nothing(desk):
    @desk.app.pipeline
    async def pipe() -> None:
        try:
            await desk.held("work")
        finally:
            async with offramp.cleanup():
                await desk.tidying("one")
                await desk.tidy("two")

    async with testing.runtime(desk.app) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("work").wait()
        await handle.cancel()
        await desk.begun("one").wait()
        await handle.cancel()
        runtime.service.deep.cancel(handle.id)  # as every renewal of the lease does
        desk.gate("one").set()
        seen = await log_of(handle)
    assert desk.executed == ["work", "one", "two"]
    assert types(seen).count("run.cancelled") == 1


async def test_a_step_that_swallows_the_cancellation_gives_its_result_to_no_body(desk):
    seen_by_body = []

    @desk.app.step
    async def stubborn() -> str:
        desk.begun("work").set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "all the same"
        return ""

    @desk.app.pipeline
    async def pipe() -> None:
        try:
            seen_by_body.append(await stubborn())
        except asyncio.CancelledError:
            seen_by_body.append("cancelled")
            async with offramp.cleanup():
                await desk.tidy("one")

    async with testing.runtime(desk.app) as runtime:
        handle = await runtime.start("pipe")
        seen = await cancelled(runtime, handle, desk)
        outcome, repeated, *_ = await runtime.service.replay(handle.id)
    assert seen_by_body == ["cancelled", "cancelled"]
    assert finished(seen) == ["tidy"]  # what a step returns after a cancellation counts for nothing
    assert (outcome.status, repeated) == ("cancelled", [])


# Where the run is meanwhile.


async def test_a_handoff_executes_no_cleanup_where_the_run_leaves(desk, tmp_path):
    entered = []

    @desk.app.pipeline(budget=60)
    async def pipe() -> str:
        try:
            await desk.held("work")
            return await desk.tidy("then")
        finally:
            async with offramp.cleanup():
                entered.append(threading.current_thread().name)
                await desk.tidy("finally")

    async with member(desk.app, tmp_path, "worker", owner="w") as worker:
        async with member(desk.app, tmp_path, "gateway") as gateway:
            run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
            await desk.begun("work").wait()
            scope = gateway.live.get(run).execution.scope
            draining = asyncio.ensure_future(gateway.drain())
            await eventually(lambda: scope.gate.state == "leaving")
            desk.gate("work").set()
            await draining
        frames = await frames_of(worker, run)
        record = await worker.get(run)
    assert_one_log(frames)
    assert record.status == "completed"
    assert desk.executed == ["work", "then", "finally"]
    assert len(entered) == 1


@pytest.mark.parametrize("role", ["gateway", "worker"])
@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_drain_hands_a_cleanup_over_and_it_goes_on_there(desk, tmp_path, role, end):
    clock = FakeClock()

    @desk.app.pipeline(budget=60 if role == "gateway" else 0, deadline=1000)
    async def pipe() -> None:
        try:
            await desk.tidy("before")
            await desk.held("work")
        except asyncio.CancelledError:
            async with offramp.cleanup():
                await desk.tidy("one")
                await desk.tidying("two")
                await desk.tidy("three")

    async with member(desk.app, tmp_path, role, owner="a", clock=clock) as first:
        run = (await first.submit(Submission(pipeline="pipe"))).record.id
        await desk.begun("work").wait()
        if end == "cancelled":
            await first.cancel(run)
        else:
            clock.advance(1000.1)
        await desk.begun("two").wait()
        scope = first.live.get(run).execution.scope
        draining = asyncio.ensure_future(first.drain())
        await eventually(lambda: scope.gate.state == "leaving")
        async with member(desk.app, tmp_path, "worker", owner="b", clock=clock) as second:
            await know_each_other(first, second)
            desk.gate("two").set()
            await draining
            frames = await frames_of(second, run)
            record = await second.get(run)
    assert_one_log(frames)
    assert record.status == end
    assert desk.executed == ["before", "work", "one", "two", "three"]
    assert [frame.type for frame in frames].count("run.resumed") == 1


@pytest.mark.parametrize("place", ["memory", "sqlite"])
async def test_a_parked_run_is_replayed_to_clean_up(desk, tmp_path, place):
    @desk.app.pipeline(budget=0)
    async def pipe() -> None:
        await desk.tidy("before")
        try:
            await offramp.signal("go")
        except asyncio.CancelledError:
            async with offramp.cleanup():
                await desk.tidy("after")
            raise

    settings = {"data": str(tmp_path)} | ({"store": "memory:"} if place == "memory" else {})
    async with desk.app.local(**settings) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "wait.started")
        await eventually(lambda: is_parked(runtime.service, handle.id))
        await handle.cancel()
        seen = await log_of(handle)
    assert desk.executed == ["before", "after"]
    assert finished(seen) == ["tidy", "tidy"]
    assert types(seen)[-3:] == ["step.started", "step.completed", "run.cancelled"]


async def test_a_parked_run_past_its_deadline_is_replayed_to_clean_up(desk):
    clock = FakeClock()

    @desk.app.pipeline(budget=0, deadline=100)
    async def pipe() -> None:
        try:
            await offramp.signal("go")
        finally:
            async with offramp.cleanup():
                await desk.tidy("after")

    async with testing.runtime(desk.app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "wait.started")
        clock.advance(1)
        await eventually(lambda: is_parked(runtime.service, handle.id))
        seen = await clock.run_until(log_of(handle), step=0.5)  # a cleanup has 60 s, which must not pass in a moment
    assert desk.executed == ["after"]
    assert types(seen)[-1] == "run.expired"


async def test_a_run_whose_body_never_began_has_nothing_to_clean_up(desk, tmp_path):
    @desk.app.pipeline(budget=0)
    async def pipe() -> None:
        try:
            await desk.held("work")
        finally:
            async with offramp.cleanup():
                await desk.tidy("after")

    async with member(desk.app, tmp_path, "gateway") as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        await gateway.cancel(run)
        frames = await frames_of(gateway, run)
    assert [frame.type for frame in frames] == ["run.accepted", "run.cancelled"]
    assert desk.executed == []


async def test_a_run_that_cleans_up_stays_where_it_is_when_its_budget_ends(desk):
    clock = FakeClock()

    @desk.app.pipeline(budget=6)
    async def pipe() -> None:
        try:
            await desk.held("work")
        finally:
            async with offramp.cleanup():
                await desk.tidying("one")

    async with testing.runtime(desk.app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("work").wait()
        await handle.cancel()
        await desk.begun("one").wait()
        clock.advance(7)
        desk.gate("one").set()
        seen = await log_of(handle)
    assert "run.demoted" not in types(seen)
    assert (types(seen)[-1], finished(seen)) == ("run.cancelled", ["tidying"])


async def test_a_cleanup_that_is_taken_up_after_its_time_ends_there(desk, tmp_path):
    clock = FakeClock()

    @desk.app.pipeline(budget=0)
    async def pipe() -> None:
        try:
            await desk.held("work")
        finally:
            async with offramp.cleanup(timeout=20):
                await desk.tidying("one")
                await desk.tidy("two")

    async with member(desk.app, tmp_path, "worker", owner="a", clock=clock) as first:
        run = (await first.submit(Submission(pipeline="pipe"))).record.id
        await desk.begun("work").wait()
        await first.cancel(run)
        await desk.begun("one").wait()
        scope = first.live.get(run).execution.scope
        draining = asyncio.ensure_future(first.drain())
        await eventually(lambda: scope.gate.state == "leaving")
        desk.gate("one").set()
        await draining
    clock.advance(20)
    async with member(desk.app, tmp_path, "worker", owner="b", clock=clock) as second:
        frames = await frames_of(second, run)
    assert_one_log(frames)
    assert frames[-1].type == "run.cancelled"
    assert desk.executed == ["work", "one"]


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_body_that_does_not_let_go_ends_after_the_grace(desk, end):
    clock, let_go = FakeClock(), []

    @desk.app.pipeline(deadline=100)
    async def pipe() -> None:
        try:
            await desk.held("work")
        except asyncio.CancelledError:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                let_go.append(1)

    async with testing.runtime(desk.app, clock=clock, cancel_grace=5.0) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("work").wait()
        if end == "cancelled":
            await handle.cancel()
        else:
            clock.advance(100)
        scope = runtime.service.live.get(handle.id).execution.scope
        await eventually(lambda: scope.gate.ending.struck)
        clock.advance(4.9)
        assert (await handle.document())["status"] == "running"
        assert not let_go
        clock.advance(0.2)
        seen = await log_of(handle)
        await eventually(lambda: let_go)
    assert types(seen)[-1] == f"run.{end}"


async def test_a_run_whose_replay_stands_still_ends_without_cleaning_up(desk):
    clock, stuck = FakeClock(), []

    @desk.app.pipeline(budget=0)
    async def pipe() -> None:
        if stuck:
            stuck.append(1)
            await asyncio.get_running_loop().create_future()
        await desk.tidy("before")
        try:
            await offramp.signal("go")
        finally:
            async with offramp.cleanup():
                await desk.tidy("after")

    async with testing.runtime(desk.app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "wait.started")
        clock.advance(1)
        await eventually(lambda: is_parked(runtime.service, handle.id))
        stuck.append(0)
        await handle.cancel()
        await eventually(lambda: len(stuck) == 2)
        clock.advance(STRIKE_S_MAX - 0.1)
        assert (await handle.document())["status"] == "running"
        clock.advance(0.2)
        seen = await log_of(handle)
    assert types(seen)[-1] == "run.cancelled"
    assert desk.executed == ["before"]


async def test_a_run_whose_pipeline_is_gone_ends_at_once(desk, tmp_path):
    @desk.app.pipeline(budget=0)
    async def pipe() -> None:
        try:
            await offramp.signal("go")
        finally:
            async with offramp.cleanup():
                await desk.tidy("after")

    async with desk.app.local(data=str(tmp_path)) as runtime:
        handle = await runtime.start("pipe")
        await eventually(lambda: is_parked(runtime.service, handle.id))
    async with member(App("other"), tmp_path, "worker") as other:
        await other.cancel(handle.id)
        frames = await frames_of(other, handle.id)
    assert frames[-1].type == "run.cancelled"
    assert desk.executed == []


async def test_a_gateway_leaves_the_cleanup_of_a_parked_run_to_a_worker(desk, tmp_path):
    where = []

    @desk.app.step
    async def says_where() -> None:
        where.append(threading.current_thread().name)

    @desk.app.pipeline(budget=0)
    async def pipe() -> None:
        try:
            await offramp.signal("go")
        finally:
            async with offramp.cleanup():
                await says_where()

    async with member(desk.app, tmp_path, "worker", owner="w") as worker:
        async with member(desk.app, tmp_path, "gateway", owner="g") as gateway:
            run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
            await eventually(lambda: is_parked(gateway, run))
            await gateway.cancel(run)
            frames = await frames_of(gateway, run)
        loop = worker.process.loops.loops[0].name
    resumed = [frame for frame in frames if frame.type == "run.resumed"]
    assert [msgspec.json.decode(frame.data)["worker"] for frame in resumed] == ["w"]
    assert (where, frames[-1].type) == ([loop], "run.cancelled")


async def test_a_shielded_step_can_be_waited_for(desk):
    got = []

    @desk.app.pipeline
    async def pipe() -> None:
        working = asyncio.ensure_future(desk.held("work"))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            async with offramp.cleanup():
                await desk.tidy("meanwhile")
                got.append(await working)
            raise

    async with testing.runtime(desk.app) as runtime:
        handle = await runtime.start("pipe")
        await desk.begun("work").wait()
        await handle.cancel()
        await eventually(lambda: "meanwhile" in desk.executed)
        desk.gate("work").set()
        seen = await log_of(handle)
        outcome, repeated, *_ = await runtime.service.replay(handle.id)
    assert got == ["work"] * 2
    assert finished(seen) == ["tidy", "held"]
    assert (outcome.status, repeated) == ("cancelled", [])


async def test_a_body_that_fails_while_it_cleans_up_is_told_of(desk, caplog):
    @desk.app.pipeline
    async def pipe() -> None:
        try:
            await desk.held("work")
        finally:
            async with offramp.cleanup():
                raise LookupError("a mistake in the body, which may hold anything")

    with caplog.at_level("WARNING", "offramp"):
        async with testing.runtime(desk.app) as runtime:
            handle = await runtime.start("pipe")
            seen = await cancelled(runtime, handle, desk)
    assert types(seen)[-1] == "run.cancelled"
    assert [record.getMessage() for record in caplog.records if "clean" in record.getMessage()] == [
        f"{handle.id}: its body raised LookupError after it was cancelled; it may not have cleaned up"
    ]


async def test_code_that_does_not_fit_a_cleanup_under_way_is_told_of(desk, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.2)
    changed = []

    @desk.app.pipeline(budget=0)
    async def pipe() -> None:
        try:
            await desk.held("work")
        finally:
            async with offramp.cleanup():
                await desk.tidy("other" if changed else "one")
                await desk.tidying("two")
                await desk.tidy("three")

    async with member(desk.app, tmp_path, "worker", owner="a") as first:
        run = (await first.submit(Submission(pipeline="pipe"))).record.id
        await desk.begun("work").wait()
        await first.cancel(run)
        await desk.begun("two").wait()
        executing = first.live.get(run).execution.scope
        draining = asyncio.ensure_future(first.drain())
        await eventually(lambda: executing.gate.state == "leaving")
        desk.gate("two").set()
        await draining
        changed.append(1)
        verdicts = [verdict.problem async for verdict in first.check()]
    async with member(desk.app, tmp_path, "worker", owner="b") as second:
        frames = await frames_of(second, run)
    assert frames[-1].type == "run.cancelled"
    assert desk.executed == ["work", "one", "two"]
    assert [record.getMessage() for record in caplog.records if "clean" in record.getMessage()] == [
        f"{run}: its body no longer fits its journal after it was cancelled; it may not have cleaned up"
    ]
    assert len(verdicts) == 1
    assert "'tidy'" in verdicts[0]


# What it refuses.


async def test_in_a_step_it_says_what_to_use(desk):
    @desk.app.step
    async def inner() -> None:
        async with offramp.cleanup():
            pass

    @desk.app.pipeline
    async def pipe() -> None:
        await inner()

    async with testing.runtime(desk.app) as runtime:
        error = await failure_of(await runtime.start("pipe"))
    assert isinstance(error, OutsideRun)
    assert "'inner'" in str(error)
    assert "try and finally" in str(error)


async def test_outside_a_run_it_does_nothing():
    async with offramp.cleanup():
        pass


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), CLEANUP_S_MAX + 0.001])
def test_its_timeout_is_bounded(timeout):
    with pytest.raises(ValueError, match="at most 60 seconds"):
        offramp.cleanup(timeout=timeout)


async def test_a_cancelled_run_with_a_cleanup_can_be_replayed(desk):
    @desk.app.pipeline
    async def pipe() -> str:
        await desk.tidy("before")
        try:
            return await desk.held("work")
        except asyncio.CancelledError:
            at = offramp.now()
            async with offramp.cleanup():
                await desk.tidy(at.isoformat())
            raise

    async with testing.runtime(desk.app) as runtime:
        handle = await runtime.start("pipe")
        await cancelled(runtime, handle, desk)
        outcome, repeated, *_ = await runtime.service.replay(handle.id)
    assert (outcome.status, repeated) == ("cancelled", [])
    assert len(desk.executed) == 3


async def test_a_completed_run_is_not_touched_by_any_of_it(desk):
    @desk.app.pipeline
    async def pipe() -> str:
        try:
            return await desk.tidy("one")
        finally:
            async with offramp.cleanup():
                await desk.tidy("two")

    async with testing.runtime(desk.app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "one"
        entries = await runtime.service.process.store.journal(handle.id)
    assert [entry.name for entry in entries] == ["tidy", "tidy"]
