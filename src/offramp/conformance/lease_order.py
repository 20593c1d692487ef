"""Cases of the order in which queued runs are taken: tenants, shares of overdue classes, places kept (Q3, Q19)."""

from __future__ import annotations

from collections import Counter

from offramp.conformance.case import case
from offramp.conformance.sample import NOW, PIPELINE
from offramp.conformance.store_stage import StoreStage
from offramp.core.sla import SLA
from offramp.ports.store import Leases

HIGH, LOW = SLA("high", priority=5), SLA("low", priority=-1, share=0.25, patience=60)
CLASSES = {"high": HIGH, "low": LOW}
LATER = NOW + 10_000
"""When every run of a case is overdue."""


async def _queued(stage: StoreStage, count: int, sla: SLA = LOW, **changes: str) -> list[str]:
    made = {"sla": sla.name, "priority": sla.priority} | changes
    return [(await stage.queued(**made)).id for _ in range(count)]


async def _taken(leases: Leases, by: str, limit: int = 1, now: float = NOW, *pipelines: str) -> list[str]:
    return [run.record.id for run in await leases.claim(by, limit, pipelines or [PIPELINE], now, CLASSES)]


@case("Q3", "Q19")
async def one_run_does_not_wait_for_those_of_another_tenant(stage: StoreStage) -> None:
    many = await _queued(stage, 30, tenant="many")
    [small] = await _queued(stage, 1, tenant="small")
    assert await _taken(stage.leases, "a", limit=6) == [many[0], small, *many[1:5]]


@case("Q3", "Q19", needs=("shared",))
async def claims_of_all_processes_together_are_fair(stage: StoreStage) -> None:
    peer = await stage.peer()
    tenant = {run_id: name for name in ("one", "two", "three") for run_id in await _queued(stage, 8, tenant=name)}
    for turn in range(4):
        three = [await _taken(leases, "a") for leases in (stage.leases, peer.leases, stage.leases)]
        names = sorted(tenant[run_id] for [run_id] in three)
        assert names == ["one", "three", "two"], f"in turn {turn}, runs of {names} were taken"


@case("Q3", "Q19", needs=("durable",))
async def what_tenants_were_given_is_remembered(stage: StoreStage) -> None:
    first, _ = await _queued(stage, 2, tenant="first")
    second, _ = await _queued(stage, 2, tenant="second")
    assert await _taken(stage.leases, "a") == [first]
    successor = await stage.reopen()
    assert await _taken(successor.leases, "b") == [second], "a tenant was given a second run before another's first"


@case("Q3", "Q19")
async def a_tenant_that_was_given_runs_alone_owes_nothing_for_them(stage: StoreStage) -> None:
    before = await _queued(stage, 12, tenant="before")
    assert await _taken(stage.leases, "a", limit=8) == before[:8]
    new = await _queued(stage, 4, tenant="new")
    assert set(await _taken(stage.leases, "a", limit=4)) == {*before[8:10], *new[:2]}


@case("Q3", "Q19")
async def a_tenant_that_comes_back_at_once_is_not_preferred(stage: StoreStage) -> None:
    backlog = await _queued(stage, 6, tenant="backlog")
    got: list[str] = []
    for name in ("x", "y"):
        await _queued(stage, 1, tenant=name)
    for _ in range(9):
        [claim] = await stage.leases.claim("a", 1, [PIPELINE], NOW, CLASSES)
        got.append(claim.record.tenant)
        if claim.record.tenant != "backlog":
            await _queued(stage, 1, tenant=claim.record.tenant)
    assert Counter(got) == {"backlog": 3, "x": 3, "y": 3}, f"the tenants were given runs in this order: {got}"
    assert (await stage.store.get(backlog[3])) is not None


