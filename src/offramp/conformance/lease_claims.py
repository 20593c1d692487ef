"""Cases of taking a run: claiming, releasing, claiming by id (Q1, Q3, Q7, Q10), suspects (Q16)."""

from __future__ import annotations

import asyncio
import math

from offramp.conformance.case import case
from offramp.conformance.sample import DONE, NOW, PIPELINE, accepted, completed
from offramp.conformance.store_stage import StoreStage, claimed, claimed_one, unsupported
from offramp.core.claims import SUSPECT_DEATHS
from offramp.ports.store import Claim, Leases, Parked


@case("Q1")
async def a_claimed_run_is_not_claimed_again(stage: StoreStage) -> None:
    peer = await stage.peer()
    run = await stage.queued()
    claim = await claimed_one(stage.leases, "a")
    assert (claim.record.id, claim.lease.owner) == (run.id, "a")
    assert await claimed(peer.leases, "b") == [], "a run that has an owner was claimed by another"
    assert await peer.leases.claim_one("b", run.id, NOW) is None, "a run that has an owner was claimed by its id"


@case("Q1")
async def each_claim_has_a_higher_token(stage: StoreStage) -> None:
    peer = await stage.peer()
    _, log = await stage.running()
    tokens = [log.lease.token]
    lease = log.lease
    for leases, name in [(peer.leases, "b"), (stage.leases, "a"), (peer.leases, "b")]:
        holder = stage.leases if lease.owner == "a" else peer.leases
        await holder.release(lease)
        lease = (await claimed_one(leases, name)).lease
        tokens.append(lease.token)
    assert tokens == sorted(set(tokens)), f"tokens have to grow with every change of hands, got {tokens}"


@case("Q1")
async def concurrent_claims_share_the_runs_out(stage: StoreStage) -> None:
    peer = await stage.peer()
    made = {(await stage.queued()).id for _ in range(12)}

    async def take(leases: Leases, name: str) -> list[Claim]:
        taken: list[Claim] = []
        while part := await claimed(leases, name, limit=2):
            taken += part
        return taken

    shares = await asyncio.gather(
        *(take(leases, name) for leases, name in [(stage.leases, "a"), (peer.leases, "b")] * 2)
    )
    ids = [claim.record.id for share in shares for claim in share]
    assert len(ids) == len(set(ids)), f"runs were given to two owners: {sorted(id for id in ids if ids.count(id) > 1)}"
    assert set(ids) == made, f"runs were given to nobody: {sorted(made - set(ids))}"


@case("Q1")
async def one_of_two_that_ask_for_a_run_gets_it(stage: StoreStage) -> None:
    peer = await stage.peer()
    for _ in range(5):
        run = await stage.queued()
        asked = (leases.claim_one(name, run.id, NOW) for leases, name in [(stage.leases, "a"), (peer.leases, "b")])
        got = [claim for claim in await asyncio.gather(*asked) if claim is not None]
        assert len(got) == 1, f"{len(got)} of two owners got {run.id}"


@case("Q3")
async def runs_are_claimed_by_priority_then_age(stage: StoreStage) -> None:
    made = {name: (await stage.queued(priority=priority)).id for name, priority in _QUEUE}
    order = [claim.record.id for _ in range(2) for claim in await claimed(stage.leases, "a", limit=2)]
    wanted = [made[name] for name in ("urgent", "old", "new", "idle")]
    assert order == wanted, f"expected {wanted}, got {order}"


_QUEUE = [("idle", -1), ("old", 0), ("new", 0), ("urgent", 5)]


@case("Q3")
async def no_more_than_asked_for_is_claimed(stage: StoreStage) -> None:
    for _ in range(3):
        await stage.queued()
    assert len(await claimed(stage.leases, "a", limit=2)) == 2
    assert len(await claimed(stage.leases, "a", limit=2)) == 1


