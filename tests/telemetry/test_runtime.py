"""What the runtime counts, with real runs."""

from __future__ import annotations

import asyncio
import threading

import pytest

from offramp import SLA, App, Retry, testing
from offramp.core.run import Route
from offramp.errors import StepTimeout
from offramp.paths.first_events import FirstEvents
from offramp.paths.submission import Submission
from offramp.ports.store import Batch
from offramp.testing import FakeClock
from tests.execution import cpu
from tests.support import (
    GUARD_S,
    Signal,
    a_record,
    eventually,
    failure_of,
    frames_of,
    member,
    reach,
    reading,
    result_of,
)


def make_app(gate):
    app = App("counted", classes=[SLA("quick", p95=2.0, budget=30.0), SLA("tight", budget=0.05)])
    tries = []

    @app.step(retry=Retry(attempts=3, base=0.001))
    async def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return "ok"

    @app.step(timeout=0.01, retry=Retry(attempts=2, base=0.001))
    async def hanging() -> None:
        await asyncio.Event().wait()

    @app.step
    async def waiting() -> str:
        await gate.wait()
        return "done"

    @app.step
    async def after(word: str) -> str:
        return word

    @app.pipeline(sla="quick")
    async def stumbles() -> str:
        return await flaky()

    @app.pipeline(sla="quick")
    async def hangs() -> None:
        await hanging()

    @app.pipeline(sla="tight")
    async def leaves() -> str:
        return await after(await waiting())

    @app.pipeline(sla="quick")
    async def echo(word: str) -> str:
        return await after(word)

    return app


@pytest.fixture
def gate():
    return Signal()


@pytest.fixture
async def runtime(gate):
    async with testing.runtime(make_app(gate)) as made:
        yield made


def shown(runtime, name, **labels):
    return reading(runtime.service, name, **labels)


async def test_steps_and_retries_are_counted_by_pipeline_and_step(runtime):
    assert await result_of(await runtime.start("stumbles")) == "ok"
    step = {"pipeline": "stumbles", "step": "flaky"}
    assert shown(runtime, "offramp_steps_total", **step, outcome="completed") == 1
    assert shown(runtime, "offramp_steps_total", **step, outcome="failed") == 0
    assert shown(runtime, "offramp_step_retries_total", **step) == 2
    assert shown(runtime, "offramp_step_timeouts_total", **step) == 0


async def test_timeouts_are_counted_by_attempt(runtime):
    assert isinstance(await failure_of(await runtime.start("hangs")), StepTimeout)
    step = {"pipeline": "hangs", "step": "hanging"}
    assert shown(runtime, "offramp_step_timeouts_total", **step) == 2
    assert shown(runtime, "offramp_step_retries_total", **step) == 1
    assert shown(runtime, "offramp_steps_total", **step, outcome="failed") == 1


async def test_a_run_is_counted_with_its_outcome_and_its_duration(runtime):
    await result_of(await runtime.start("echo", word="a"))
    kind = {"class": "quick", "path": "fast"}
    assert shown(runtime, "offramp_runs_accepted_total", pipeline="echo", **kind) == 1
    await eventually(
        lambda: shown(runtime, "offramp_runs_ended_total", pipeline="echo", outcome="completed", **kind) == 1
    )
    assert shown(runtime, "offramp_run_duration_seconds_count", **kind) == 1
    assert shown(runtime, "offramp_first_event_seconds_count", **kind) == 1
    assert 0 <= shown(runtime, "offramp_first_event_seconds_sum", **kind) < GUARD_S


async def test_only_classes_with_a_target_show_one(runtime):
    assert shown(runtime, "offramp_sla_target_seconds", **{"class": "quick"}) == 2.0
    collected = [each for each in runtime.service.collectors if "sla_target" in each.describe()[0].name]
    (family,) = collected[0].collect()
    assert [sample.labels for sample in family.samples] == [{"class": "quick"}]


async def test_a_run_that_went_deep_at_once_has_waited_in_the_queue(runtime):
    handle = await runtime.submit(Submission(pipeline="echo", input=b'{"word": "a"}', respond_async=True))
    await result_of(handle)
    assert shown(runtime, "offramp_queue_wait_seconds_count", **{"class": "quick"}) == 1
    assert shown(runtime, "offramp_first_event_seconds_count", **{"class": "quick", "path": "deep"}) == 1


