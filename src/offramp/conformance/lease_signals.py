"""Cases of runs that only wait: signals, parking, deadlines (Q5, Q8, Q9, Q12)."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from offramp.conformance.case import case
from offramp.conformance.sample import DONE, NOW, completed, entry
from offramp.conformance.store_stage import StoreStage, claimed, claimed_one, refused, unsupported
from offramp.core.ownership import SIGNALS_BYTES_MAX, SIGNALS_MAX
from offramp.core.run import RunRecord
from offramp.errors import IdempotencyMismatch, RunConflict
from offramp.ports.store import Lease, Parked

UNTIL_SIGNALLED = Parked(math.inf, 0)


async def _parked(stage: StoreStage, parked: Parked, **changes: Any) -> tuple[RunRecord, Lease]:
    run, log = await stage.running(**changes)
    await stage.leases.release(log.lease, parked)
    return run, log.lease


@case("Q5")
async def a_parked_run_is_taken_by_nobody_before_its_time(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, _ = await _parked(stage, Parked(NOW + 10, 0))
    assert await claimed(peer.leases, "b", now=NOW + 9) == [], "a parked run was taken before its time"
    assert (await stage.stored(run)).status == "running", "a parked run counts as queued"
    assert (await claimed_one(peer.leases, "b", now=NOW + 10)).record.id == run.id


@case("Q5")
async def a_parked_run_has_no_owner(stage: StoreStage) -> None:
    run, lease = await _parked(stage, UNTIL_SIGNALLED)
    assert await stage.leases.retire("a") == 0, "a parked run still has an owner"
    assert await claimed(stage.leases, "b", now=NOW + 1e8) == [], "a run that waits for a signal was taken without one"
    log = stage.store.log(lease)
    log.append(entry(1), None)
    await refused(log.durable(), "an append to a parked run")
    assert await stage.store.journal(run.id) == []


@case("Q5")
async def a_parked_run_is_taken_at_its_deadline(stage: StoreStage) -> None:
    run, _ = await _parked(stage, UNTIL_SIGNALLED, deadline_at=NOW + 10)
    assert await claimed(stage.leases, "b", now=NOW + 9) == []
    assert (await claimed_one(stage.leases, "b", now=NOW + 10)).record.id == run.id


@case("Q4", "Q5")
async def a_wish_to_cancel_queues_a_parked_run(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, _ = await _parked(stage, UNTIL_SIGNALLED)
    record = await peer.leases.request_cancel(run.id)
    assert record is not None
    assert record.status == "queued", f"the run was woken, but the answer says that it is {record.status}"
    claim = await claimed_one(peer.leases, "b")
    assert (claim.record.id, claim.record.cancel_requested) == (run.id, True)


@case("Q4", "Q5")
async def a_run_that_is_to_be_cancelled_is_not_parked(stage: StoreStage) -> None:
    run, log = await stage.running()
    await stage.leases.request_cancel(run.id)
    await stage.leases.release(log.lease, UNTIL_SIGNALLED)
    assert (await claimed_one(stage.leases, "b")).record.id == run.id


@case("Q5", "Q10")
async def a_parked_run_is_claimed_by_its_id(stage: StoreStage) -> None:
    run, _ = await _parked(stage, UNTIL_SIGNALLED)
    claim = await stage.leases.claim_one("b", run.id, NOW)
    assert claim is not None, "a parked run was not given to the process that named it"
    assert await claimed(stage.leases, "c", now=NOW + 1e8) == [], "the run is still parked after it was claimed"


@case("Q5", needs=("durable",))
async def a_parked_run_stays_parked_over_a_crash(stage: StoreStage) -> None:
    run, _ = await _parked(stage, Parked(NOW + 10, 0))
    after = await stage.crash()
    assert await claimed(after.leases, "b", now=NOW + 9) == []
    assert (await claimed_one(after.leases, "b", now=NOW + 10)).record.id == run.id


@case("Q5", needs=("signals",))
async def a_signal_queues_a_parked_run(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, _ = await _parked(stage, UNTIL_SIGNALLED)
    record = await peer.leases.send_signal(run.id, "go", b"1", NOW)
    assert record is not None
    assert record.status == "queued", f"the run was woken, but the answer says that it is {record.status}"
    assert (await claimed_one(peer.leases, "b")).record.id == run.id


@case("Q5", needs=("signals",))
async def a_run_is_not_parked_past_a_signal_it_has_not_seen(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    await peer.leases.send_signal(run.id, "go", b"1", NOW)
    await stage.leases.release(log.lease, UNTIL_SIGNALLED)
    assert (await claimed_one(peer.leases, "b")).record.id == run.id
    seen, other = await stage.running()
    await peer.leases.send_signal(seen.id, "go", b"1", NOW)
    await stage.leases.release(other.lease, Parked(math.inf, 1))
    assert await claimed(peer.leases, "b") == [], "a run was queued by a signal that it had seen"


@case("Q5", needs=("signals",))
async def a_signal_and_the_parking_may_cross(stage: StoreStage) -> None:
    peer = await stage.peer()
    for number in range(10):
        run, log = await stage.running()
        park = stage.leases.release(log.lease, UNTIL_SIGNALLED)
        send = peer.leases.send_signal(run.id, "go", b"1", NOW)
        await asyncio.gather(*((park, send) if number % 2 else (send, park)))
        assert [claim.record.id for claim in await claimed(peer.leases, "b")] == [run.id], "a signal was lost"


@case("Q8", needs=("signals",))
async def signals_are_kept_as_they_were_sent(stage: StoreStage) -> None:
    peer = await stage.peer()
    run = await stage.queued()
    sent = [("go", b'{"a":1}'), ("stop", b"null"), ("go", b"2"), ("go", b"1")]
    for number, (name, value) in enumerate(sent):
        record = await (peer, stage)[number % 2].leases.send_signal(run.id, name, value, NOW)
        assert record == await stage.stored(run)
    assert await stage.store.signals(run.id) == sent
    other = await stage.queued()
    assert await stage.store.signals(other.id) == [], "a signal reached a run that it was not sent to"


@case("Q8", needs=("signals", "durable"))
async def a_signal_that_was_taken_survives_a_crash(stage: StoreStage) -> None:
    run = await stage.queued()
    await stage.leases.send_signal(run.id, "go", b"1", NOW)
    after = await stage.crash()
    assert await after.store.signals(run.id) == [("go", b"1")], "an acknowledged signal was lost"


@case("Q8", needs=("signals",))
async def a_run_that_has_ended_takes_no_signal(stage: StoreStage) -> None:
    run, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    await _conflict(stage, run, "a run that has ended")
    assert await stage.store.signals(run.id) == []
    assert await stage.leases.send_signal(stage.record().id, "go", b"1", NOW) is None


@case("Q8", needs=("signals",))
async def a_run_takes_a_bounded_number_of_signals(stage: StoreStage) -> None:
    run = await stage.queued()
    await asyncio.gather(*(stage.leases.send_signal(run.id, "go", b"1", NOW) for _ in range(SIGNALS_MAX)))
    await _conflict(stage, run, f"a run with {SIGNALS_MAX} signals")
    assert len(await stage.store.signals(run.id)) == SIGNALS_MAX


@case("Q8", needs=("signals",))
async def a_run_takes_a_bounded_number_of_bytes_in_signals(stage: StoreStage) -> None:
    peer = await stage.peer()
    run = await stage.queued()
    part = b'"' + b"x" * (SIGNALS_BYTES_MAX // 4 - 2) + b'"'
    for number in range(3):
        await (peer, stage)[number % 2].leases.send_signal(run.id, "go", part, NOW)
    await stage.leases.send_signal(run.id, "go", part[1:], NOW)
    await stage.leases.send_signal(run.id, "go", b"1", NOW)
    await _conflict(stage, run, f"a run with {SIGNALS_BYTES_MAX} bytes of signals")
    assert len(await stage.store.signals(run.id)) == 5
    other = await stage.queued()
    await stage.leases.send_signal(other.id, "go", part, NOW)


async def _conflict(stage: StoreStage, run: RunRecord, what: str) -> None:
    try:
        await stage.leases.send_signal(run.id, "go", b"1", NOW)
    except RunConflict:
        return
    raise AssertionError(f"{what} took a signal")


@case("Q12", needs=("signals",))
async def a_signal_that_is_sent_again_is_kept_once(stage: StoreStage) -> None:
    peer = await stage.peer()
    run = await stage.queued()
    for leases in (stage.leases, peer.leases, stage.leases):
        record = await leases.send_signal(run.id, "go", b"1", NOW, "a")
        assert record == await stage.stored(run), "a repeated signal gets another answer"
    await stage.leases.send_signal(run.id, "go", b"1", NOW, "b")
    await stage.leases.send_signal(run.id, "go", b"1", NOW)
    await stage.leases.send_signal(run.id, "go", b"1", NOW)
    assert await stage.store.signals(run.id) == [("go", b"1")] * 4
    other = await stage.queued()
    await stage.leases.send_signal(other.id, "stop", b"2", NOW, "a")
    assert await stage.store.signals(other.id) == [("stop", b"2")], "a key of one run is known to another"


@case("Q12", needs=("signals",))
async def requests_that_cross_send_one_signal(stage: StoreStage) -> None:
    peer = await stage.peer()
    run = await stage.queued()
    both = [leases.send_signal(run.id, "go", b"1", NOW, "a") for leases in (stage.leases, peer.leases) * 5]
    await asyncio.gather(*both)
    assert await stage.store.signals(run.id) == [("go", b"1")]


@case("Q12", needs=("signals",))
async def a_key_that_comes_with_another_signal_is_refused(stage: StoreStage) -> None:
    run = await stage.queued()
    await stage.leases.send_signal(run.id, "go", b"1", NOW, "a")
    for name, value in (("go", b"2"), ("stop", b"1")):
        try:
            await stage.leases.send_signal(run.id, name, value, NOW, "a")
        except IdempotencyMismatch:
            continue
        raise AssertionError(f"a key that came with go 1 was taken with {name} {value.decode()}")
    assert await stage.store.signals(run.id) == [("go", b"1")]


@case("Q12", needs=("signals",))
async def a_signal_is_known_after_the_end_of_its_run(stage: StoreStage) -> None:
    run, log = await stage.running()
    await stage.leases.send_signal(run.id, "go", b"1", NOW, "a")
    await log.finish(DONE, completed(), NOW)
    record = await stage.leases.send_signal(run.id, "go", b"1", NOW, "a")
    assert record is not None
    assert record.finished
    await _conflict(stage, run, "a run that has ended")


@case("Q12", needs=("signals", "durable"))
async def a_key_survives_a_crash_with_its_signal(stage: StoreStage) -> None:
    run = await stage.queued()
    await stage.leases.send_signal(run.id, "go", b"1", NOW, "a")
    after = await stage.crash()
    await after.leases.send_signal(run.id, "go", b"1", NOW, "a")
    assert await after.store.signals(run.id) == [("go", b"1")]


@case("Q12", "S13", needs=("signals", "purge"))
async def keys_are_purged_with_their_run(stage: StoreStage) -> None:
    run, log = await stage.running(retention_s=10.0)
    await stage.leases.send_signal(run.id, "go", b"1", NOW, "a")
    await log.finish(DONE, completed(), NOW)
    await stage.store.purge(NOW + 11)
    try:
        await stage.leases.send_signal(run.id, "go", b"1", NOW, "a")
    except RunConflict:
        return
    raise AssertionError("a run without its data knows a signal")


@case("Q8", "Q12", lacks="signals")
async def without_signals_sending_one_is_refused(stage: StoreStage) -> None:
    run = await stage.queued()
    await unsupported(stage.leases.send_signal(run.id, "go", b"1", NOW), "signals")


@case("Q9")
async def runs_that_nobody_owns_are_overdue_after_their_deadline(stage: StoreStage) -> None:
    queued = await stage.queued(deadline_at=NOW + 10)
    parked, _ = await _parked(stage, UNTIL_SIGNALLED, deadline_at=NOW + 10)
    assert list(await stage.leases.overdue(NOW + 9)) == [], "a run was overdue before its deadline"
    assert set(await stage.leases.overdue(NOW + 11)) == {queued.id, parked.id}


@case("Q9")
async def what_is_owned_ended_or_without_deadline_is_not_overdue(stage: StoreStage) -> None:
    await stage.queued()
    await stage.queued(deadline_at=NOW + 1_000)
    await stage.running(deadline_at=NOW + 10)
    _, log = await stage.running(deadline_at=NOW + 10)
    await log.finish(DONE, completed(), NOW)
    assert list(await stage.leases.overdue(NOW + 11)) == []
