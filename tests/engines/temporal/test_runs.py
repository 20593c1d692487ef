"""Runs on a real Temporal server: what a pipeline does, what its log says, what the workflow's history holds."""

from __future__ import annotations

import asyncio
import threading
from unittest.mock import ANY

import msgspec
import pytest

import offramp
from offramp import SLA, App, Retry, RouteRequest, current_run, emit
from offramp.errors import InputError, SignalTimeout
from offramp.paths.submission import Submission
from offramp.ports.bodies import PAYLOAD_BYTES_MAX
from tests.support import Signal, eventually, failure_of, log_of, of, reach, result_of, types

app = App("deep", classes=[SLA("now", budget=0.3), SLA("deep", budget=0)])
executed = []
cancelled = []
gates = {}


def gate(name):
    return gates.setdefault(name, Signal())


@pytest.fixture(autouse=True)
def _fresh():
    executed.clear()
    cancelled.clear()
    gates.clear()


@app.rule
async def by_metadata(request: RouteRequest):
    return ("deep", "its metadata") if request.metadata.get("to") == "deep" else None


@app.step(timeout=20)
async def add(left: int, right: int) -> int:
    executed.append(("add", left, right))
    emit(f"{left}+{right}")
    return left + right


@app.step(timeout=20)
def double(number: int) -> int:
    executed.append(("double", threading.current_thread().name.startswith("offramp-step")))
    return 2 * number


@app.step(short=True)
async def quick(number: int) -> int:
    executed.append(("quick", current_run().attempt))
    return number + 1


@app.step(timeout=20)
async def hold(name: str) -> str:
    executed.append(("hold", name))
    try:
        await gate(name).wait()
    except asyncio.CancelledError:
        cancelled.append(name)
        raise
    return name


@app.step(retry=Retry(attempts=3, base=0.01))
async def shaky(fails: int) -> int:
    emit("try")
    if current_run().attempt <= fails:
        raise ValueError(fails)
    return current_run().attempt


@app.step(timeout=0.2)
async def sluggish() -> None:
    await asyncio.sleep(60)


@app.step
async def large(size: int) -> str:
    return "x" * size


@app.pipeline(sla="deep")
async def sums(number: int) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(add(number, other)) for other in range(3)]
    emit("summed")
    return [await double(task.result()) for task in tasks] + [await quick(number)]


@app.pipeline(sla="now")
async def leaves(number: int) -> list[int | str]:
    first = await add(number, 1)
    async with asyncio.TaskGroup() as group:
        held = group.create_task(hold("leaving"))
        other = group.create_task(double(first))
    return [held.result(), await add(other.result(), first)]


@app.pipeline(sla="deep")
async def tries(fails: int) -> int:
    return await shaky(fails)


@app.pipeline(sla="deep")
async def too_slow() -> str:
    try:
        await sluggish()
    except TimeoutError as error:
        return type(error).__name__
    return ""


@app.pipeline(sla="deep")
async def waits(timeout: float) -> str:
    began = offramp.now()
    token = offramp.uuid4()
    await offramp.sleep(0.2)
    first = await offramp.signal("go")
    try:
        second = await offramp.signal("go", timeout=timeout)
    except SignalTimeout:
        second = "timed out"
    return f"{first} {second} {(offramp.now() - began).total_seconds() >= 0.2} {token.version}"


@app.pipeline(sla="deep")
async def holds(name: str) -> str:
    return await hold(name)


@app.pipeline(sla="deep", deadline=1.0)
async def expires(name: str) -> str:
    return await hold(name)


@app.pipeline(sla="deep")
async def blocks_a_thread() -> int:
    return await asyncio.to_thread(lambda: 1)


@app.pipeline(sla="deep")
async def grows(size: int) -> str:
    return await large(size)


@app.pipeline(sla="deep")
async def passes(size: int) -> int:
    return len(await echo("x" * size))


@app.step
async def echo(text: str) -> str:
    return text[:1]


def numbered(seen):
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    return types(seen)


def names(events):
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


async def test_a_deep_run_is_a_workflow_named_after_its_pipeline(service, history):
    async with service(app) as runtime:
        handle = await runtime.start("sums", number=5)
        assert await result_of(handle) == [10, 12, 14, 6]
        seen = await log_of(handle)
        document = await handle.document()
    log = numbered(seen)
    assert (log[0], log[-1]) == ("run.accepted", "run.completed")
    assert log.count("step.started") == log.count("step.completed") == 7
    assert sorted(event.data["delta"] for event in of(seen, "step.delta")) == ["5+0", "5+1", "5+2", "summed"]
    assert {step["status"] for step in document["steps"]} == {"completed"}
    assert ("double", True) in executed
    events = await history(handle.id)
    begun = events[0].workflow_execution_started_event_attributes
    assert begun.workflow_type.name == "sums"
    assert begun.eager_execution_accepted, "the worker that hands a run to Temporal has its first task dispatched to it"
    assert names(events) == ["add"] * 3 + ["double"] * 3, "a step is an activity named after it, a short one is none"


