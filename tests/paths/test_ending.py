"""Ends that are not completion: cancelled, expired, refused; and a process that stops."""

from __future__ import annotations

import asyncio
import threading

import pytest

from offramp import App, current_run, testing
from offramp.errors import InputError, Overloaded, RunCancelled, RunConflict, RunExpired, UnknownPipeline, UnknownRun
from offramp.paths.submission import Submission
from offramp.ports.listing import RunFilter
from offramp.testing import FakeClock
from tests.support import (
    Signal,
    assert_one_log,
    eventually,
    failure_of,
    frames_of,
    log_of,
    member,
    of,
    result_of,
    types,
)


def endless_app(**pipeline):
    app, begun, unwound = App("endless"), Signal(), Signal()

    @app.step
    async def endless() -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            unwound.set()

    @app.pipeline(**pipeline)
    async def pipe() -> None:
        await endless()

    return app, begun, unwound


@pytest.mark.parametrize("budget", [6.0, 0.0])
async def test_a_running_run_ends_cancelled_and_its_step_is_cancelled(budget):
    app, begun, unwound = endless_app(budget=budget)
    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        await handle.cancel()
        error = await failure_of(handle)
        await unwound.wait()
        seen = await log_of(handle)
        document = await handle.document()
    assert isinstance(error, RunCancelled)
    assert seen[-1].type == "run.cancelled"
    assert seen[-1].data["error"]["code"] == "cancelled"
    assert "step.failed" not in types(seen)
    assert (document["status"], document["steps"][0]["status"]) == ("cancelled", "cancelled")


async def test_a_queued_run_is_cancelled_without_a_worker(tmp_path):
    app, begun, _ = endless_app(budget=0)
    async with member(app, tmp_path, "gateway") as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        assert (await gateway.get(run)).status == "queued"
        await gateway.cancel(run)
        frames = await frames_of(gateway, run)
        record = await gateway.get(run)
    assert [frame.type for frame in frames] == ["run.accepted", "run.cancelled"]
    assert record.status == "cancelled"
    assert not begun.is_set()


async def test_a_run_at_another_process_is_cancelled(tmp_path):
    app, begun, unwound = endless_app(budget=0)
    async with member(app, tmp_path, "worker"), member(app, tmp_path, "gateway") as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        await begun.wait()
        await gateway.cancel(run)
        await unwound.wait()
        frames = await frames_of(gateway, run)
    assert_one_log(frames)
    assert frames[-1].type == "run.cancelled"


async def test_a_wish_to_cancel_arrives_with_the_lease_when_the_hint_is_lost(tmp_path, monkeypatch):
    app, begun, unwound = endless_app(budget=0)
    async with member(app, tmp_path, "worker", lease=0.5), member(app, tmp_path, "gateway") as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        await begun.wait()
        monkeypatch.setattr(gateway.engine.membership.links.hints, "send", lambda *_: None)
        await gateway.cancel(run)
        await unwound.wait()
        assert (await frames_of(gateway, run))[-1].type == "run.cancelled"


async def test_cancelling_twice_is_cancelling_and_after_the_end_a_conflict():
    app, begun, _ = endless_app()
    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        await asyncio.gather(handle.cancel(), handle.cancel(), return_exceptions=True)
        assert len(of(await log_of(handle), "run.cancelled")) == 1
        with pytest.raises(RunConflict, match="it is cancelled"):
            await handle.cancel()
        with pytest.raises(UnknownRun):
            await runtime.service.cancel("run_0")
        with pytest.raises(UnknownRun):
            await runtime.service.cancel(handle.id, tenant="another")


async def test_a_cancelled_run_ends_cancelled_whatever_its_code_makes_of_it():
    app, begun = App("stubborn"), Signal()

    @app.step
    async def endless() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    @app.step
    async def more() -> str:
        return "more"

    @app.pipeline(budget=60)
    async def pipe(how: str) -> str:
        try:
            await endless()
        except asyncio.CancelledError:
            if how == "raise":
                raise ValueError("instead") from None
            if how == "step":
                return await more()
        return "survived"

    async with testing.runtime(app, cancel_grace=600) as runtime:
        for how in ("return", "raise", "step"):
            begun.__init__()
            handle = await runtime.start("pipe", how=how)
            await begun.wait()
            await handle.cancel()
            seen = await log_of(handle)
            assert types(seen)[-1] == "run.cancelled"
            assert "more" not in [event.data.get("step") for event in seen]


