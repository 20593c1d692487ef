"""Cases of the processes that hold runs: known, renewed, expired, retired, asked to cancel (Q2, Q4, Q6), dead (Q15)."""

from __future__ import annotations

from offramp.conformance.case import case
from offramp.conformance.sample import DONE, NOW, completed, entry, owner
from offramp.conformance.store_stage import StoreStage, claimed, claimed_one
from offramp.core.run import RunRecord
from offramp.ports.store import About, Owner, Parked


async def _held(stage: StoreStage) -> RunRecord:
    """A run whose owner is known until ten seconds from now."""
    await stage.leases.register(owner("a", NOW + 10))
    run, _ = await stage.running()
    return run


@case("Q2")
async def nothing_is_taken_while_the_lease_runs(stage: StoreStage) -> None:
    peer = await stage.peer()
    await _held(stage)
    assert peer.leases.expire(NOW + 9) == [], "an owner was expired before its time"
    assert await claimed(peer.leases, "b", now=NOW + 9) == [], "a run was taken from an owner whose lease runs"
    stage.leases.renew("a", NOW + 20)
    assert peer.leases.expire(NOW + 19) == [], "an owner was expired though it had renewed"
    assert await claimed(peer.leases, "b", now=NOW + 19) == []


@case("Q2")
async def what_an_expired_owner_held_is_free(stage: StoreStage) -> None:
    peer = await stage.peer()
    run = await _held(stage)
    assert list(peer.leases.expire(NOW + 11)) == ["a"]
    assert (await claimed_one(peer.leases, "b")).record.id == run.id


@case("Q2")
async def what_a_retired_owner_held_is_free(stage: StoreStage) -> None:
    peer = await stage.peer()
    mine = {(await stage.running())[0].id for _ in range(3)}
    other, _ = await stage.running(by="b")
    assert await peer.leases.retire("a") == 3
    assert await peer.leases.retire("a") == 0
    assert {claim.record.id for claim in await claimed(peer.leases, "c")} == mine
    assert (await stage.stored(other)).status == "running", "a run of another owner was given away"