async def test_a_result_is_not_in_history_and_an_argument_only_once(service, history):
    async with service(app) as runtime:
        handle = await runtime.start("passes", size=5000)
        await result_of(handle)
        other = await runtime.start("grows", size=5000)
        await result_of(other)
    for run in (handle, other):
        data = b"".join([event.SerializeToString() for event in await history(run.id)])
        assert data.count(b"x" * 5000) == 1


async def test_a_demoted_run_repeats_no_step_and_delivers_those_in_flight(service, history):
    async with service(app) as runtime:
        handle = await runtime.start("leaves", number=1)
        await reach(handle, "run.demoted")
        await reach(handle, "run.resumed")
        gate("leaving").set()
        assert await result_of(handle) == ["leaving", 6]
        seen = await log_of(handle)
    log = numbered(seen)
    assert log.index("run.demoted") < log.index("run.resumed")
    [resumed] = [event.data for event in of(seen, "run.resumed")]
    assert (resumed["worker"], resumed["replayed_steps"], resumed["reason"]) == ("w1", 2, "demotion")
    assert executed.count(("hold", "leaving")) == executed.count(("add", 1, 1)) == 1
    assert names(await history(handle.id)) == ["add"], "a seeded step was an activity"


async def test_bodies_that_are_rebuilt_at_each_turn_end_alike(service, monkeypatch):
    from offramp.engines.temporal import engine

    monkeypatch.setattr(engine, "BODIES_CACHED_MAX", 0)
    async with service(app) as runtime:
        sums = await runtime.start("sums", number=5)
        waits = await runtime.start("waits", timeout=0.1)
        leaves = await runtime.start("leaves", number=1)
        await waits.signal("go", 1)
        await reach(leaves, "run.demoted")
        gate("leaving").set()
        assert await result_of(sums) == [10, 12, 14, 6]
        assert await result_of(waits) == "1 timed out True 4"
        assert await result_of(leaves) == ["leaving", 6]
        assert [event.data["delta"] for event in of(await log_of(sums), "step.delta")].count("summed") == 1
        for handle in (sums, waits, leaves):
            log = numbered(await log_of(handle))
            assert log[-1] == "run.completed"
    assert executed.count(("hold", "leaving")) == executed.count(("add", 1, 1)) == executed.count(("quick", 1)) == 1


async def test_a_failing_step_is_tried_again_by_temporal(service, history):
    async with service(app) as runtime:
        handle = await runtime.start("tries", fails=2)
        assert await result_of(handle) == 3
        seen = await log_of(handle)
        lost = await runtime.start("tries", fails=3)
        error = await failure_of(lost)
        failed = await log_of(lost)
    attempts = [(event.type, event.data["attempt"]) for event in seen if event.type.startswith("step.")]
    assert attempts == [
        *(("step.started", 1), ("step.delta", 1), ("step.retrying", 1)),
        *(("step.started", 2), ("step.delta", 2), ("step.retrying", 2)),
        *(("step.started", 3), ("step.delta", 3), ("step.completed", 3)),
    ]
    assert names(await history(handle.id)) == ["shaky"], "each attempt is Temporal's, of one activity"
    assert isinstance(error, ValueError)
    assert error.args == (3,)
    reported = failed[-1].data["error"]
    assert reported.pop("where") == {"file": "tests/engines/temporal/test_runs.py", "line": ANY, "function": "shaky"}
    assert reported == {"code": "step-failed", "message": "ValueError: 3", "step": "shaky", "attempt": 3}


async def test_a_step_is_ended_at_its_timeout(service):
    async with service(app) as runtime:
        assert await result_of(await runtime.start("too_slow")) == "StepTimeout"


async def test_a_body_waits_by_durable_timers_and_for_signals(service, history):
    async with service(app) as runtime:
        handle = await runtime.start("waits", timeout=30.0)
        await handle.signal("go", {"n": 1})
        await handle.signal("go", 2)
        assert await result_of(handle) == "{'n': 1} 2 True 4"
        late = await runtime.start("waits", timeout=0.1)
        await late.signal("go", 1)
        assert await result_of(late) == "1 timed out True 4"
    assert any(event.HasField("timer_started_event_attributes") for event in await history(handle.id))


