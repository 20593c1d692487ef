"""A workflow that starts anew from its journal loses nothing and repeats nothing that this process does not have to."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

import offramp
from offramp import SLA, App
from offramp.engines.temporal.anew import Strayed
from offramp.engines.temporal.body import DRAWN_MAX
from offramp.execution.context import current
from offramp.paths.engine_path import EnginePath
from offramp.paths.local import LocalRuntime
from tests.support import Signal, eventually, log_of, member, of, reach, result_of, types

app = App("anew", classes=[SLA("now", budget=0.3), SLA("deep", budget=0)])
executed = []
gates = {}


@pytest.fixture(autouse=True)
def _fresh():
    executed.clear()
    gates.clear()


def gate(name):
    return gates.setdefault(name, Signal())


@app.step(timeout=30)
async def free(name: str) -> str:
    executed.append(name)
    return name


@app.step(timeout=30)
async def held(name: str) -> str:
    executed.append(name)
    await gate(name).wait()
    return name


@app.pipeline(sla="now")
async def demoted() -> list[str]:
    async def branch() -> str:
        await held("gateway")
        return await free("after the gateway")

    task = asyncio.create_task(branch())
    await asyncio.sleep(1.0)  # past its budget: what follows executes in a worker
    return [await held("worker"), await task]


@app.pipeline(sla="deep")
async def waits() -> list[str]:
    token = str(offramp.uuid4())
    first = await free(token)
    number = await offramp.signal("go")
    return [token, first, await free(f"{number} {token}"), str(await offramp.signal("go"))]


@app.pipeline(sla="deep")
async def draws(count: int) -> list[str]:
    drawn = [str(offramp.uuid4()) for _ in range(count)]
    steps = [asyncio.create_task(free(token)) for token in (drawn[0], drawn[-1])]
    await asyncio.wait(steps)
    await held("after")
    return drawn


@app.pipeline(sla="deep")
async def race() -> str:
    runners = [asyncio.create_task(held(name)) for name in ("slow", "quick")]
    done, _ = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
    winner = done.pop().result()
    await asyncio.wait(runners)
    return await free(f"{winner} wins") + await offramp.signal("go")


async def strayed(runtime, history, run_id):
    """As if the worker's body had made other commands than its history has: the id of that history."""
    begun = (await history(run_id))[0].workflow_execution_started_event_attributes
    runtime.worker.engine.strayed(Strayed(run_id, begun.original_execution_run_id, "a test says so"))

    async def replaced():
        newest = (await history(run_id))[0].workflow_execution_started_event_attributes
        return newest.original_execution_run_id != begun.original_execution_run_id

    await eventually(replaced)
    return begun.original_execution_run_id


async def test_values_that_were_drawn_and_signals_that_came_are_there_again(service, history):
    async with service(app) as runtime:
        handle = await runtime.start("waits")
        await reach(handle, "wait.started")
        await strayed(runtime, history, handle.id)
        await handle.signal("go", 1)
        await reach(handle, "wait.ended")
        await handle.signal("go", 2)
        token, first, second, last = await result_of(handle)
        seen = await log_of(handle)
    assert (first, second, last) == (token, f"1 {token}", "2")
    assert executed == [token, f"1 {token}"]
    assert types(seen)[-1] == "run.completed"
    assert "run.resumed" in types(seen)


@pytest.mark.parametrize("count", [2, DRAWN_MAX + 1])
async def test_values_are_written_down_with_the_step_that_follows_them(service, history, count):
    async with service(app) as runtime:
        handle = await runtime.start("draws", count=count)
        await eventually(lambda: "after" in executed)
        await strayed(runtime, history, handle.id)
        gate("after").set()
        drawn = await result_of(handle)
    assert len(set(drawn)) == count
    assert sorted(made for made in executed if made != "after") == sorted({drawn[0], drawn[-1]})


async def test_it_starts_anew_once_however_often_that_is_told(service, history):
    async with service(app) as runtime:
        handle = await runtime.start("waits")
        await reach(handle, "wait.started")
        old = await strayed(runtime, history, handle.id)
        runtime.worker.engine.strayed(Strayed(handle.id, old, "again"))
        await handle.signal("go", 1)
        await handle.signal("go", 2)
        await result_of(handle)
        assert len(of(await log_of(handle), "run.resumed")) == 1


async def test_what_a_body_tells_of_is_no_part_of_the_body(service, monkeypatch):
    """Its context knows whether it replays, and may be asked on its own loop only: by a filter of the log, for one."""
    async with service(app) as runtime:
        found = []

        async def begin(_strayed):
            found.append(current.get())

        monkeypatch.setattr(runtime.worker.engine.anew, "begin", begin)
        body = contextvars.Context()
        body.run(current.set, "a body")
        body.run(runtime.worker.engine.strayed, Strayed("run", "execution", "why"))
        await eventually(lambda: found)
    assert found == [None]


async def test_a_step_in_flight_in_a_living_gateway_is_not_executed_again(service, history):
    async with service(app, lease=30.0) as runtime:  # the gateway is not taken for dead on a busy machine
        handle = await runtime.start("demoted")
        await reach(handle, "run.demoted")
        await eventually(lambda: "worker" in executed)
        await strayed(runtime, history, handle.id)
        gate("gateway").set()
        await eventually(lambda: "after the gateway" in executed)
        gate("worker").set()
        assert await result_of(handle) == ["worker", "after the gateway"]
    assert executed.count("gateway") == executed.count("after the gateway") == 1


async def test_the_winner_of_a_race_wins_again(service, history, monkeypatch):
    told, attempt_of = Signal(), EnginePath.attempt

    async def attempt(self, lease, record, call, arguments, context):
        """The slow one is recorded first, and reported last."""
        if b'"quick"' in arguments:
            await told.wait()
        entry = await attempt_of(self, lease, record, call, arguments, context)
        if b'"slow"' in arguments:
            told.set()
            await gate("quick has won").wait()
        return entry

    monkeypatch.setattr(EnginePath, "attempt", attempt)
    async with service(app) as runtime:
        handle = await runtime.start("race")
        await reach(handle, "step.started")
        gate("slow").set()
        gate("quick").set()

        async def quick_was_seen():
            return any(event.HasField("activity_task_completed_event_attributes") for event in await history(handle.id))

        await eventually(quick_was_seen)
        gate("quick has won").set()
        await reach(handle, "wait.started")
        await strayed(runtime, history, handle.id)
        await handle.signal("go", "!")
        assert await result_of(handle) == "quick wins!"
    assert executed.count("quick wins") == 1


async def test_a_worker_that_does_not_know_the_pipeline_judges_nothing(tmp_path, url, history):
    settings = {"engine": url, "drain_timeout": 5, "lease": 2.0}
    other = App("other")

    @other.pipeline
    async def something() -> None:
        """Another service's."""

    async with member(app, tmp_path, "gateway", **settings) as gateway:
        runtime = LocalRuntime(gateway)
        async with member(app, tmp_path, "worker", owner="w1", **settings):
            handle = await runtime.start("waits")
            await reach(handle, "wait.started")
        async with member(other, tmp_path, "worker", owner="w2", **settings):
            await handle.signal("go", 1)

            async def refused():
                events = await history(handle.id)
                return [event for event in events if event.HasField("workflow_task_failed_event_attributes")]

            await eventually(refused)
            assert (await handle.document())["status"] == "running"
        async with member(app, tmp_path, "worker", owner="w3", **settings):
            await handle.signal("go", 2)
            assert (await result_of(handle))[3] == "2"
