"""A body that goes on in a new history sees results in the order in which it saw them, not as they were recorded."""

from __future__ import annotations

import asyncio

from offramp import SLA, App
from offramp.paths.engine_path import EnginePath
from tests.engines.temporal.test_long_runs import workflows_of
from tests.support import Signal, log_of, result_of, types

app = App("races", classes=[SLA("deep", budget=0)])


@app.step(timeout=20)
async def run_to(goal: str) -> str:
    return goal


@app.step(timeout=20)
async def count(number: int) -> int:
    return number


@app.pipeline(sla="deep")
async def race(steps: int) -> list[str | int]:
    runners = [asyncio.ensure_future(run_to(goal)) for goal in ("slow", "quick")]
    done, _ = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
    winner = done.pop().result()
    total = 0
    for number in range(steps):
        total += await count(number + len(winner))  # other steps, had another won
    await asyncio.wait(runners)
    return [winner, total]


async def test_the_winner_of_a_race_stays_the_winner(service, monkeypatch):
    told, executed = Signal(), EnginePath.attempt

    async def attempt(self, lease, record, call, arguments, context):
        """The slow one is recorded first, and reported last."""
        if b'"quick"' in arguments:
            await told.wait()
        entry = await executed(self, lease, record, call, arguments, context)
        if b'"slow"' in arguments:
            told.set()
            await asyncio.sleep(0.5)
        return entry

    monkeypatch.setattr(EnginePath, "attempt", attempt)
    async with service(app) as runtime:
        runtime.worker.engine.history_events_max = 60
        handle = await runtime.start("race", steps=30)
        assert await result_of(handle) == ["quick", sum(range(30)) + 30 * len("quick")]
        assert types(await log_of(handle))[-1] == "run.completed"
        recorded = await runtime.service.process.store.journal(handle.id)
        verdict = await runtime.service.replay(handle.id)
    run_id, continued = await workflows_of(handle.id)
    assert continued != run_id
    assert [entry.value for entry in recorded[:2]] == [b'"slow"', b'"quick"']
    assert verdict.outcome.status == "completed"