async def test_a_run_is_cancelled_with_its_steps(service, caplog):
    async with service(app) as runtime:
        handle = await runtime.start("holds", name="never")
        await reach(handle, "step.started")
        await handle.cancel()
        seen = await log_of(handle)
        await eventually(lambda: cancelled == ["never"])
    assert numbered(seen)[-1] == "run.cancelled"
    assert "Traceback" not in caplog.text


async def test_a_run_expires_at_its_deadline(service):
    async with service(app) as runtime:
        handle = await runtime.start("expires", name="never")
        seen = await log_of(handle)
    assert numbered(seen)[-1] == "run.expired"
    assert seen[-1].data["error"]["code"] == "deadline"


async def test_a_body_that_uses_threads_is_told_what_to_move(service):
    async with service(app) as runtime:
        handle = await runtime.start("blocks_a_thread")
        seen = await log_of(handle)
    error = seen[-1].data["error"]
    assert error["code"] == "body-not-repeatable"
    assert "run_in_executor() of its event loop" in error["message"]
    assert "into a step" in error["message"]


@pytest.mark.parametrize(("pipeline", "step"), [("grows", "large"), ("passes", "echo")])
async def test_what_is_too_large_fails_the_run_by_name(service, pipeline, step):
    async with service(app) as runtime:
        assert await result_of(await runtime.start(pipeline, size=PAYLOAD_BYTES_MAX - 100))
        seen = await log_of(await runtime.start(pipeline, size=PAYLOAD_BYTES_MAX + 1))
    error = seen[-1].data["error"]
    assert error["code"] == "too-large"
    assert f"step '{step}'" in error["message"]
    assert str(PAYLOAD_BYTES_MAX) in error["message"]
    assert "--objects (OFFRAMP_OBJECTS)" in error["message"]


async def test_an_input_that_is_too_large_is_refused(service):
    big = msgspec.json.encode({"name": "x" * PAYLOAD_BYTES_MAX})
    async with service(app) as runtime:
        with pytest.raises(InputError, match="the input has"):
            await runtime.submit(Submission(pipeline="holds", input=big))


async def test_runs_are_found_by_session_class_and_tenant(service, url):
    from temporalio.client import Client

    from tests import temporal

    async with service(app) as runtime:
        given = Submission(pipeline="tries", input=b'{"fails": 0}', session_id="talk", tenant="acme")
        accepted = await runtime.service.submit(given)
        client = await Client.connect(temporal.server().target)
        query = "OfframpSession='talk' AND OfframpClass='deep' AND OfframpTenant='acme'"

        async def listed():
            return [made.id async for made in client.list_workflows(query)]

        await eventually(listed)
        assert await listed() == [accepted.record.id]
        description = await client.get_workflow_handle(accepted.record.id).describe()
    assert description.raw_description.workflow_execution_info.priority.fairness_key == "acme"


async def test_a_rule_sends_a_run_deep_and_the_run_keeps_its_route(service):
    async with service(app) as runtime:
        handle = await runtime.submit(Submission(pipeline="leaves", input=b'{"number": 1}', metadata={"to": "deep"}))
        gate("leaving").set()
        assert await result_of(handle) == ["leaving", 6]
        document = await handle.document()
    assert (document["path"], document["demotion"]) == ("deep", None)
    route = {"path": "deep", "by": "rule", "reasons": ["its metadata"], "predicted_ms": None, "confidence": 0}
    assert document["route"] == route


async def test_a_run_whose_workflow_was_terminated_can_be_cancelled(service):
    from temporalio.client import Client

    from tests import temporal

    async with service(app) as runtime:
        handle = await runtime.start("holds", name="never")
        await reach(handle, "step.started")
        client = await Client.connect(temporal.server().target)
        await client.get_workflow_handle(handle.id).terminate()
        await handle.cancel()
        assert types(await log_of(handle))[-1] == "run.cancelled"


async def test_runs_go_on_where_search_attributes_are_lost(service):
    from temporalio.common import SearchAttributeKey

    from offramp.engines.temporal import connection

    async with service(app) as runtime:
        assert await result_of(await runtime.start("tries", fails=0)) == 1  # it is connected, and has made them
        ours = dict(connection.ATTRIBUTES)
        try:
            connection.ATTRIBUTES["Class"] = SearchAttributeKey.for_keyword("OfframpUnheardOf")
            assert await result_of(await runtime.start("tries", fails=0)) == 1
            assert runtime.worker.engine.connection.attributes == []
        finally:
            connection.ATTRIBUTES.update(ours)
