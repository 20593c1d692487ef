"""Cases of the write path: order, durability, fencing, closing, trouble (S1, S2, S3, S14, S18)."""

from __future__ import annotations

from offramp.conformance.case import case, until
from offramp.conformance.sample import DEMOTION, DONE, NOW, accepted, completed, entry, started
from offramp.conformance.store_stage import (
    StoreStage,
    claimed_one,
    count_of,
    frames_of,
    journaled,
    names,
    refused,
    unsupported,
)
from offramp.core.journal import Entry
from offramp.errors import StoreError
from offramp.ports.commit import Commit
from offramp.ports.store import Batch, Lease

MANY = 200


@case("S1")
async def entries_become_visible_in_order(stage: StoreStage) -> None:
    run, log = await stage.running()
    written = [entry(number) for number in range(MANY)]
    for made in written:
        log.append(made, None)
    seen: list[Entry] = []
    while len(seen) < MANY:
        seen = await stage.store.journal(run.id)
        assert seen == written[: len(seen)], f"not the written entries in order: {names(seen)}"
        await journaled(stage.store, run, min(len(seen) + 1, MANY))


@case("S1")
async def an_entry_and_its_event_are_written_as_one(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    for number in range(MANY):
        log.append(entry(number), started(number))
    events = 0
    while events < MANY:
        events = len(await frames_of(peer.store, run)) - 1
        entries = len(await peer.store.journal(run.id))
        assert entries >= events, f"{events} events were visible with {entries} of the entries they came with"


@case("S1")
async def a_claimed_run_goes_on_behind_its_last_entry(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    log.append(entry(1), None)
    await journaled(stage.store, run, 1)
    await stage.leases.release(log.lease)
    claim = await claimed_one(peer.leases, "b")
    peer.store.log(claim.lease).append(entry(2), None)
    await journaled(peer.store, run, 2)
    assert names(await stage.store.journal(run.id)) == names([entry(1), entry(2)])


@case("S2", needs=("durable",))
async def a_new_run_is_there_after_a_crash(stage: StoreStage) -> None:
    run, _ = await stage.running()
    after = await stage.crash()
    assert await after.store.get(run.id) == run, f"{run.id} was acknowledged, and is gone or changed"
    assert await count_of(after.store, run) == 1


@case("S2", needs=("durable",))
async def what_was_promised_survives_and_the_rest_is_a_prefix(stage: StoreStage) -> None:
    run, log = await stage.running()
    written = [entry(number) for number in range(MANY)]
    for made in written[:50]:
        log.append(made, None)
    await log.durable()
    for made in written[50:]:
        log.append(made, None)
    left = await (await stage.crash()).store.journal(run.id)
    assert len(left) >= 50, f"50 entries were promised, {len(left)} are left"
    assert left == written[: len(left)], f"not a prefix of the written entries: {names(left)}"


@case("S2", needs=("durable",))
async def a_durable_event_is_on_disk_with_all_before_it_when_it_is_seen(stage: StoreStage) -> None:
    run, log = await stage.running()
    log.append(entry(1), None)
    log.append(entry(2), started(2), durable=True)

    async def seen() -> bool:
        return await count_of(stage.store, run) == 2

    await until(seen)
    after = await stage.crash()
    assert await count_of(after.store, run) == 2
    assert names(await after.store.journal(run.id)) == names([entry(1), entry(2)])


@case("S2", needs=("durable",))
async def an_outcome_survives_with_all_before_it(stage: StoreStage) -> None:
    run, log = await stage.running()
    log.append(entry(1), None)
    await log.finish(DONE, completed(), NOW + 1)
    after = await stage.crash()
    stored = await after.store.get(run.id)
    assert stored is not None, "the run is gone"
    assert stored.status == "completed", f"the outcome was acknowledged, but the run is {stored.status}"
    assert names(await after.store.journal(run.id)) == names([entry(1)])


@case("S2", needs=("durable",))
async def an_adoption_survives_with_all_before_it(stage: StoreStage) -> None:
    run, log = await stage.running()
    log.append(entry(1), None)
    await stage.store.adopt(log.lease, DEMOTION)
    after = await stage.crash()
    stored = await after.store.get(run.id)
    assert stored is not None, "the run is gone"
    assert (stored.path, stored.demotion) == ("deep", DEMOTION), f"adopted, but it is {stored.path} again"
    assert names(await after.store.journal(run.id)) == names([entry(1)])


@case("S2", "W4", lacks="durable")
async def without_durability_a_crash_is_not_played_down(stage: StoreStage) -> None:
    await unsupported(stage.crash(), "durable")


async def _taken_over(stage: StoreStage) -> tuple[Lease, Lease]:
    """A run that changed hands: the lost lease and the current one."""
    peer = await stage.peer()
    _, log = await stage.running()
    await peer.leases.retire("a")
    return log.lease, (await claimed_one(peer.leases, "b")).lease


@case("S3")
async def an_append_without_the_lease_is_refused(stage: StoreStage) -> None:
    lost, current = await _taken_over(stage)
    told: list[Lease] = []
    heard: list[Batch] = []
    stage.store.on_lost(told.append)
    stage.store.listen(heard.extend)
    log = stage.store.log(lost)
    log.append(entry(1), started(1))
    await refused(log.durable(), "an append")
    assert lost in told, "the waiting caller learned of the refusal before `on_lost` was called"
    run = await stage.store.get(current.run_id)
    assert run is not None
    assert await stage.store.journal(run.id) == [], "the journal has an entry of an owner that lost the run"
    assert await count_of(stage.store, run) == 1, "the log has an event of an owner that lost the run"
    assert heard == [], "listeners received an event that was refused"


@case("S3")
async def an_append_between_two_owners_is_refused(stage: StoreStage) -> None:
    run, log = await stage.running()
    await stage.leases.retire("a")
    log.append(entry(1), started(1))
    await refused(log.durable(), "an append to a run without an owner")
    assert await stage.store.journal(run.id) == [], "the journal has an entry of an owner that lost the run"


@case("S3")
async def an_append_with_a_made_up_token_is_refused(stage: StoreStage) -> None:
    run, log = await stage.running()
    other = stage.store.log(Lease(run.id, "a", log.lease.token + 1))
    other.append(entry(1), None)
    await refused(other.durable(), "an append with a token that was never given")
    assert await stage.store.journal(run.id) == []


@case("S3")
async def an_outcome_without_the_lease_is_refused(stage: StoreStage) -> None:
    lost, _ = await _taken_over(stage)
    await refused(stage.store.log(lost).finish(DONE, completed(), NOW), "an outcome")
    stored = await stage.store.get(lost.run_id)
    assert stored is not None
    assert stored.status == "running", f"a lost owner made the run {stored.status}"
    assert await count_of(stage.store, stored) == 1


@case("S3")
async def an_adoption_without_the_lease_is_refused(stage: StoreStage) -> None:
    run, log = await stage.running()
    for wrong in (Lease(run.id, "b", log.lease.token), Lease(run.id, "a", log.lease.token + 1)):
        await refused(stage.store.adopt(wrong, DEMOTION), f"an adoption with {wrong}")
    assert (await stage.stored(run)).demotion is None, "a run was demoted without its lease"


@case("S3")
async def a_release_without_the_lease_is_refused(stage: StoreStage) -> None:
    lost, current = await _taken_over(stage)
    await refused(stage.leases.release(lost), "a release")
    stored = await stage.store.get(current.run_id)
    assert stored is not None
    assert stored.status == "running", "a former owner gave the run of another away"


@case("S18")
async def writes_that_go_through_are_no_trouble(stage: StoreStage) -> None:
    assert stage.store.trouble() is None, "there is trouble before anything was written"
    _, log = await stage.running()
    log.append(entry(1), started(1))
    await log.finish(DONE, completed(), NOW)
    assert stage.store.trouble() is None, "there is trouble, though everything was written"


@case("S3", "S18")
async def a_write_that_its_lease_does_not_allow_is_no_trouble(stage: StoreStage) -> None:
    lost, _ = await _taken_over(stage)
    await refused(stage.store.log(lost).finish(DONE, completed(), NOW), "an outcome")
    assert stage.store.trouble() is None, "there is trouble, though only a lease was lost"


@case("S14", needs=("durable", "shared"))
async def closing_writes_what_is_pending(stage: StoreStage) -> None:
    run, log = await stage.running()
    for number in range(MANY):
        log.append(entry(number), None)
    after = await stage.end()
    assert len(await after.store.journal(run.id)) == MANY, "closing lost earlier writes"


@case("S14")
async def a_closed_store_takes_nothing_more(stage: StoreStage) -> None:
    run, log = await stage.running()
    await stage.store.close()
    fresh = stage.record()
    asked: list[Commit[object]] = [
        stage.store.create(fresh, accepted(fresh), owner=None, durable=True)[0],  # type: ignore[list-item]
        stage.store.adopt(log.lease, DEMOTION),  # type: ignore[list-item]
        stage.store.log(log.lease).finish(DONE, completed(), NOW),  # type: ignore[list-item]
    ]
    for commit in asked:
        try:
            await commit
        except StoreError:
            continue
        raise AssertionError(f"a closed store acknowledged a write of {run.id}")
