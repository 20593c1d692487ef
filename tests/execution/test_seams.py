"""What is before and around the attempts of a step, where they are made by the embedded engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

import offramp
from offramp import App
from offramp.core.attempts import Failed
from offramp.errors import RunCancelled
from offramp.paths.local import LocalRuntime
from offramp.ports.seams import Postpone, Seams
from offramp.testing import FakeClock
from tests import seams as toys
from tests.support import failure_of, frames_of, log_of, member, of, reach, result_of, types


@contextlib.asynccontextmanager
async def opened(folder, *, before=(), around=(), app=toys.app, **settings):
    given = Seams(tuple(before), tuple(around))
    async with member(app, folder, "local", seams=given, processes=1, **settings) as service:
        yield LocalRuntime(service)


@pytest.mark.parametrize("lane", toys.LANES)
@pytest.mark.parametrize("pipeline", ["fast", "deep"])
async def test_a_step_begins_when_there_is_a_permit_for_it(tmp_path, caplog, lane, pipeline):
    caplog.set_level(logging.INFO, "offramp")
    limiter = toys.Limiter()
    async with opened(tmp_path, before=[limiter]) as runtime:
        handle = await runtime.start(pipeline, lane=lane)
        await limiter.waits.wait()
        document = await handle.document()
        assert (document["status"], document["steps"]) == ("running", [])
        assert f"{handle.id}: step {lane!r} waits for a permit" in caplog.messages
        limiter.grant()
        assert await result_of(handle) == "1 None"
        seen = await log_of(handle)
    assert [asked.number for asked in limiter.asked] == [1]
    assert (limiter.asked[0].run_id, limiter.asked[0].step) == (handle.id, lane)
    assert len(of(seen, "step.started")) == 1
    assert limiter.free == 1


@pytest.mark.parametrize("lane", toys.LANES)
async def test_each_attempt_is_admitted_and_gives_its_permit_back(tmp_path, lane):
    limiter = toys.Limiter(permits=1)
    async with opened(tmp_path, before=[limiter]) as runtime:
        assert await result_of(await runtime.start("fast", lane=lane, fails=2)) == "3 None"
    assert [asked.number for asked in limiter.asked] == [1, 2, 3]
    assert limiter.free == 1


@pytest.mark.parametrize("lane", toys.LANES)
async def test_a_demotion_takes_a_step_along_that_waits(tmp_path, lane):
    full, free = toys.Limiter(), toys.Limiter(permits=1)
    async with (
        member(toys.app, tmp_path, "worker", owner="w", seams=Seams((free,)), processes=1) as worker,
        member(toys.app, tmp_path, "gateway", owner="g", seams=Seams((full,)), processes=1) as gateway,
    ):
        handle = await LocalRuntime(gateway).start("fast", lane=lane)
        await full.waits.wait()
        await gateway.drain()
        await full.gave_up.wait()
        frames = await frames_of(worker, handle.id)
        record = await worker.get(handle.id)
    assert record.result == b'"1 None"'
    assert [frame.type for frame in frames if frame.type != "run.resumed"] == [
        "run.accepted",
        "run.demoted",
        "step.started",
        "step.completed",
        "run.completed",
    ]
    assert (full.given_up, full.free, free.free) == (1, 0, 1)


@pytest.mark.parametrize("pipeline", ["fast", "deep"])
async def test_a_cancellation_gives_the_wait_up(tmp_path, pipeline):
    limiter = toys.Limiter()
    async with opened(tmp_path, before=[limiter]) as runtime:
        handle = await runtime.start(pipeline, lane="thread")
        await limiter.waits.wait()
        await handle.cancel()
        assert isinstance(await failure_of(handle), RunCancelled)
        seen = await log_of(handle)
    assert (limiter.given_up, limiter.free) == (1, 0)
    assert not of(seen, "step.started")


async def test_a_run_is_not_at_rest_while_a_step_of_it_waits_for_a_permit(tmp_path):
    app, clock, limiter = App("branches"), FakeClock(), toys.Limiter()

    @app.step
    async def works() -> int:
        return 1

    @app.pipeline(budget=60)
    async def branches() -> int:
        done, _ = await asyncio.gather(works(), offramp.sleep(1_000.0))
        return done

    async with opened(tmp_path, before=[limiter], app=app, clock=clock) as runtime:
        handle = await runtime.start("branches")
        await limiter.waits.wait()
        await reach(handle, "wait.started")
        limiter.grant()
        await reach(handle, "step.completed")
        assert await clock.run_until(handle.result(), 20.0) == 1
        seen = types(await log_of(handle))
    assert len(limiter.asked) == 1
    assert seen.index("step.completed") < seen.index("run.demoted")


class Later:
    """Puts the first attempt off."""

    def __init__(self, clock, seconds):
        self._clock = clock
        self._seconds = seconds
        self.asked = []

    async def admit(self, asked, _says):
        self.asked.append(asked.number)
        if len(self.asked) == 1:
            raise Postpone(self._clock.time() + self._seconds)
        return lambda: None


async def test_an_attempt_that_is_put_off_is_none(tmp_path):
    clock = FakeClock()
    later = Later(clock, 5.0)
    async with opened(tmp_path, before=[later], clock=clock) as runtime:
        handle = await runtime.start("fast", lane="loop")
        assert await clock.run_until(handle.result()) == "1 None"
        seen = await log_of(handle)
    assert later.asked == [1, 1]
    assert len(of(seen, "step.started")) == 1
    assert not of(seen, "step.retrying")
    assert not of(seen, "run.demoted")


async def test_a_run_whose_step_is_put_off_beyond_its_budget_is_demoted(tmp_path):
    clock = FakeClock()
    later = Later(clock, 90.0)
    async with opened(tmp_path, before=[later], clock=clock) as runtime:
        handle = await runtime.start("fast", lane="loop")
        assert await clock.run_until(handle.result(), 1.0) == "1 None"
        [demoted] = of(await log_of(handle), "run.demoted")
    assert demoted.data["reason"] == "predicted"


async def test_what_is_raised_before_fails_the_attempt(tmp_path):
    class Full:
        async def admit(self, asked, _says):
            if asked.number < 3:
                raise RuntimeError("the queue is full")
            return lambda: None

    async with opened(tmp_path, before=[Full()]) as runtime:
        handle = await runtime.start("fast", lane="thread")
        assert await result_of(handle) == "3 None"
        seen = await log_of(handle)
    assert [event.data["error"]["message"] for event in of(seen, "step.retrying")] == [
        "RuntimeError: the queue is full"
    ] * 2


@pytest.mark.parametrize("lane", toys.LANES)
async def test_a_breaker_sees_the_earlier_attempts_and_picks_a_target_that_the_code_sees(tmp_path, lane):
    breaker = toys.Breaker(toys.BACKUP)
    async with opened(tmp_path, around=[breaker]) as runtime:
        handle = await runtime.start("fast", lane=lane, fails=2)
        assert await result_of(handle) == f"3 {toys.BACKUP}"
    earlier = [[(failed.number, failed.message) for failed in asked.earlier] for asked in breaker.asked]
    first, second = (1, "ValueError: attempt 1 failed"), (2, "ValueError: attempt 2 failed")
    assert earlier == [[], [first], [first, second]]


@pytest.mark.parametrize("lane", toys.LANES)
async def test_a_breaker_refuses(tmp_path, lane):
    breaker = toys.Breaker()
    async with opened(tmp_path, around=[breaker]) as runtime:
        handle = await runtime.start("fast", lane=lane, fails=9)
        error = await failure_of(handle)
        seen = await log_of(handle)
    assert isinstance(error, toys.CircuitOpen)
    assert of(seen, "step.failed")[0].data["attempt"] == 3


@pytest.mark.parametrize("lane", toys.LANES)
async def test_another_target_within_one_attempt(tmp_path, lane):
    class Failover:
        async def around(self, _asked, run):
            outcome = await run()
            return await run(toys.BACKUP) if isinstance(outcome, Failed) else outcome

    class FailsOnce:
        """Where the code would succeed, the first outcome is a failure."""

        async def around(self, asked, run):
            outcome = await run()
            return Failed(ValueError("no")) if asked.target is None else outcome

    async with opened(tmp_path, around=[Failover(), FailsOnce()]) as runtime:
        handle = await runtime.start("fast", lane=lane)
        assert await result_of(handle) == f"1 {toys.BACKUP}"
        seen = await log_of(handle)
    assert types(seen).count("step.started") == types(seen).count("step.completed") == 1


async def test_the_failed_attempts_of_another_process_are_seen(tmp_path):
    app, breaker = App("moves"), toys.Breaker()

    @app.step(retry=toys.Retry(attempts=2, base=1000.0, cap=1000.0))
    async def fragile() -> int:
        number = toys.current_run().attempt
        if number == 1:
            raise ValueError("once")
        return number

    @app.pipeline(budget=60)
    async def moves() -> int:
        return await fragile()

    clock = FakeClock()
    async with (
        member(app, tmp_path, "worker", owner="w", seams=Seams((), (breaker,)), clock=clock),
        member(app, tmp_path, "gateway", owner="g", clock=clock) as gateway,
    ):
        handle = await LocalRuntime(gateway).start("moves")
        assert await clock.run_until(handle.result(), 5.0) == 2
        seen = await log_of(handle)
    [asked] = breaker.asked
    assert [(failed.number, failed.message) for failed in asked.earlier] == [(1, "ValueError: once")]
    assert [event.data["attempt"] for event in of(seen, "step.started")] == [1, 2]


class Holding:
    """An `Around` that waits before the code of one step, and lets the others begin once it does."""

    def __init__(self, step):
        self.step = step
        self.began = asyncio.Event()

    async def around(self, asked, run):
        if asked.step == self.step:
            self.began.set()
            await asyncio.get_running_loop().create_future()
        await self.began.wait()
        return await run()


async def test_a_step_that_is_cancelled_inside_an_around_has_not_failed(tmp_path):
    app = App("siblings")

    @app.step
    async def slow() -> str:
        return "never"

    @app.step
    async def fails() -> str:
        raise ValueError("no")

    @app.pipeline
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(slow())
            group.create_task(fails())

    async with opened(tmp_path, around=[Holding("slow")], app=app) as runtime:
        handle = await runtime.start("both")
        assert "no" in str((await failure_of(handle)).exceptions)
        seen = await log_of(handle)
    assert [event.data["step"] for event in of(seen, "step.failed")] == ["fails"]


async def test_an_around_that_runs_the_code_in_another_task_is_told_so(tmp_path):
    class Elsewhere:
        async def around(self, asked, run):
            async def other():
                return await run()

            return await asyncio.create_task(other())

    async with opened(tmp_path, around=[Elsewhere()]) as runtime:
        error = await failure_of(await runtime.start("fast", lane="loop"))
    assert "in its own task" in str(error)


async def test_a_seam_that_postpones_into_the_past_holds_no_loop(tmp_path):
    class Late:
        def __init__(self):
            self.asked = 0

        async def admit(self, asked, says):
            self.asked += 1
            if self.asked < 3:
                raise Postpone(0.0)
            return lambda: None

    late = Late()
    async with opened(tmp_path, before=[late]) as runtime:
        assert await result_of(await runtime.start("fast", lane="loop")) == "1 None"
    assert late.asked == 3