@case("Q4")
async def a_wish_to_cancel_reaches_the_owner_with_its_renewal(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.leases.register(owner("a"))
    run, log = await stage.running()
    await stage.running()
    assert list(stage.leases.renew("a", NOW + 15)[1]) == []
    record = await peer.leases.request_cancel(run.id)
    assert record is not None, "the run is unknown to the process that cancels it"
    assert record.cancel_requested, "the answer does not show the request"
    assert list(stage.leases.renew("a", NOW + 20)[1]) == [run.id]
    await log.finish(DONE, completed(), NOW)
    assert list(stage.leases.renew("a", NOW + 30)[1]) == [], "a run that has ended is to be cancelled"


@case("Q4")
async def a_wish_to_cancel_reaches_its_owner_alone(stage: StoreStage) -> None:
    await stage.leases.register(owner("a"))
    await stage.leases.register(owner("b"))
    run, _ = await stage.running(by="b")
    await stage.leases.request_cancel(run.id)
    assert list(stage.leases.renew("a", NOW + 20)[1]) == []
    assert list(stage.leases.renew("b", NOW + 20)[1]) == [run.id]


@case("Q4")
async def a_wish_to_cancel_stays_with_a_queued_run(stage: StoreStage) -> None:
    run = await stage.queued()
    await stage.leases.request_cancel(run.id)
    claim = await claimed_one(stage.leases, "a")
    assert claim.record.cancel_requested, "the request was forgotten when the run was claimed"


@case("Q4", needs=("durable",))
async def a_wish_to_cancel_survives_a_crash(stage: StoreStage) -> None:
    run = await stage.queued()
    await stage.leases.request_cancel(run.id)
    after = await stage.crash()
    assert (await claimed_one(after.leases, "b")).record.cancel_requested, "an acknowledged cancellation was lost"


@case("Q4")
async def what_has_ended_is_not_cancelled(stage: StoreStage) -> None:
    run, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    record = await stage.leases.request_cancel(run.id)
    assert record is not None
    assert (record.status, record.cancel_requested) == ("completed", False)
    assert await stage.leases.request_cancel(stage.record().id) is None


@case("Q6")
async def an_owner_is_known_by_what_it_said_last(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.leases.register(owner("a"))
    changed = Owner("a", "gateway", 7, ready=False, expires_at=NOW + 5, started_at=NOW)
    await stage.leases.register(changed)
    assert list(await peer.leases.owners()) == [changed]
    held, _ = stage.leases.renew("a", NOW + 8)
    assert held, "a known owner was reported as forgotten"
    assert [known.expires_at for known in await peer.leases.owners()] == [NOW + 8]


@case("Q18")
async def an_owner_says_something_about_itself_until_it_is_forgotten(stage: StoreStage) -> None:
    peer = await stage.peer()
    said = About("host", 17, "1.0", {"": 2, "acme": 1}, 3)
    await stage.leases.describe("a", said)
    assert list(await peer.leases.owners()) == [], "describing an unknown owner made it known"
    await stage.leases.register(owner("a"))
    await stage.leases.register(owner("b"))
    assert {known.about for known in await peer.leases.owners()} == {None}, (
        "a description from before it was known stayed"
    )
    await stage.leases.describe("a", said)
    stage.leases.renew("a", NOW + 8)
    await stage.leases.register(owner("a"))
    assert {known.id: known.about for known in await peer.leases.owners()} == {"a": said, "b": None}
    later = About("host", 17, "1.0")
    await stage.leases.describe("a", later)
    assert {known.id: known.about for known in await peer.leases.owners()} == {"a": later, "b": None}
    peer.leases.expire(NOW + 11)
    await stage.leases.register(owner("a"))
    assert {known.about for known in await peer.leases.owners()} == {None}, "it outlived its owner"


@case("Q6")
async def an_owner_that_was_expired_or_retired_is_forgotten(stage: StoreStage) -> None:
    peer = await stage.peer()
    for name in ("a", "b", "c"):
        await stage.leases.register(owner(name, NOW + (50 if name == "c" else 10)))
    peer.leases.expire(NOW + 11)
    assert list(peer.leases.expire(NOW + 11)) == [], "an owner was expired twice"
    await stage.leases.register(owner("b"))
    await peer.leases.retire("b")
    assert [known.id for known in await peer.leases.owners()] == ["c"]


@case("Q6")
async def renewing_makes_nobody_known(stage: StoreStage) -> None:
    held, cancels = stage.leases.renew("a", NOW + 20)
    assert (held, list(cancels)) == (False, []), "renew confirmed the lease of an unknown owner"
    assert list(await stage.leases.owners()) == []


@case("Q15")
async def a_run_counts_the_processes_that_died_with_it(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, _ = await stage.running()
    other, _ = await stage.running(by="z")
    for count, name in enumerate(("b", "c", "d"), start=1):
        await peer.leases.retire("abc"[count - 1])
        assert (await stage.stored(run)).deaths == count, f"not {count} deaths were counted"
        claim = await claimed_one(stage.leases, name)
        assert claim.record.deaths == count, "the claim does not show the run's deaths"
    assert (await stage.stored(other)).deaths == 0, "a death was counted for a run of another owner"


def _leaving(name: str) -> Owner:
    return Owner(name, "worker", 0, ready=False, expires_at=NOW + 10, started_at=NOW, leaving=True)


@case("Q15")
async def a_process_that_leaves_has_not_died(stage: StoreStage) -> None:
    peer = await stage.peer()
    left = []
    for name in ("a", "b"):
        await stage.leases.register(_leaving(name))
        left.append((await stage.running(by=name))[0])
    await peer.leases.retire("a")
    peer.leases.expire(NOW + 11)
    for run in left:
        assert (await stage.stored(run)).deaths == 0, "a process that stopped in order is counted as dead"


@case("Q2", "Q15")
async def silence_is_a_death(stage: StoreStage) -> None:
    """A step that holds the interpreter keeps its process from renewing, and does so in every process."""
    peer = await stage.peer()
    run, _ = await stage.running()
    for name in ("a", "b"):
        await stage.leases.register(owner(name, NOW + 10))
        assert list(peer.leases.expire(NOW + 11)) == [name]
        await claimed_one(stage.leases, "b")
    await peer.leases.retire("b")
    found = await stage.stored(run)
    assert (found.deaths, found.deaths_silent) == (3, 2), "two processes fell silent, and one died"


@case("Q2", "Q15")
async def silence_that_is_no_fault_of_the_runs_is_no_death(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.leases.register(owner("a", NOW + 10))
    run, _ = await stage.running()
    assert list(peer.leases.expire(NOW + 11, blames=False)) == ["a"]
    assert (await claimed_one(stage.leases, "b")).record.id == run.id
    assert (await stage.stored(run)).deaths == 0, "a run is blamed although another may be the cause"


@case("Q2", "Q5", "Q15")
async def a_run_knows_how_its_last_owner_left_it(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    assert (await stage.stored(run)).left_by is None, "a run that never changed hands shows how an owner left it"
    await stage.leases.release(log.lease)
    seen = []
    for name in ("b", "c", "d", "e", "f"):
        claim = await claimed_one(stage.leases, name)
        assert claim.record.left_by == (await stage.stored(run)).left_by, "claim and record differ in `left_by`"
        seen.append(claim.record.left_by)
        if name == "b":
            await stage.leases.release(claim.lease, Parked(NOW, 0))
        elif name == "c":
            await peer.leases.retire(name)
        else:
            await stage.leases.register(_leaving(name) if name == "e" else owner(name, NOW + 10))
            peer.leases.expire(NOW + 11, blames=False)
    assert seen == ["exit", "wait", "death", "silence", "exit"]


@case("Q15")
async def a_run_that_died_alone_is_known_to_have(stage: StoreStage) -> None:
    peer = await stage.peer()
    runs = [(await stage.running())[0] for _ in range(2)]
    lone, _ = await stage.running(by="b")
    await peer.leases.retire("a")
    await peer.leases.retire("b")
    assert [(await stage.stored(run)).deaths_alone for run in (*runs, lone)] == [0, 0, 1]


@case("Q15")
async def deaths_are_forgotten_when_a_run_survived(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, before = await stage.running()
    await stage.leases.retire("a")
    log = peer.store.log((await claimed_one(peer.leases, "b")).lease)
    log.append(entry(1), None)
    before.survived()
    await log.durable()
    assert (await stage.stored(run)).deaths == 1, "a finished step, or a former owner, made a death forgotten"
    log.survived()
    await log.durable()
    found = await stage.stored(run)
    assert (found.deaths, found.deaths_alone, found.company) == (0, 0, 0)
    await peer.leases.retire("b")
    assert (await claimed_one(stage.leases, "c")).record.deaths == 1, "deaths that were forgotten are counted"


@case("Q15", needs=("durable",))
async def deaths_survive_a_crash(stage: StoreStage) -> None:
    run, _ = await stage.running()
    await stage.leases.retire("a")
    after = await stage.crash()
    found = await after.store.get(run.id)
    assert found is not None
    assert found.deaths == 1, "a death was counted and forgotten"
