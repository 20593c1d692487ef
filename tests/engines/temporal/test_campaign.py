"""Runs that are demoted by gateways which are killed at random: one live run each, and no finished step again."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from offramp.conformance.case import PATIENCE_S
from offramp.conformance.engine_stage import EngineStage
from offramp.conformance.sample import DEMOTION
from offramp.ports.engine import Handoff
from offramp.ports.store import Claim
from tests.conformance.temporal import TEMPORAL

STEPS = ("one", "two", "three")
RUNS_PER_GATEWAY = 10


class Timeline(list):
    """A list of a ledger that notes in one order what is added to any of them."""

    def __init__(self, kind, notes):
        super().__init__()
        self._kind, self._notes = kind, notes

    def append(self, made):
        self._notes.append((self._kind, made))
        super().append(made)


async def demote(stage, gateway, chance):
    """Begin a run, demote it and let it go, stopping anywhere if the gateway is killed."""
    run, log = await stage.begun(gateway, *STEPS)
    gateway.host.execute(Claim(run, log.lease, fresh=True))
    await asyncio.sleep(chance.random() * 0.003)
    try:
        await log.durable()
        await gateway.engine.adopt(Handoff(log.lease, DEMOTION, []))
        gateway.host.hand_over(run.id)
    except Exception:  # noqa: BLE001 - it ended before, or its gateway was killed: the store says what becomes of it
        pass
    return run


async def play(stage, count, chance):
    notes = []
    stage.ledger.began, stage.ledger.recorded = Timeline("began", notes), Timeline("recorded", notes)
    for name in ("w1", "w2"):
        await stage.join(name, room=50)
    runs, killed = [], 0
    while len(runs) < count:
        gateway = await stage.join(f"g{len(runs)}", works=False)
        wanted = [demote(stage, gateway, chance) for _ in range(RUNS_PER_GATEWAY)]
        runs += await asyncio.gather(*wanted)
        if chance.random() < 0.7:
            await stage.kill(gateway)
            killed += 1
        else:
            await stage.settle()
    assert killed
    for run in runs:
        assert await stage.outcome(run) == "completed"
        assert sorted(await stage.recorded(run)) == sorted(STEPS), "a step was recorded twice, or is missing"
    finished = set()
    for kind, made in notes:
        place = (made.run_id, made.step)
        if kind == "recorded":
            assert place not in finished, f"{place} finished twice"
            finished.add(place)
        else:
            assert place not in finished, f"{place} was executed again by {made.owner}, though it had finished"
    moved = sum(owner.startswith("w") for owner, _ in stage.ledger.taken)
    assert moved >= len(runs) / 4, f"only {moved} of {len(runs)} runs came to a worker"


async def campaign(count, seed):
    PATIENCE_S.set(60.0)
    stage = await EngineStage.open(TEMPORAL)
    try:
        await play(stage, count, random.Random(seed))
    finally:
        await stage.close()


async def test_gateways_killed_at_random_lose_and_repeat_nothing():
    await campaign(40, seed=7)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
async def test_a_thousand_runs_of_gateways_killed_at_random():
    await campaign(1000, seed=int(os.environ.get("SEED", "7")))