async def test_the_hop_of_a_demoted_run_is_measured_once_and_where_it_ends(tmp_path, gate):
    app = make_app(gate)
    async with member(app, tmp_path, "gateway") as gateway, member(app, tmp_path, "worker") as worker:
        run = (await gateway.submit(Submission(pipeline="leaves"))).record.id
        await eventually(lambda: reading(gateway, "offramp_demotions_total", reason="budget") == 1)
        assert reading(gateway, "offramp_first_event_seconds_count", **{"class": "tight", "path": "fast"}) == 1
        gate.set()
        frames = await frames_of(gateway, run)
        assert [frame.type for frame in frames].count("run.resumed") == 1
        assert reading(worker, "offramp_demotion_gap_seconds_count", reason="budget") == 1
        assert reading(gateway, "offramp_demotion_gap_seconds_count", reason="budget") == 0
        assert reading(worker, "offramp_queue_wait_seconds_count", **{"class": "tight"}) == 0
        await eventually(lambda: reading(gateway, "offramp_workers_warm") == 1)


async def test_a_second_worker_that_goes_on_with_a_run_is_no_second_hop(tmp_path):
    held, gate = Signal(), Signal()
    app = App("twice", classes=[SLA("tight", budget=0.05)])

    @app.step
    async def first() -> None:
        await held.wait()

    @app.step
    async def second() -> str:
        await gate.wait()
        return "done"

    @app.pipeline(sla="tight")
    async def pipe() -> str:
        await first()
        return await second()

    async with member(app, tmp_path, "gateway") as gateway:
        # It leaves in the middle of a step, and gives the run back.
        async with member(app, tmp_path, "worker", drain_timeout=0.05) as one:
            run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
            await eventually(lambda: reading(gateway, "offramp_demotions_total", reason="budget") == 1)
            held.set()
            await eventually(lambda: reading(one, "offramp_demotion_gap_seconds_count", reason="budget") == 1)
        async with member(app, tmp_path, "worker") as other:
            gate.set()
            frames = await frames_of(gateway, run)
            assert [frame.type for frame in frames].count("run.resumed") == 2
            assert reading(other, "offramp_demotion_gap_seconds_count", reason="budget") == 0


async def test_a_lost_lease_is_counted(tmp_path, gate):
    app = make_app(gate)
    async with member(app, tmp_path, "local", owner="me") as me:
        run = (await me.submit(Submission(pipeline="leaves", budget=30.0))).record.id
        await eventually(lambda: reading(me, "offramp_runs_live", path="fast") == 1)
        await me.retire("me")
        gate.set()  # what it writes now is refused
        await frames_of(me, run)
        assert reading(me, "offramp_leases_lost_total") == 1


class Prompt:
    """The log of a run whose store answers, and whose process hears of it, before the run's loop goes on."""

    def __init__(self, log, control):
        self._log = log
        self._control = control

    def __getattr__(self, name):
        return getattr(self._log, name)

    def finish(self, *given):
        written, heard = self._log.finish(*given), Signal()
        written.then(lambda _: self._control.call(heard.set))
        heard.block()
        return written


async def test_a_lease_that_is_lost_with_the_outcome_is_counted_once(tmp_path, gate):
    app = App("ends")

    @app.pipeline(budget=30.0)
    async def ends() -> None:
        await gate.wait()

    async with member(app, tmp_path, "local", owner="me") as me:
        run = (await me.submit(Submission(pipeline="ends"))).record.id
        live = me.live.get(run)
        live.log = Prompt(live.log, me.process.control)
        await me.retire("me")
        gate.set()
        await frames_of(me, run)
        assert reading(me, "offramp_leases_lost_total") == 1


