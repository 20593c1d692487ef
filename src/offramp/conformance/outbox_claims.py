"""Cases of claims of due announcements, and their number at a time (W3, W6)."""

from __future__ import annotations

import asyncio

from offramp.conformance.case import case
from offramp.conformance.outbox_stage import CLAIM_S, announcing, due, step, webhook
from offramp.conformance.sample import NOW
from offramp.conformance.store_stage import StoreStage
from offramp.core.webhooks import Progress
from offramp.ports.outbox import CANDIDATES_MAX, Room


@case("W3", needs=("webhooks",))
async def an_entry_is_one_processs_until_its_claim_runs_out(stage: StoreStage) -> None:
    peer = await stage.peer()
    _, log = await announcing(stage)
    await step(log, 1)
    [first] = await due(stage)
    assert await due(peer, NOW + CLAIM_S - 0.1) == [], "two processes announce the same at the same time"
    [second] = await due(peer, NOW + CLAIM_S)
    assert second.token > first.token, f"claim {second.token} came after claim {first.token}"
    assert not await stage.outbox.settle(first, Progress(2)), "a claim that ran out was settled"
    assert not await stage.outbox.settle(first, Progress(2, done=True)), "a claim that ran out removed the entry"
    assert await peer.outbox.settle(second, Progress(2)), "the claim that is in force was refused"
    assert await due(stage, NOW + 1e6) == []


@case("W3", needs=("webhooks",))
async def a_claim_that_was_settled_is_not_settled_again(stage: StoreStage) -> None:
    _, log = await announcing(stage)
    await step(log, 1)
    [first] = await due(stage)
    assert await stage.outbox.settle(first, Progress(0, 1, NOW, NOW + 5))
    [second] = await due(stage, NOW + 5)
    assert second.token > first.token, f"claim {second.token} came after claim {first.token}"
    assert not await stage.outbox.settle(first, Progress(2)), "an older claim settled an entry that a newer one holds"


@case("W3", needs=("webhooks", "shared"))
async def processes_that_claim_together_share(stage: StoreStage) -> None:
    members = [stage, await stage.peer(), await stage.peer()]
    runs = set()
    for _ in range(20):
        run, log = await announcing(stage)
        await step(log, 1)
        runs.add(run.id)
    claims = await asyncio.gather(*(due(member) for member in members))
    taken = [pending.run_id for each in claims for pending in each]
    assert sorted(taken) == sorted(runs), "an entry was taken twice, or not at all"


async def _due_runs(stage: StoreStage, host: str, count: int) -> None:
    made = await asyncio.gather(*(announcing(stage, webhook(host)) for _ in range(count)))
    await asyncio.gather(*(step(log, 1) for _, log in made))


async def _hosts(stage: StoreStage, room: Room) -> list[str]:
    return sorted(pending.host for pending in await due(stage, room=room))


@case("W6", needs=("webhooks",))
async def a_claim_takes_what_there_is_room_for(stage: StoreStage) -> None:
    await _due_runs(stage, "dead.example", 9)
    await _due_runs(stage, "alive.example", 3)
    assert await _hosts(stage, Room(0, 4, {})) == [], "there is no room, but something was taken"
    assert await _hosts(stage, Room(5, 2, {"dead.example": 1})) == ["alive.example"] * 2 + ["dead.example"]
    assert await _hosts(stage, Room(2, 100, {"alive.example": 2})) in (
        ["dead.example"] * 2,
        ["alive.example", "dead.example"],
    )
    assert await _hosts(stage, Room(100, 4, {"dead.example": 4})) in ([], ["alive.example"])


@case("W6", needs=("webhooks",))
async def what_waits_for_a_full_host_does_not_hide_the_others(stage: StoreStage) -> None:
    await _due_runs(stage, "dead.example", CANDIDATES_MAX + 1)
    await _due_runs(stage, "alive.example", 1)
    room = Room(10, 2, {"dead.example": 2})
    assert await _hosts(stage, room) == ["alive.example"], "a host that is full holds up the others"
