"""A run leaves the fast path: on time, without losing or repeating a finished step, and its reader learns so."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from offramp import SLA, App, Retry, current_run, emit, testing
from offramp.core import events
from offramp.paths.submission import Submission
from offramp.wiring import local
from tests.support import (
    Signal,
    assert_one_log,
    eventually,
    frames_of,
    log_of,
    member,
    of,
    reach,
    result_of,
    types,
)


async def test_a_run_that_makes_its_budget_stays_fast():
    app = App("fast")

    @app.step
    async def quick() -> str:
        assert current_run().path == "fast"
        return "quick"

    @app.pipeline
    async def pipe() -> str:
        return await quick()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "quick"
        document = await handle.document()
        assert types(await log_of(handle)) == ["run.accepted", "step.started", "step.completed", "run.completed"]
    assert (document["path"], document["demotion"], document["status"]) == ("fast", None, "completed")
    assert document["route"]["path"] == "fast"
    assert "budget of 6 s" in document["route"]["reasons"][0]


async def test_ten_steps_of_which_three_fit_the_budget_are_each_executed_once(tmp_path, clock):
    app, executed, budget = App("ten", classes=[SLA("short", budget=1.5)]), Counter(), []

    @app.step
    async def work(n: int) -> int:
        executed[n] += 1
        emit(f"step {n}")
        budget.append(current_run().remaining())
        await asyncio.get_running_loop().run_in_executor(None, clock.advance, 0.4)
        if n == 3:  # the budget is over: on a busy machine, the notice may take longer than the other steps
            await eventually(lambda: runtime.service.live.get(current_run().id).state != "running")
        return n

    @app.pipeline(sla="short")
    async def pipe() -> list[int]:
        return [await work(n) for n in range(10)]

    async with local(app, {"data": str(tmp_path)}, clock) as runtime:
        handle = await runtime.start("pipe")
        assert await clock.run_until(result_of(handle), 0.01) == list(range(10))
        document = await handle.document()
        whole = await frames_of(runtime.service, handle.id)
        for after in (0, 5, len(whole) - 1):
            assert await frames_of(runtime.service, handle.id, after) == whole[after:]
    assert executed == Counter(range(10))
    assert_one_log(whole)
    names = [frame.type for frame in whole]
    assert names.count("run.demoted") == names.count("run.resumed") == 1
    [resumed] = [events.decode(frame.data) for frame in whole if frame.type == "run.resumed"]
    assert resumed.data["reason"] == "demotion"
    assert names.count("step.completed") == names.count("step.delta") == 10
    assert (document["path"], document["demotion"]["reason"]) == ("deep", "budget")
    assert document["demotion"]["elapsed_ms"] >= document["demotion"]["budget_ms"] == 1500.0
    assert 0 < budget[0] <= 1.5
    assert budget[-1] == float("inf")


def one_gate(hold, **step):
    """A pipeline whose run waits inside `gate`, then does one more step."""
    app = App("gated")

    @app.step(**step)
    async def gate() -> str:
        await hold.wait()
        return "open"

    @app.step
    async def after() -> str:
        return current_run().path

    @app.pipeline(demotion_message="Have a coffee.")
    async def pipe() -> list[str]:
        return [await gate(), await after()]

    return app


async def test_the_reader_is_told_what_happens_now(clock):
    hold = Signal()
    async with testing.runtime(one_gate(hold), clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.started")
        clock.advance(5.9)
        assert (await handle.document())["demotion"] is None
        clock.advance(0.1)
        [demoted] = of(await reach(handle, "run.demoted"), "run.demoted")
        hold.set()
        assert await clock.run_until(result_of(handle)) == ["open", "deep"]
        document = await handle.document()
    assert demoted.data == {
        "reason": "budget",
        "budget_ms": 6000.0,
        "elapsed_ms": 6000.0,
        "message": "Have a coffee.",
        "links": document["links"],
    }
    assert document["demotion"]["reason"] == "budget"
    assert document["demotion"]["at"] == demoted.at


async def test_the_journal_is_durable_and_the_engine_owns_the_run_before_anybody_hears(clock, monkeypatch, tmp_path):
    order, hold = [], Signal()
    async with local(one_gate(hold), {"data": str(tmp_path)}, clock) as runtime:
        store = runtime.service.process.store
        engine = runtime.service.engine
        adopt = engine.adopt

        async def adopted(handoff):
            on_disk = await store.journal(handoff.lease.run_id), await store.events(handoff.lease.run_id, 0)
            order.append(("adopt", [frame.type for frame in on_disk[1]]))
            await adopt(handoff)
            record = await store.get(handoff.lease.run_id)
            order.append(("adopted", record.path, record.demotion.reason))

        monkeypatch.setattr(engine, "adopt", adopted)
        store.listen(
            lambda batches: order.extend(
                (events.type_of(data),) for batch in batches for data in batch.frames if b"run.demoted" in data
            )
        )
        handle = await runtime.start("pipe")
        await reach(handle, "step.started")
        clock.advance(6.0)
        await reach(handle, "run.demoted")
        hold.set()
        await clock.run_until(result_of(handle))
    assert order == [("adopt", ["run.accepted", "step.started"]), ("adopted", "deep", "budget"), ("run.demoted",)]


async def test_a_step_in_flight_ends_where_it_is_and_the_next_one_elsewhere(tmp_path, clock):
    app, hold, where = App("two"), Signal(), []

    @app.step
    async def long() -> None:
        where.append(("long", current_run().path))
        await hold.wait()
        emit("still heard")
        where.append(("long ended", current_run().path))

    @app.step
    async def after() -> None:
        where.append(("after", current_run().path))

    @app.pipeline
    async def pipe() -> None:
        where.append("body")
        await long()
        await after()

    async with (
        member(app, tmp_path, "gateway", clock=clock, owner="gateway") as gateway,
        member(app, tmp_path, "worker", owner="worker", poll=0.1) as worker,
    ):
        accepted = await gateway.submit(Submission(pipeline="pipe"))
        handle = accepted.record.id
        reader = asyncio.ensure_future(frames_of(gateway, handle))
        await eventually(lambda: len(where) == 2)
        live = gateway.live.get(handle)
        clock.advance(6.0)
        await eventually(lambda: live.execution.scope.facts.path == "deep")  # the store knows a moment before
        hold.set()
        whole = await clock.run_until(reader, 0.02)
        assert await frames_of(worker, handle) == whole
    assert where == ["body", ("long", "fast"), ("long ended", "deep"), "body", ("after", "deep")]
    assert_one_log(whole)
    resumed = next(events.decode(frame.data) for frame in whole if frame.type == "run.resumed")
    assert resumed.data == {"worker": "worker", "replayed_steps": 1, "reason": "demotion"}
    assert "step.retrying" not in [frame.type for frame in whole]


async def test_parallel_branches_park_until_the_last_step_in_flight_has_ended(clock):
    app, holds, executed = App("parallel"), [Signal(), Signal(), Signal()], Counter()

    @app.step
    async def work(branch: int, n: int) -> str:
        executed[branch, n] += 1
        if n == 0:
            await holds[branch].wait()
        return f"{branch}{n}"

    @app.pipeline
    async def branch(number: int) -> list[str]:
        return [await work(number, 0), await work(number, 1)]

    @app.pipeline
    async def pipe() -> list[list[str]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch(number)) for number in range(3)]
        return [task.result() for task in tasks]

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await eventually(lambda: len(executed) == 3)
        clock.advance(6.0)
        await reach(handle, "run.demoted")
        holds[0].set()
        holds[1].set()
        scope = runtime.service.live.get(handle.id).execution.scope
        await eventually(lambda: scope.gate.parked == 2)
        assert executed == Counter({(0, 0): 1, (1, 0): 1, (2, 0): 1})
        holds[2].set()
        result = await clock.run_until(result_of(handle))
    assert result == [["00", "01"], ["10", "11"], ["20", "21"]]
    assert executed == Counter((number, n) for number in range(3) for n in range(2))


async def test_a_run_that_ends_with_its_step_in_flight_needs_no_worker(tmp_path, clock):
    app, hold = App("last"), Signal()

    @app.step
    async def last() -> str:
        await hold.wait()
        return "last"

    @app.pipeline
    async def pipe() -> str:
        return await last() + "!"

    async with member(app, tmp_path, "gateway", clock=clock) as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        async for part in gateway.follow(run):
            if part[-1].type == "step.started":
                break
        clock.advance(6.0)
        async for part in gateway.follow(run):
            if part[-1].type == "run.demoted":
                break
        hold.set()
        whole = await frames_of(gateway, run)
        record = await gateway.get(run)
    assert (record.status, record.result, record.path) == ("completed", b'"last!"', "deep")
    assert "run.resumed" not in [frame.type for frame in whole]


async def test_a_step_in_backoff_goes_on_counting_and_waits_only_for_the_rest(clock):
    app, attempts = App("backoff"), []

    @app.step(retry=Retry(attempts=3, base=0))
    async def flaky() -> str:
        attempts.append((current_run().attempt, current_run().path, clock.monotonic()))
        if current_run().attempt == 1:
            error = ValueError("later")
            error.retry_after = 10
            raise error
        return "done"

    @app.pipeline
    async def pipe() -> str:
        return await flaky()

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.retrying")
        assert await clock.run_until(result_of(handle), 0.02) == "done"
        seen = await log_of(handle)
    assert [attempt[:2] for attempt in attempts] == [(1, "fast"), (2, "deep")]
    assert 9.9 <= attempts[1][2] < 12.0
    assert [event.data["attempt"] for event in of(seen, "step.started")] == [1, 2]
    assert len(of(seen, "step.retrying")) == 1


async def test_a_demotion_burns_no_attempt_of_a_step_that_fails_in_flight(clock):
    app, hold, attempts = App("inflight"), Signal(), []

    @app.step(retry=Retry(attempts=2, base=0))
    async def flaky() -> str:
        attempts.append(current_run().attempt)
        if current_run().attempt == 1:
            await hold.wait()
            raise ValueError
        return "done"

    @app.pipeline
    async def pipe() -> str:
        return await flaky()

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.started")
        clock.advance(6.0)
        await reach(handle, "run.demoted")
        hold.set()
        assert await clock.run_until(result_of(handle)) == "done"
    assert attempts == [1, 2]


async def test_a_thread_step_in_flight_is_not_repeated(clock):
    app, hold, calls, begun = App("thread"), Signal(), [], Signal()

    @app.step
    def long(n: int) -> int:
        calls.append(n)
        begun.set()
        hold.block()
        return n

    @app.pipeline
    async def pipe() -> list[int]:
        return [await long(1), await long(2)]

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        clock.advance(6.0)
        await reach(handle, "run.demoted")
        hold.set()
        assert await clock.run_until(result_of(handle)) == [1, 2]
    assert calls == [1, 2]


async def test_a_body_that_computes_past_its_budget_is_cut_at_the_boundary_and_replayed(clock):
    app, bodies, hold = App("body"), [], Signal()

    @app.step
    async def first() -> int:
        return 1

    @app.pipeline
    async def pipe() -> int:
        bodies.append(current_run().path)
        value = await first()
        if len(bodies) == 1:
            await asyncio.get_running_loop().create_future()
        return value

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "step.completed")
        assert await clock.run_until(result_of(handle)) == 1
        hold.set()
    assert bodies == ["fast", "fast"], "what a body sees of its run is journaled"


@pytest.mark.parametrize(
    ("submission", "explanation"),
    [
        ({"respond_async": True}, ["respond-async"]),
        ({"budget": 0.0}, ["budget of 0 s"]),
        ({"sla": "batch"}, ["no budget", "batch"]),
    ],
)
async def test_a_run_known_to_be_long_goes_deep_at_once_and_says_why(submission, explanation):
    app = App("deep", classes=[SLA("batch", budget=0)])

    @app.step
    async def work() -> str:
        return current_run().path

    @app.pipeline
    async def pipe() -> str:
        return await work()

    async with testing.runtime(app) as runtime:
        handle = await runtime.submit(Submission(pipeline="pipe", **submission))
        assert await result_of(handle) == "deep"
        document = await handle.document()
        names = types(await log_of(handle))
    assert (document["path"], document["demotion"]) == ("deep", None)
    [reason] = document["route"]["reasons"]
    assert all(word in reason for word in explanation)
    assert names == ["run.accepted", "step.started", "step.completed", "run.completed"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 3.0),
        ({"sla": "slow"}, 3.0),
        ({"budget": 5.0}, 5.0),
        ({"budget": 20.0}, 20.0),
    ],
)
async def test_the_budget_of_the_request_beats_the_pipelines_and_that_the_one_of_the_class(clock, given, expected):
    app, hold = App("budgets", classes=[SLA("slow", budget=9.0)]), Signal()

    @app.step
    async def gate() -> None:
        await hold.wait()

    @app.pipeline(budget=3.0)
    async def pipe() -> None:
        await gate()

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.submit(Submission(pipeline="pipe", **given))
        await reach(handle, "step.started")
        clock.advance(expected)
        [demoted] = of(await reach(handle, "run.demoted"), "run.demoted")
        hold.set()
        await clock.run_until(result_of(handle))
    assert (demoted.data["budget_ms"], demoted.data["elapsed_ms"]) == (expected * 1000, expected * 1000)


async def test_a_client_that_disconnects_gets_what_the_pipeline_declares():
    hold, app = Signal(), App("gone")

    @app.step
    async def gate(kind: str) -> str:
        await hold.wait()
        return kind

    @app.pipeline(on_disconnect="continue")
    async def going_on() -> str:
        return await gate("continue")

    @app.pipeline(on_disconnect="demote")
    async def demoting() -> str:
        return await gate("demote")

    @app.pipeline(on_disconnect="cancel")
    async def cancelling() -> str:
        return await gate("cancel")

    async with testing.runtime(app) as runtime:
        handles = {name: await runtime.start(name) for name in ("going_on", "demoting", "cancelling")}
        for handle in handles.values():
            await reach(handle, "step.started")
            runtime.service.disconnected(handle.id)
            runtime.service.disconnected(handle.id)
        [demoted] = of(await reach(handles["demoting"], "run.demoted"), "run.demoted")
        assert types(await log_of(handles["cancelling"]))[-1] == "run.cancelled"
        hold.set()
        assert await result_of(handles["demoting"]) == "demote"
        assert await result_of(handles["going_on"]) == "continue"
        assert (await handles["going_on"].document())["path"] == "fast"
        runtime.service.disconnected("run_0")
    assert demoted.data["reason"] == "disconnect"