@case("Q3")
async def only_runs_of_named_pipelines_are_claimed(stage: StoreStage) -> None:
    other = await stage.queued(pipeline="other", priority=9)
    mine = await stage.queued()
    assert [claim.record.id for claim in await claimed(stage.leases, "a")] == [mine.id]
    claims = await stage.leases.claim("a", 10, ["third", "other"], NOW)
    assert [claim.record.id for claim in claims] == [other.id]


@case("Q3")
async def a_claim_says_what_the_run_became(stage: StoreStage) -> None:
    run = await stage.queued()
    claim = await claimed_one(stage.leases, "a", now=NOW + 3)
    assert (claim.record.status, claim.record.path, claim.record.started_at) == ("running", "deep", NOW + 3)
    assert await stage.stored(run) == claim.record


@case("Q1", lacks="shared")
async def a_second_process_is_refused_where_one_is_all(stage: StoreStage) -> None:
    await unsupported(stage.reopen(), "shared")


@case("Q7")
async def a_released_run_is_free_for_any_owner(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    await stage.leases.release(log.lease)
    assert (await stage.stored(run)).status == "queued"
    assert (await claimed_one(peer.leases, "b")).record.id == run.id


@case("Q7")
async def only_the_first_claim_is_fresh(stage: StoreStage) -> None:
    await stage.queued()
    first = await claimed_one(stage.leases, "a")
    assert first.fresh, "no process has executed any of the run, but its claim is not fresh"
    await stage.leases.release(first.lease)
    again = await claimed_one(stage.leases, "a", now=NOW + 1)
    assert not again.fresh, "the claim of a run that was claimed before is fresh"
    assert again.record.started_at == NOW, "a run began twice"


@case("Q7")
async def what_its_creator_executed_is_not_fresh(stage: StoreStage) -> None:
    _, log = await stage.running()
    await stage.leases.release(log.lease)
    assert not (await claimed_one(stage.leases, "b")).fresh


@case("Q10")
async def a_queued_run_is_claimed_by_its_id(stage: StoreStage) -> None:
    first = await stage.queued(priority=9)
    run = await stage.queued()
    claim = await stage.leases.claim_one("a", run.id, NOW)
    assert claim is not None, "a queued run was not given to the process that named it"
    assert (claim.record.id, claim.record.status, claim.lease.owner) == (run.id, "running", "a")
    assert (await stage.stored(first)).status == "queued", "another run than the named one was claimed"


@case("Q10")
async def what_is_not_queued_or_parked_is_not_claimed_by_its_id(stage: StoreStage) -> None:
    running, _ = await stage.running()
    ended, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    for run in (running, ended, stage.record()):
        assert await stage.leases.claim_one("b", run.id, NOW) is None, f"a run that is {run.status} was claimed"


@case("Q10")
async def it_does_not_matter_which_pipeline_a_named_run_is_of(stage: StoreStage) -> None:
    run = await stage.queued(pipeline="other")
    assert run.pipeline != PIPELINE
    assert await stage.leases.claim_one("a", run.id, NOW) is not None


@case("Q11")
async def what_is_queued_is_counted_by_tenant(stage: StoreStage) -> None:
    assert await stage.leases.queued() == {}
    for tenant in ("", "acme", "acme"):
        await stage.queued(tenant=tenant)
    run, log = await stage.running(tenant="acme")
    assert await stage.leases.queued() == {"": 1, "acme": 2}, "a run that executes does not wait"
    await stage.leases.release(log.lease)
    assert await stage.leases.queued() == {"": 1, "acme": 3}, "a run that was released waits for an owner"
    claim = await stage.leases.claim_one("a", run.id, NOW)
    assert claim is not None
    assert await stage.leases.queued() == {"": 1, "acme": 2}, "a claimed run still waits"
    await stage.store.log(claim.lease).finish(DONE, completed(), NOW)
    assert len(await claimed(stage.leases, "a")) == 3
    assert await stage.leases.queued() == {}


@case("Q2", "Q11")
async def what_a_dead_process_held_waits_again(stage: StoreStage) -> None:
    for tenant in ("", "acme", "acme"):
        await stage.running(tenant=tenant)
    await stage.leases.retire("a")
    assert await stage.leases.queued() == {"": 1, "acme": 2}


@case("Q5", "Q11", needs=("signals",))
async def a_parked_run_waits_for_no_owner_until_it_wakes(stage: StoreStage) -> None:
    run, log = await stage.running(tenant="acme")
    await stage.leases.release(log.lease, Parked(math.inf, 0))
    assert await stage.leases.queued() == {}
    await stage.leases.send_signal(run.id, "go", b"1", NOW)
    assert await stage.leases.queued() == {"acme": 1}


@case("Q11")
async def what_was_just_written_here_is_counted(stage: StoreStage) -> None:
    records = [stage.record(status="queued") for _ in range(20)]
    commits = [stage.store.create(each, accepted(each), owner=None, durable=False)[0] for each in records]
    assert await stage.leases.queued() == {"": 20}
    for commit in commits:
        await commit


@case("Q11", needs=("shared",))
async def what_other_processes_queue_is_counted(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.queued(tenant="acme")
    assert await peer.leases.queued() == {"acme": 1}


@case("Q20")
async def what_is_queued_is_counted_by_class(stage: StoreStage) -> None:
    peer = await stage.peer()
    assert await stage.leases.queued_by_class() == {}
    for sla in ("quick", "batch", "batch"):
        await stage.queued(sla=sla)
    run, log = await stage.running(sla="batch")
    for leases in (stage.leases, peer.leases):
        assert await leases.queued_by_class() == {"quick": 1, "batch": 2}, "a run that executes does not wait"
    await stage.leases.release(log.lease)
    assert await stage.leases.queued_by_class() == {"quick": 1, "batch": 3}
    await stage.running("dead", sla="quick")
    await stage.leases.retire("dead")
    assert await stage.leases.queued_by_class() == {"quick": 2, "batch": 3}, "a run with a death waits, too"
    assert await stage.leases.claim_one("a", run.id, NOW) is not None
    assert len(await claimed(stage.leases, "a")) == 4
    assert await stage.leases.queued_by_class() == {}


async def _suspected(stage: StoreStage, *priorities: int, together: bool = False) -> list[str]:
    """Queued runs whose processes died often enough to make them suspects; `together`, or one by one."""
    owners = ["dead" if together else f"dead {number}" for number in range(len(priorities))]
    runs = [(await stage.running(by, priority=each))[0].id for by, each in zip(owners, priorities, strict=True)]
    for death in range(SUSPECT_DEATHS):
        for by in dict.fromkeys(owners) if death else ():
            await claimed(stage.leases, by, limit=len(runs) if together else 1)
        for by in dict.fromkeys(owners):
            await stage.leases.retire(by)
    return runs


async def _taken(leases: Leases, by: str, limit: int = 10) -> list[str]:
    return [claim.record.id for claim in await claimed(leases, by, limit)]


async def _survives(stage: StoreStage, claim: Claim) -> None:
    log = stage.store.log(claim.lease)
    log.survived()
    await log.durable()


@case("Q15", "Q16")
async def suspects_that_died_alone_are_given_to_an_owner_one_at_a_time(stage: StoreStage) -> None:
    peer = await stage.peer()
    suspected = set(await _suspected(stage, 0, 0, 0))
    mine = await claimed(stage.leases, "a")
    assert len(mine) == 1, f"an owner was given {len(mine)} suspects"
    assert await _taken(stage.leases, "a") == [], "an owner was given another suspect"
    others = await _taken(peer.leases, "b")
    assert len(others) == 1, f"another owner was given {len(others)}"
    await _survives(stage, mine[0])
    last = await _taken(stage.leases, "a")
    assert {mine[0].record.id, *others, *last} == suspected, "a run is a suspect although it survived"


@case("Q2", "Q15", "Q16")
async def suspects_that_died_together_are_given_to_an_owner_in_halves(stage: StoreStage) -> None:
    peer = await stage.peer()
    group = await _suspected(stage, *[0] * 9, together=True)
    for company in (4, 2, 1):
        taken = await _taken(stage.leases, "a")
        shown = f"an owner was given {taken} of {group}, at most {company} may be together"
        assert (len(taken), set(taken) <= set(group)) == (company, True), shown
        for number in range(2):
            beside = await _taken(peer.leases, f"{company} {number}")
            assert 0 < len(beside) <= company or number, f"another owner was given {beside}"
        group = taken
        await peer.leases.retire("a")
    found = await stage.store.get(group[0])
    assert found is not None
    assert (found.deaths, found.deaths_alone) == (SUSPECT_DEATHS + 3, 1)


@case("Q2", "Q15", "Q16")
async def another_suspect_joins_a_group_when_one_of_it_survived(stage: StoreStage) -> None:
    await _suspected(stage, *[0] * 4, together=True)
    group = await claimed(stage.leases, "a")
    assert len(group) == 2
    assert await _taken(stage.leases, "a") == [], "an owner was given more than half of the runs that died together"
    await _survives(stage, group[0])
    assert len(await _taken(stage.leases, "a")) == 1


@case("Q15", "Q16")
async def a_suspect_is_beside_no_more_runs_whose_owner_died_than_it_may(stage: StoreStage) -> None:
    peer = await stage.peer()
    [suspect] = await _suspected(stage, 0)
    shaken, _ = await stage.running("dead")
    await stage.leases.retire("dead")
    mine = await _taken(stage.leases, "a") + await _taken(stage.leases, "a")
    assert len(mine) == 1, "a suspect is beside a run that may be the culprit"
    assert {*mine, *await _taken(peer.leases, "b")} == {suspect, shaken.id}, "a run was not taken"


@case("Q3", "Q15", "Q16")
async def urgent_suspects_are_given_first(stage: StoreStage) -> None:
    idle, urgent = await _suspected(stage, 0, 5)
    assert await _taken(stage.leases, "a") == [urgent]
    assert await _taken(stage.leases, "b") == [idle]


@case("Q15", "Q16")
async def others_do_not_wait_for_suspects(stage: StoreStage) -> None:
    urgent, late = await _suspected(stage, 2, 0)
    others = [(await stage.queued()).id for _ in range(3)]
    taken = await _taken(stage.leases, "a")
    assert set(taken) == {urgent, *others}, f"expected one suspect and all others, got {taken}"
    more = await stage.queued()
    assert await _taken(stage.leases, "a") == [more.id]
    assert await _taken(stage.leases, "b") == [late]


@case("Q3", "Q15", "Q16")
async def others_are_found_behind_many_suspects(stage: StoreStage) -> None:
    for number in range(4):
        await stage.running(f"once {number}")
        await stage.leases.retire(f"once {number}")
    [suspect] = await _suspected(stage, 9)
    other = await stage.queued()
    assert await _taken(stage.leases, "a", limit=2) == [suspect, other.id]
    assert await _taken(stage.leases, "a", limit=2) == []


@case("Q1", "Q2", "Q16")
async def concurrent_claims_share_suspects_out(stage: StoreStage) -> None:
    peer = await stage.peer()
    made = set(await _suspected(stage, *[0] * 8, together=True))
    asked = [(stage.leases, "a"), (peer.leases, "b"), (stage.leases, "c"), (peer.leases, "d")]
    shares = await asyncio.gather(*(_taken(leases, name, limit=2) for leases, name in asked))
    ids = [run_id for share in shares for run_id in share]
    assert len(ids) == len(set(ids)), f"runs were given to two owners: {sorted(id for id in ids if ids.count(id) > 1)}"
    assert set(ids) == made, f"runs were given to nobody: {sorted(made - set(ids))}"