@case("Q3", "Q19")
async def a_tenant_with_many_pipelines_is_given_no_more(stage: StoreStage) -> None:
    names = [PIPELINE, "second", "third"]
    for name in names:
        await _queued(stage, 6, tenant="wide", pipeline=name)
    await _queued(stage, 6, tenant="narrow", pipeline="third")
    claims = await stage.leases.claim("a", 8, names, NOW, CLASSES)
    assert Counter(claim.record.tenant for claim in claims) == {"wide": 4, "narrow": 4}


@case("Q3", "Q19")
async def a_tenant_that_comes_is_owed_nothing_for_the_time_before(stage: StoreStage) -> None:
    runs = {name: await _queued(stage, 12, tenant=name) for name in ("one", "two")}
    assert len(await _taken(stage.leases, "a", limit=12)) == 12
    runs["new"] = await _queued(stage, 6, tenant="new")
    taken = set(await _taken(stage.leases, "a", limit=6))
    assert {name: len(taken.intersection(ids)) for name, ids in runs.items()} == {"one": 2, "two": 2, "new": 2}


@case("Q3", "Q19")
async def an_overdue_class_is_given_its_share(stage: StoreStage) -> None:
    low, high = await _queued(stage, 4), await _queued(stage, 10, HIGH)
    at_once = await _taken(stage.leases, "a", limit=5, now=LATER)
    assert at_once == [*high[:3], low[0], high[3]], "of five runs, the overdue class gets the fourth"
    by_one = [run_id for _ in range(5) for run_id in await _taken(stage.leases, "a", now=LATER)]
    assert by_one == [*high[4:6], low[1], *high[6:8]], "credit was lost between two claims"


@case("Q3", "Q19")
async def a_class_that_is_not_overdue_waits(stage: StoreStage) -> None:
    [low], high = await _queued(stage, 1), await _queued(stage, 8, HIGH)
    assert await _taken(stage.leases, "a", limit=8, now=NOW + LOW.patience) == high
    assert await _taken(stage.leases, "a") == [low]


@case("Q3", "Q19")
async def tenants_are_fair_in_the_share_of_their_class(stage: StoreStage) -> None:
    many = await _queued(stage, 9, tenant="many")
    [small] = await _queued(stage, 1, tenant="small")
    await _queued(stage, 20, HIGH, tenant="many")
    taken = await _taken(stage.leases, "a", limit=9, now=LATER)
    assert [run_id for run_id in taken if run_id in {*many, small}] == [many[0], small]


@case("Q3")
async def a_run_that_comes_back_keeps_its_place(stage: StoreStage) -> None:
    old, _, last = await _queued(stage, 3)
    [claim] = await stage.leases.claim("a", 1, [PIPELINE], NOW, CLASSES)
    await stage.leases.release(claim.lease)
    assert (await _taken(stage.leases, "b", limit=3))[::2] == [old, last]


@case("Q3", "Q10", "Q19")
async def what_was_taken_by_its_id_leaves_the_queue_in_order(stage: StoreStage) -> None:
    first, second, third = await _queued(stage, 3, tenant="one")
    [other] = await _queued(stage, 1, tenant="other")
    for run_id in (first, third):
        assert await stage.leases.claim_one("a", run_id, NOW) is not None
    assert await _taken(stage.leases, "a", limit=4) == [second, other]
    assert await _taken(stage.leases, "a", limit=4) == []
    [again] = await _queued(stage, 1, tenant="one")
    assert await _taken(stage.leases, "a", limit=4) == [again]


@case("Q3", "Q15", "Q16", "Q19")
async def what_died_takes_its_turn_with_the_others_of_its_tenant(stage: StoreStage) -> None:
    died, _ = await stage.running("dead", tenant="one", sla=LOW.name, priority=LOW.priority)
    await stage.leases.retire("dead")
    mine, others = await _queued(stage, 2, tenant="one"), await _queued(stage, 2, tenant="other")
    assert await _taken(stage.leases, "a", limit=4) == [died.id, others[0], mine[0], others[1]]