async def test_cleanup_is_not_cancelled_again_by_a_wish_that_is_repeated():
    app, begun, cleaned = App("cleanup"), Signal(), []

    @app.step
    async def careful() -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0.02)
            cleaned.append(1)

    @app.pipeline
    async def pipe() -> None:
        await careful()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        await handle.cancel()
        runtime.service.deep.cancel(handle.id)  # as every renewal of the lease does
        assert types(await log_of(handle))[-1] == "run.cancelled"
    assert cleaned == [1]


async def test_a_run_whose_thread_cannot_be_stopped_ends_after_the_grace():
    app, begun, hold, clock, told = App("thread"), Signal(), Signal(), FakeClock(), []

    @app.step
    def busy() -> None:
        begun.set()
        hold.block()
        told.append(current_run().cancelled)

    @app.pipeline
    async def pipe() -> None:
        while True:
            try:
                await busy()
            except asyncio.CancelledError:
                await asyncio.sleep(3600)

    async with testing.runtime(app, clock=clock, cancel_grace=5.0) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        await handle.cancel()
        clock.advance(4.9)
        assert (await handle.document())["status"] == "running"
        clock.advance(0.2)
        assert types(await log_of(handle))[-1] == "run.cancelled"
        hold.set()
        await eventually(lambda: told)
    assert told == [True]


@pytest.mark.parametrize("budget", [6.0, 0.0])
async def test_a_run_past_its_deadline_ends_expired(budget):
    app, begun, _ = endless_app(budget=budget, deadline=3.0)
    clock = FakeClock()
    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        clock.advance(2.9)
        assert (await handle.document())["status"] == "running"
        clock.advance(0.2)
        error = await failure_of(handle)
        seen = await log_of(handle)
        assert (await handle.document())["error"]["code"] == "deadline"
    assert isinstance(error, RunExpired)
    assert "did not end by its deadline 2023-11-14T22:13:23.000Z" in str(error)
    assert types(seen)[-1] == "run.expired"


async def test_a_run_that_waited_in_the_queue_past_its_deadline_never_starts(tmp_path):
    app, begun, _ = endless_app(budget=0, deadline=3.0)
    clock = FakeClock()
    async with member(app, tmp_path, "gateway", clock=clock) as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        clock.advance(4.0)
        async with member(app, tmp_path, "worker", clock=clock):
            frames = await frames_of(gateway, run)
    assert [frame.type for frame in frames] == ["run.accepted", "run.expired"]
    assert not begun.is_set()


async def test_remaining_counts_down_to_the_deadline_on_the_deep_path():
    app, left, clock = App("left"), [], FakeClock()

    @app.step
    async def look() -> None:
        left.append(current_run().remaining())

    @app.pipeline(budget=0, deadline=30.0)
    async def pipe() -> None:
        await look()

    async with testing.runtime(app, clock=clock) as runtime:
        await result_of(await runtime.start("pipe"))
    assert left == [30.0]


# A process that stops.


async def test_a_draining_gateway_demotes_its_runs_and_takes_no_more(tmp_path):
    app, begun, hold, where = App("drain"), Signal(), Signal(), []

    @app.step
    async def gate() -> None:
        begun.set()
        await hold.wait()

    @app.step
    async def after() -> str:
        return "after"

    @app.pipeline(budget=60)
    async def pipe() -> str:
        where.append(threading.current_thread().name)
        await gate()
        return await after()

    async with member(app, tmp_path, "worker", owner="w") as worker:
        async with member(app, tmp_path, "gateway", drain_timeout=20) as gateway:
            run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
            await begun.wait()
            scope = gateway.live.get(run).execution.scope
            draining = asyncio.ensure_future(gateway.drain())
            await eventually(lambda: scope.gate.state == "leaving")
            assert await gateway.ready() == (False, "stopping")
            with pytest.raises(Overloaded) as refused:
                await gateway.submit(Submission(pipeline="pipe"))
            hold.set()
            await draining
            await gateway.drain()
        frames = await frames_of(worker, run)
        record = await worker.get(run)
    assert refused.value.retry_after > 0
    assert (record.status, record.demotion.reason, record.result) == ("completed", "drain", b'"after"')
    names = [frame.type for frame in frames]
    assert_one_log(frames)
    assert names.count("run.demoted") == names.count("run.resumed") == 1
    assert "step.retrying" not in names
    assert len(where) == 2


