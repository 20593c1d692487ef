"""A run on Temporal says what it waits for, and takes an answer of its schema alone, from history to history."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import offramp
from offramp import SLA, App
from offramp.errors import InputError
from offramp.ports.listing import RunFilter
from tests.support import Signal, log_of, of, reach, result_of

app = App("asking", classes=[SLA("deep", budget=0)])
gates = [Signal()]


@app.step(timeout=30)
async def hold() -> None:
    await gates[-1].wait()


@app.step(timeout=30)
async def count(number: int) -> int:
    return number


@app.pipeline(sla="deep")
async def ask(steps: int) -> list[Any]:
    """Its history ends while it waits, after the steps beside the waits."""
    await hold()
    waits = asyncio.gather(offramp.signal("n", ask="How many?", schema=int), offramp.signal("go"), offramp.sleep(0.5))
    for number in range(steps):
        await count(number)
    return [*await waits, await offramp.signal("n", schema=str)]


async def asked(handle, *names):
    """The waits, once the run waits for these and nothing else."""
    while True:
        waits = (await handle.document())["waiting_for"]
        if [wait["name"] for wait in waits] == list(names):
            return waits
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("anew", [False, True])
async def test_waits_are_seen_answers_checked_and_refusals_written_once(service, history, anew):
    gates.append(Signal())
    async with service(app) as runtime:
        if anew:
            runtime.worker.engine.history_events_max = 60
        handle = await runtime.start("ask", steps=12 if anew else 1)
        await reach(handle, "step.started")
        assert await handle.signal("n", "early") is False
        gates[-1].set()
        await reach(handle, "signal.refused")
        signal, _ = await asked(handle, "n", "go")
        assert (signal["kind"], signal["ask"], signal["schema"]) == ("signal", "How many?", {"type": "integer"})
        began = (await reach(handle, "wait.started"))[-1]
        assert signal["since"] == began.at
        with pytest.raises(InputError, match="expected an integer"):
            await handle.signal("n", "two")
        listed, _ = await runtime.service.list(RunFilter(waiting=True))
        assert [document["id"] for document in listed] == [handle.id]
        assert await handle.signal("n", 2) is True
        assert await handle.signal("go") is True
        assert await result_of(handle) == [2, None, None, "early"]
        assert len(of(await log_of(handle), "signal.refused")) == 1
        first = (await history(handle.id))[0].workflow_execution_started_event_attributes
        assert bool(first.continued_execution_run_id) is anew
        assert await runtime.service.process.store.waiting() == {}
