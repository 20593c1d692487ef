"""What is counted of runs on Temporal, in the process where it happens, once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from offramp import SLA, App, Retry, current_run
from offramp.core.scaling import Sight
from offramp.engines.temporal import engine
from offramp.errors import TooLarge
from tests.support import GUARD_S, Signal, eventually, failure_of, reading, result_of

waits = SimpleNamespace(gate=Signal())
app = App("counted", classes=[SLA("now", budget=0.3), SLA("deep", budget=0)])


@app.step(retry=Retry(attempts=2, base=0.01))
async def shaky() -> None:
    if current_run().attempt == 1:
        raise ValueError


@app.step(timeout=0.1)
async def sluggish() -> None:
    await asyncio.sleep(60)


@app.step
async def echo(text: str) -> int:
    return len(text)


@app.pipeline(sla="deep")
async def worn() -> None:
    await shaky()
    await sluggish()


@app.pipeline(sla="deep")
async def large() -> int:
    try:
        await echo("x" * (1 << 20))
    except TooLarge:
        return await echo("small") + await echo("smaller")
    return 0


@app.step
async def patient() -> None:
    await waits.gate.wait()


@app.pipeline(sla="deep")
async def full() -> None:
    await patient()


@app.pipeline(sla="now")
async def slow() -> int:
    await asyncio.sleep(0.4)
    return await echo("slow")


@pytest.fixture(autouse=True)
def _bodies_are_rebuilt_at_each_turn(monkeypatch):
    monkeypatch.setattr(engine, "BODIES_CACHED_MAX", 0)


def counts(service, name, **labels):
    return reading(service, f"offramp_{name}", **labels)


async def test_steps_retries_and_timeouts_are_counted(service):
    async with service(app) as runtime:
        await failure_of(await runtime.start("worn"))
        worker = runtime.worker
        assert counts(worker, "step_retries_total", pipeline="worn", step="shaky") == 1
        assert counts(worker, "steps_total", pipeline="worn", step="shaky", outcome="completed") == 1
        assert counts(worker, "steps_total", pipeline="worn", step="sluggish", outcome="failed") == 1
        assert counts(worker, "step_timeouts_total", pipeline="worn", step="sluggish") == 1
        ended = {"pipeline": "worn", "class": "deep", "path": "deep", "outcome": "failed"}
        assert counts(worker, "runs_ended_total", **ended) == 1
        assert counts(worker, "queue_wait_seconds_count", **{"class": "deep"}) == 1
        assert counts(worker, "first_event_seconds_count", **{"class": "deep", "path": "deep"}) == 1
        assert counts(worker, "runs_live", path="deep") == 0


async def test_a_step_that_fails_in_its_body_is_counted_once(service):
    async with service(app) as runtime:
        assert await result_of(await runtime.start("large")) == 12
        assert counts(runtime.worker, "steps_total", pipeline="large", step="echo", outcome="failed") == 1
        assert counts(runtime.worker, "steps_total", pipeline="large", step="echo", outcome="completed") == 2


async def test_the_gap_of_a_demotion_is_counted(service):
    async with service(app) as runtime:
        assert await result_of(await runtime.start("slow")) == 4
        assert counts(runtime.service, "demotions_total", reason="predicted") == 1
        assert counts(runtime.worker, "demotion_gap_seconds_count", reason="predicted") == 1
        assert counts(runtime.worker, "queue_wait_seconds_count", **{"class": "now"}) == 0


async def test_bodies_under_way_are_shown(service, monkeypatch):
    monkeypatch.setattr(engine, "BODIES_CACHED_MAX", 10)
    async with service(app) as runtime:
        handle = await runtime.start("worn")
        await eventually(lambda: counts(runtime.worker, "runs_live", path="deep") == 1)
        await failure_of(handle)
        await eventually(lambda: counts(runtime.worker, "runs_live", path="deep") == 0)


async def test_steps_that_wait_for_a_worker_count_for_how_many_are_needed(service, monkeypatch):
    monkeypatch.setattr(waits, "gate", Signal())
    looks = []
    async with service(app, worker_runs=1) as runtime:
        runtime.service.crew.on_look = looks.append
        runs = [await runtime.start("full") for _ in range(4)]
        # Temporal counts approximately, and late.
        await eventually(lambda: any(look.needed > 1 for look in looks), 4 * GUARD_S)
        look = next(look for look in looks if look.needed > 1)
        assert look.seen == Sight(look.seen.waiting, busy=1, places=1, warm=1)
        assert look.needed == 1 + look.seen.waiting <= 4
        waits.gate.set()
        for run in runs:
            await result_of(run)
        await eventually(lambda: looks[-1].needed == 1, 4 * GUARD_S)
        assert counts(runtime.service, "workers_needed") == 1