async def test_a_draining_worker_hands_its_runs_over_at_the_boundary(tmp_path):
    app, begun, hold, steps = App("drain"), Signal(), Signal(), []

    @app.step
    async def gate() -> None:
        steps.append("gate")
        begun.set()
        await hold.wait()

    @app.step
    async def after() -> str:
        steps.append("after")
        return "after"

    @app.pipeline(budget=0)
    async def pipe() -> str:
        await gate()
        return await after()

    async with member(app, tmp_path, "worker", owner="a") as first:
        run = (await first.submit(Submission(pipeline="pipe"))).record.id
        await begun.wait()
        async with member(app, tmp_path, "worker", owner="b") as second:
            scope = first.live.get(run).execution.scope
            draining = asyncio.ensure_future(first.drain())
            await eventually(lambda: scope.gate.state == "leaving")
            hold.set()
            await draining
            frames = await frames_of(second, run)
    assert steps == ["gate", "after"]
    assert_one_log(frames)
    names = [frame.type for frame in frames]
    assert names.count("run.resumed") == 1
    assert not {"step.retrying", "run.demoted"} & set(names)


async def test_a_step_that_outlasts_the_drain_is_executed_again_elsewhere(tmp_path):
    app, begun, calls = App("drain"), Signal(), []

    @app.step
    async def long() -> str:
        calls.append(current_run().attempt)
        begun.set()
        if len(calls) == 1:
            await asyncio.get_running_loop().create_future()
        return "long"

    @app.pipeline(budget=60)
    async def pipe() -> str:
        return await long()

    async with member(app, tmp_path, "gateway", drain_timeout=0.05) as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        await begun.wait()
    async with member(app, tmp_path, "worker") as worker:
        frames = await frames_of(worker, run)
        record = await worker.get(run)
    assert (record.status, record.result) == ("completed", b'"long"')
    assert calls == [1, 1]
    assert_one_log(frames)
    assert [frame.type for frame in frames].count("step.retrying") == 1


async def test_readers_end_when_their_process_stops(tmp_path):
    app, begun, _ = endless_app(budget=0)
    async with member(app, tmp_path, "worker") as worker:
        async with member(app, tmp_path, "gateway") as gateway:
            run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
            await begun.wait()
            reader = asyncio.ensure_future(frames_of(gateway, run))
            await eventually(lambda: not gateway.process.feed.unknown(run))
        frames = await reader
        assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
        assert "run.cancelled" not in [frame.type for frame in frames]
        await worker.cancel(run)


# Requests.


async def test_the_same_key_and_body_attach_to_the_same_run():
    app, begun, _ = endless_app()
    async with testing.runtime(app) as runtime:
        service = runtime.service
        asked = Submission(pipeline="pipe", idempotency_key="k", session_id="s")
        first, second = await asyncio.gather(service.submit(asked), service.submit(asked))
        assert first.record.id == second.record.id
        assert sorted([first.attached, second.attached]) == [False, True]
        await begun.wait()
        await service.cancel(first.record.id)
        await frames_of(service, first.record.id)
        again = await service.submit(asked)
        assert (again.attached, again.record.status) == (True, "cancelled")


async def test_a_run_that_is_expected_to_take_longest_goes_deep_when_the_fast_path_is_full():
    app, begun, _ = endless_app(budget=60)
    async with testing.runtime(app, fast_runs=1) as runtime:
        first = await runtime.start("pipe")
        await begun.wait()
        second = await runtime.start("pipe")
        document = await second.document()
        assert document["path"] == "deep"
        assert document["demotion"] is None
        assert "OFFRAMP_FAST_RUNS" in document["route"]["reasons"][-1]
        route = document["route"]
        assert (route["by"], route["predicted_ms"]) == ("load", None), "nothing is known of such runs"
        assert (await first.document())["path"] == "fast"
        for handle in (first, second):
            await handle.cancel()


async def test_a_quick_run_takes_the_place_of_the_one_that_is_expected_to_take_longest():
    app, begun, _ = endless_app(budget=60)

    @app.pipeline
    async def quick() -> str:
        return "quick"

    async with testing.runtime(app, fast_runs=1) as runtime:
        assert await (await runtime.start("quick")).result() == "quick"  # now it is known to be quick
        await eventually(lambda: not runtime.service.live.all())  # its reader learns it a moment before it has left
        slow = await runtime.start("pipe")
        await begun.wait()
        handle = await runtime.start("quick")
        assert await handle.result() == "quick"
        assert (await handle.document())["path"] == "fast"
        async for event in slow:
            if event.type == "run.demoted":
                assert event.data["reason"] == "overload"
                break
        await slow.cancel()