async def test_a_blocked_loop_is_counted_for_the_step_that_blocks_it_while_it_does():
    app, free, begun = App("blocks"), threading.Event(), Signal()

    @app.step
    async def blocking() -> None:
        begun.set()
        free.wait(GUARD_S)

    @app.pipeline
    async def blocked() -> None:
        await blocking()

    @app.pipeline
    async def body() -> None:
        begun.set()
        free.wait(GUARD_S)

    step = {"pipeline": "blocked", "step": "blocking"}
    async with testing.runtime(app, blocked_after=0.05) as runtime:
        handle = await runtime.start("blocked")
        await begun.wait()
        await eventually(lambda: shown(runtime, "offramp_loop_blocked_seconds_total", **step) > 0.1)
        free.set()
        await result_of(handle)
        assert shown(runtime, "offramp_loop_blocks_total", **step) == 1
        free.clear()
        handle = await runtime.start("body")
        await eventually(lambda: shown(runtime, "offramp_loop_blocks_total", pipeline="body", step="") == 1)
        free.set()
        await result_of(handle)
        assert shown(runtime, "offramp_loop_blocks_total", **step) == 1


async def test_the_start_of_each_process_of_a_lane_is_measured():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        started = {"kind": "lane"}
        await result_of(await runtime.start("of_square", n=7))
        assert shown(runtime, "offramp_cold_start_seconds_count", **started) == 1
        assert shown(runtime, "offramp_cold_start_seconds_sum", **started) > 0
        await failure_of(await runtime.start("of_dying", code=3))
        await result_of(await runtime.start("of_square", n=7))
        assert shown(runtime, "offramp_cold_start_seconds_count", **started) == 2


async def test_what_retention_removes_is_counted(tmp_path):
    app = App("short")

    @app.pipeline(retention=0.01)
    async def pipe() -> None:
        pass

    async with member(app, tmp_path, "local", purge_every=1.0) as service:
        for _ in range(3):
            await service.submit(Submission(pipeline="pipe"))
        await eventually(lambda: reading(service, "offramp_runs_purged_total") == 3)


async def test_live_runs_are_counted_while_they_are(tmp_path, gate):
    async with member(make_app(gate), tmp_path, "local") as service:
        run = (await service.submit(Submission(pipeline="leaves", budget=30.0))).record.id
        await eventually(lambda: reading(service, "offramp_runs_live", path="fast") == 1)
        gate.set()
        await frames_of(service, run)
        await eventually(lambda: reading(service, "offramp_runs_live", path="fast") == 0)


class TestFirstEvents:
    class Seen:
        def __init__(self):
            self.first = []
            self.gaps = []

        def first_event(self, record, seconds):
            self.first.append((record.id, seconds))

        def went_on(self, reason, seconds):
            self.gaps.append((reason, seconds))

    def made(self):
        clock, seen = FakeClock(), self.Seen()
        return clock, seen, FirstEvents(clock, seen)

    def test_the_first_event_is_the_one_after_run_accepted(self):
        clock, seen, events = self.made()
        record = a_record(created_at=clock.time(), route=Route("fast", []))
        events.of_new(record)
        clock.advance(0.2)
        events.seen([Batch(record.id, 1, [b"{}"])])
        assert seen.first == []
        clock.advance(0.3)
        events.seen([Batch("another", 2, [b"{}"]), Batch(record.id, 2, [b"{}", b"{}"])])
        events.seen([Batch(record.id, 4, [b"{}"])])
        assert seen.first == [(record.id, pytest.approx(0.5))]

    def test_both_may_become_visible_together(self):
        clock, seen, events = self.made()
        record = a_record(created_at=clock.time())
        events.of_new(record)
        events.seen([Batch(record.id, 1, [b"{}", b"{}"])])
        assert seen.first == [(record.id, 0.0)]

    def test_a_run_that_left_is_forgotten(self):
        clock, seen, events = self.made()
        record = a_record(created_at=clock.time())
        events.of_new(record)
        events.forget(record.id)
        events.seen([Batch(record.id, 2, [b"{}"])])
        assert seen.first == []
        assert not events.expected

    def test_a_run_that_was_not_demoted_has_no_gap(self):
        _, seen, events = self.made()
        record = a_record()
        events.of_demoted(record)
        events.seen([Batch(record.id, 9, [b"{}"])])
        assert seen.gaps == []


async def test_a_run_of_many_leaves_nothing_behind(runtime):
    handles = [await runtime.start("echo", word="a") for _ in range(50)]
    for handle in handles:
        await reach(handle, "run.completed")
    assert runtime.service.live.first_events.expected == {}
