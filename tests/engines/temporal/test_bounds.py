"""Steps on Temporal are bounded and handed over as everywhere: by their timeout, and before they have a thread."""

from __future__ import annotations

import asyncio

import pytest

from offramp import SLA, App, Retry, current_run
from offramp.errors import StepTimeout
from tests.support import Signal, eventually, log_of, of, reach, reading, result_of

app = App("bounds", classes=[SLA("now", budget=0.3), SLA("deep", budget=0)])
executed = []
gates = {}


def gate(name):
    return gates.setdefault(name, Signal())


@pytest.fixture(autouse=True)
def _fresh():
    executed.clear()
    gates.clear()
    yield
    for each in gates.values():
        each.set()


async def refuse():
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            executed.append("refused")


@app.step(timeout=0.2, retry=Retry(attempts=2, base=0.01))
async def stubborn() -> str:
    if current_run().attempt > 1:
        return "second"
    await refuse()
    return "first"


@app.step(timeout=0.2, short=True)
async def short() -> None:
    await refuse()


@app.step(timeout=0.2)
def stuck() -> None:
    gate("stuck").block()


@app.step
def blocks(name: str) -> str:
    executed.append(name)
    gate(name).block()
    return name


@app.pipeline(sla="deep")
async def bounded() -> list[str]:
    made = [await stubborn()]
    for step in (short, stuck):
        try:
            await step()
        except StepTimeout as error:
            made.append(str(error))
    return made


@app.pipeline(sla="now")
async def branches() -> list[str]:
    return list(await asyncio.gather(blocks("first"), blocks("second")))


async def test_a_step_that_swallows_its_timeout_is_abandoned(service):
    async with service(app, cancel_grace=0.3) as runtime:
        handle = await runtime.start("bounded")
        assert await result_of(handle) == [
            "second",
            "step 'short' took longer than its timeout of 0.2 s",
            "step 'stuck' took longer than its timeout of 0.2 s",
        ]
        for name in ("stubborn", "short", "stuck"):
            labels = {"pipeline": "bounded", "step": name}
            await eventually(lambda of=labels: reading(runtime.worker, "offramp_steps_abandoned_total", **of) == 1)
        assert reading(runtime.worker, "offramp_threads_held") == 1
        seen = await log_of(handle)
    assert executed == ["refused", "refused"]
    assert [event.data["error"]["code"] for event in of(seen, "step.retrying")] == ["step-timeout"]


async def test_a_step_that_waits_for_a_thread_at_the_demotion_is_executed_by_the_worker(service):
    gate("second").set()
    async with service(app, threads=1) as runtime:
        handle = await runtime.start("branches")
        await reach(handle, "step.completed", "blocks")  # in the worker, while the gateway's only thread is busy
        assert executed == ["first", "second"]
        gate("first").set()
        assert await result_of(handle) == ["first", "second"]
        seen = await log_of(handle)
    assert executed == ["first", "second"]
    assert len(of(seen, "step.started")) == 2