async def test_a_dry_decision_writes_nothing_takes_no_place_and_displaces_no_run():
    app, begun, _ = endless_app(budget=60)

    @app.pipeline
    async def quick() -> str:
        return "quick"

    async with testing.runtime(app, fast_runs=1) as runtime:
        assert await (await runtime.start("quick")).result() == "quick"
        await eventually(lambda: not runtime.service.live.all())
        slow = await runtime.start("pipe")
        await begun.wait()
        before = await runtime.service.list(RunFilter())
        for _ in range(3):
            decision = await runtime.service.decide(Submission(pipeline="quick"))
            assert (decision.path, decision.displaces) == ("fast", slow.id)
        assert (await runtime.service.decide(Submission(pipeline="pipe"))).path == "deep"
        assert (await runtime.service.decide(Submission(pipeline="quick", respond_async=True))).path == "deep"
        assert await runtime.service.list(RunFilter()) == before
        document = await slow.document()
        assert (document["path"], document["demotion"]) == ("fast", None)
        assert await (await runtime.start("quick")).result() == "quick", "its place was not taken by the dry ones"
        await slow.cancel()


async def test_a_full_queue_refuses_what_would_have_to_wait():
    app, begun, _ = endless_app()
    async with testing.runtime(app, worker_runs=1, queue_runs=1) as runtime:
        deep = Submission(pipeline="pipe", respond_async=True)
        running = await runtime.submit(deep)
        await begun.wait()
        queued = await runtime.submit(deep)
        with pytest.raises(Overloaded, match="OFFRAMP_QUEUE_RUNS") as refused:
            await runtime.submit(deep)
        assert refused.value.retry_after > 0
        for handle in (running, queued):
            await handle.cancel()


async def test_what_does_not_fit_is_refused_by_name():
    app, _, _ = endless_app()
    async with testing.runtime(app) as runtime:
        with pytest.raises(UnknownPipeline, match=r"no pipeline 'pip'; did you mean 'pipe'\?"):
            await runtime.start("pip")
        with pytest.raises(InputError, match="unknown field `nope`"):
            await runtime.start("pipe", nope=1)
        with pytest.raises(InputError, match="no class 'defualt'; did you mean 'default'"):
            await runtime.submit(Submission(pipeline="pipe", sla="defualt"))
        with pytest.raises(InputError, match="OFFRAMP_MAX_BUDGET"):
            await runtime.submit(Submission(pipeline="pipe", budget=61.0))
        with pytest.raises(InputError):
            await runtime.submit(Submission(pipeline="pipe", input=b"no json"))
        with pytest.raises(UnknownRun):
            await runtime.service.get("run_0")


async def test_deep_runs_beyond_what_fits_wait_their_turn():
    app, holds, running = App("queue"), [Signal() for _ in range(4)], []

    @app.step
    async def gate(n: int) -> int:
        running.append(n)
        await holds[n].wait()
        return n

    @app.pipeline(budget=0)
    async def pipe(n: int) -> int:
        return await gate(n)

    async with testing.runtime(app, worker_runs=2) as runtime:
        handles = [await runtime.start("pipe", n=n) for n in range(4)]
        await eventually(lambda: len(running) == 2)
        assert [(await handle.document())["status"] for handle in handles].count("queued") == 2
        for n in range(4):
            holds[n].set()
        assert [await result_of(handle) for handle in handles] == [0, 1, 2, 3]
        assert sorted(running) == [0, 1, 2, 3]


async def test_an_outcome_waits_for_nobody_and_a_result_may_be_large():
    app = App("large")

    @app.pipeline
    async def pipe() -> str:
        return "x" * 300_000

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "x" * 300_000
        seen = await log_of(handle)
        document = await handle.document()
    assert seen[-1].data == {"result_url": document["links"]["result"]}
    assert document["result"] == "x" * 300_000


async def test_a_run_that_is_cancelled_before_its_code_began_ends_at_once():
    app, busy, gate, begun = App("early"), Signal(), Signal(), []

    @app.step
    async def block() -> None:
        busy.set()
        gate.block()  # the only run loop

    @app.pipeline
    async def blocker() -> None:
        await block()

    @app.pipeline
    async def pipe() -> None:
        begun.append("pipe")

    # Under a clock that stands still, no grace time ends.
    async with testing.runtime(app, clock=FakeClock(), spare_loops=0) as runtime:
        await runtime.start("blocker")
        await busy.wait()
        handle = await runtime.start("pipe")
        await handle.cancel()
        gate.set()
        assert isinstance(await failure_of(handle), RunCancelled)
    assert begun == []
