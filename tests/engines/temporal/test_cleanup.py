"""Cleaning up on Temporal: after a cancellation and a deadline, in a new history, and after a worker's death."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import httpx
import pytest

import offramp
from offramp import SLA, App
from offramp.core.ending import CLEANUP, STRUCK
from tests import temporal
from tests.engines.temporal.test_kills import Place, events, outcome, submit
from tests.support import Signal, log_of, of, types

app = App("tidy", classes=[SLA("deep", budget=0)])
executed = []
gates = {}


@pytest.fixture(autouse=True)
def _fresh():
    executed.clear()
    gates.clear()


def gate(name):
    return gates.setdefault(name, (Signal(), Signal()))


@app.step(timeout=60)
async def hold(name: str) -> str:
    executed.append(name)
    begun, go_on = gate(name)
    begun.set()
    await go_on.wait()
    return name


@app.step(timeout=60)
async def tidy(name: str) -> str:
    executed.append(name)
    return name


async def body(timeout):
    await tidy("before")
    try:
        await hold("work")
    except asyncio.CancelledError:
        async with offramp.cleanup(timeout=timeout):
            async with asyncio.TaskGroup() as group:
                group.create_task(tidy("one"))
                group.create_task(hold("two"))
            await tidy("three")
        raise


@app.pipeline(sla="deep")
async def cancels(timeout: float) -> None:
    await body(timeout)


@app.pipeline(sla="deep", deadline=6.0)
async def expires(timeout: float) -> None:
    await body(timeout)


@pytest.mark.parametrize("pipeline", ["cancels", "expires"])
async def test_steps_execute_after_the_end(service, pipeline):
    gate("two")[1].set()
    async with service(app) as runtime:
        handle = await runtime.start(pipeline, timeout=30)
        await gate("work")[0].wait()
        if pipeline == "cancels":
            await handle.cancel()
        seen = await log_of(handle)
        names = [entry.name for entry in await runtime.service.process.store.journal(handle.id)]
    assert types(seen)[-1] == {"cancels": "run.cancelled", "expires": "run.expired"}[pipeline]
    assert sorted(executed) == ["before", "one", "three", "two", "work"]
    assert [event.data["step"] for event in of(seen, "step.completed")][0::3] == ["tidy", "tidy"]
    assert names[:3] == ["tidy", STRUCK, CLEANUP]
    assert sorted(names[3:5]) == ["hold", "tidy"]


@pytest.mark.parametrize("pipeline", ["cancels", "expires"])
async def test_at_its_timeout_the_run_ends(service, pipeline):
    async with service(app) as runtime:
        handle = await runtime.start(pipeline, timeout=1)
        await gate("work")[0].wait()
        if pipeline == "cancels":
            await handle.cancel()
        seen = await log_of(handle)
    assert types(seen)[-1] == {"cancels": "run.cancelled", "expires": "run.expired"}[pipeline]
    assert sorted(executed) == ["before", "one", "two", "work"]


@app.pipeline(sla="deep", deadline=6.0)
async def clings(tag: str) -> None:
    try:
        await hold(tag)
    except asyncio.CancelledError:
        await asyncio.sleep(3600)


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_body_that_does_not_let_go_ends_after_the_grace(service, end):
    async with service(app, cancel_grace=1.0) as runtime:
        handle = await runtime.start("clings", tag="work")
        await gate("work")[0].wait()
        if end == "cancelled":
            await handle.cancel()
        assert types(await log_of(handle))[-1] == f"run.{end}"


@app.pipeline(sla="deep")
async def tidies_long(steps: int) -> None:
    try:
        await hold("work")
    finally:
        async with offramp.cleanup(timeout=60):
            for number in range(steps):
                await tidy(str(number))


async def test_a_cleanup_goes_on_in_a_new_history(service):
    async with service(app) as runtime:
        runtime.worker.engine.history_events_max = 60
        handle = await runtime.start("tidies_long", steps=20)
        await gate("work")[0].wait()
        await handle.cancel()
        seen = await log_of(handle)
        names = [entry.name for entry in await runtime.service.process.store.journal(handle.id)]
    assert types(seen)[-1] == "run.cancelled"
    assert executed == ["work", *map(str, range(20))]
    assert names == [STRUCK, CLEANUP, *["tidy"] * 20]
    assert of(seen, "run.resumed"), "it stayed in its first history"


def test_a_worker_is_killed_in_mid_cleanup(tmp_path):
    place = Place(tmp_path, temporal.server())
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(place.worker())
        gateway = stack.enter_context(place.gateway())
        run = submit(gateway, "tidies", "t")
        place.reached("t-work")
        assert httpx.post(f"{gateway.url}/v1/runs/{run}/cancel").status_code == 202
        place.reached("t-two")
        worker.process.kill()
        place.let_go("t-two")
        stack.enter_context(place.worker())
        document = outcome(gateway, run)
        seen = events(gateway, run)
    assert document["status"] == "cancelled"
    assert Counter(step for step, _ in place.executed()) == Counter(
        {"t-before": 1, "t-work": 1, "t-one": 1, "t-two": 2, "t-three": 1}
    )
    assert [event["type"] for event in seen][-1] == "run.cancelled"
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    # What the body logged: the first worker all of it, the second what was new, whatever it repeated.
    said = [line.split() for line in (tmp_path / "said").read_text(encoding="utf-8").splitlines()]
    assert [line[0] for line in said if line[1] == "False"] == ["begins", "struck", "tidy", "over"]
    assert {line[0] for line in said if line[1] == "True"} >= {"begins", "struck"}
