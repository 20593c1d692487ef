"""Cases of runs that are assigned to an engine of many processes (Q13, Q14, Q17; Q9, Q10 and S4 of such runs)."""

from __future__ import annotations

from msgspec.structs import replace

from offramp.conformance.case import case
from offramp.conformance.sample import DONE, NOW, completed, entry, started
from offramp.conformance.store_stage import StoreStage, frames_of
from offramp.core.ownership import ASSIGNED_GRACE_S, ENGINE, FIRST_TURN
from offramp.core.run import RunRecord
from offramp.errors import LeaseLost
from offramp.ports.store import Lease, Leases, RunLog


async def _entrusted(stage: StoreStage) -> tuple[RunRecord, RunLog]:
    run = await stage.queued()
    claim = await stage.leases.assign_to_engine(run.id, NOW)
    assert claim is not None, "a queued run was not assigned"
    return run, stage.store.log(claim.lease)


@case("Q13", "Q1", "S1", "S3")
async def a_run_is_entrusted_once_from_whoever_holds_it(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    log.append(entry(0), started(0))
    await log.durable()
    first = await peer.leases.assign_to_engine(run.id, NOW)
    again = await stage.leases.assign_to_engine(run.id, NOW)
    assert first is not None
    assert again is not None
    assert (first.fresh, again.fresh) == (True, False)
    assert first.lease == again.lease, "entrusting again changed hands"
    assert (first.lease.owner, first.record.status, first.record.path) == (ENGINE, "running", "deep")
    assert first.lease.token > log.lease.token
    log.append(entry(1), started(1))
    try:
        await log.durable()
    except LeaseLost:
        assert len(await stage.store.journal(run.id)) == 1
        return
    raise AssertionError("the former owner still writes the run")


@case("Q13")
async def what_has_ended_is_not_entrusted(stage: StoreStage) -> None:
    run, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    assert await stage.leases.assign_to_engine(run.id, NOW) is None
    assert await stage.leases.assign_to_engine(stage.record().id, NOW) is None


@case("Q13", needs=("shared",))
async def processes_write_an_entrusted_run_as_one(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await _entrusted(stage)
    theirs = peer.store.log(log.lease)
    for number in range(6):
        writer = (log, theirs)[number % 2]
        writer.append(entry(number), started(number))
        if number > 3:
            await writer.durable()
    await log.durable()
    await theirs.durable()
    assert len(await stage.store.journal(run.id)) == 6
    await theirs.finish(DONE, completed(), NOW)
    frames = await frames_of(stage.store, run)
    assert [frame.seq for frame in frames] == list(range(1, 9)), "two writers made a gap, or a number twice"
    log.append(None, started(9))
    try:
        await log.durable()
    except LeaseLost:
        assert len(await frames_of(peer.store, run)) == 8
        return
    raise AssertionError("an assigned run was written after its end")


async def _refused(log: RunLog, whole: RunLog) -> None:
    log.append(entry(0), started(0))
    await whole.durable()


@case("Q14", "S1", "S3")
async def a_step_is_written_by_its_newest_taker(stage: StoreStage) -> None:
    run, whole = await _entrusted(stage)
    other = await stage.leases.take_step(whole.lease, "work:1:0")
    for first in (replace(whole.lease, step="work:0:0", turn=FIRST_TURN), None):
        await _is_taken_over(stage, whole, first or (await stage.leases.take_step(whole.lease, "work:0:0")).lease)
    assert await stage.store.journal(run.id) == [], "a step that was taken over was written"
    newer = stage.store.log((await stage.leases.take_step(whole.lease, "work:0:0")).lease)
    newer.append(entry(0), started(0))
    stage.store.log(other.lease).append(entry(1), None)
    await newer.durable()
    assert await stage.store.journal(run.id) == [entry(0), entry(1)]


async def _is_taken_over(stage: StoreStage, whole: RunLog, lease: Lease) -> None:
    log = stage.store.log(lease)
    log.append(None, started(0))
    await log.durable()
    await stage.leases.take_step(whole.lease, "work:0:0")
    await _refused(log, whole)
    try:
        await log.durable()
    except LeaseLost:
        return
    raise AssertionError("the process that lost a step learns that its write is on disk")


@case("Q14", "S1", "S3")
async def a_step_is_written_no_further_than_its_entry(stage: StoreStage) -> None:
    run, whole = await _entrusted(stage)
    taken = await stage.leases.take_step(whole.lease, "work:0:0")
    assert not taken.finished
    log = stage.store.log(taken.lease)
    log.append(entry(0), started(0))
    await log.durable()
    lost: list[Lease] = []
    stage.store.on_lost(lost.append)
    await _refused(log, whole)
    assert await stage.store.journal(run.id) == [entry(0)], "an entry was written twice"
    assert lost == [taken.lease], "the waiting caller learned of the refusal before `on_lost` was called"
    assert (await stage.leases.take_step(whole.lease, "work:0:0")).finished


@case("Q14")
async def no_step_of_a_run_that_has_ended_is_taken(stage: StoreStage) -> None:
    _, whole = await _entrusted(stage)
    await whole.finish(DONE, completed(), NOW)
    try:
        await stage.leases.take_step(whole.lease, "work:0:0")
    except LeaseLost:
        return
    raise AssertionError("a step of a run that has ended was taken")


@case("Q17", "Q4")
async def an_engine_is_told_of_each_wish_to_cancel(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await _entrusted(stage)
    other = await stage.queued()
    await stage.leases.request_cancel(other.id)
    assert list(await peer.leases.pending_notices()) == [], "a run that no engine has is pending for one"
    for _ in range(2):
        await stage.leases.request_cancel(run.id)
    assert list(await peer.leases.pending_notices()) == [run.id]
    await peer.leases.acknowledge_notice(run.id)
    assert list(await peer.leases.pending_notices()) == [run.id], "the second of two requests is not pending"
    await peer.leases.acknowledge_notice(run.id)
    assert list(await stage.leases.pending_notices()) == []
    await stage.leases.request_cancel(run.id)
    await log.finish(DONE, completed(), NOW)
    assert list(await stage.leases.pending_notices()) == [], "a run that has ended is still pending for its engine"


@case("Q17", "Q8", needs=("signals",))
async def an_engine_is_told_of_each_signal(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, _ = await _entrusted(stage)
    other = await stage.queued()
    for receiver in (run, other):
        await stage.leases.send_signal(receiver.id, "go", b"1", NOW)
    assert list(await peer.leases.pending_notices()) == [run.id]
    await peer.leases.acknowledge_notice(run.id)
    assert list(await stage.leases.pending_notices()) == []


async def _is_free(leases: Leases, run: RunRecord, now: float) -> bool:
    return run.id in await leases.overdue(now) and await leases.claim_one("b", run.id, now) is not None


@case("Q9", "Q10")
async def an_entrusted_run_is_free_when_its_engine_lets_its_deadline_pass(stage: StoreStage) -> None:
    run = await stage.queued(deadline_at=NOW + 10)
    claim = await stage.leases.assign_to_engine(run.id, NOW)
    assert claim is not None
    assert not await _is_free(stage.leases, run, NOW + 10), "it was taken from its engine at once"
    almost = NOW + 10 + ASSIGNED_GRACE_S - 1
    assert not await _is_free(stage.leases, run, almost), "it was taken from its engine before its grace was over"
    assert await stage.leases.claim_one("b", run.id, almost) is None
    assert await _is_free(stage.leases, run, NOW + 10 + ASSIGNED_GRACE_S)
    other = await stage.queued()
    assert await stage.leases.assign_to_engine(other.id, NOW) is not None
    assert not await _is_free(stage.leases, other, NOW + 1_000), "a run without a deadline was taken"
