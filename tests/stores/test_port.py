"""The obligations of the store and lease ports, on every adapter."""

from __future__ import annotations

import msgspec
import pytest

from offramp.core import events
from offramp.core.events import decode
from offramp.core.failure import Failure
from offramp.core.journal import Entry
from offramp.core.run import Demotion, Outcome, Webhook
from offramp.errors import IdempotencyMismatch, LeaseLost
from offramp.ports.store import Idempotency, Lease, Owner, RunFilter
from tests.support import NOW, a_record, accepted, drafted, eventually

DONE = Outcome("completed", b'"done"')


def entry(n):
    return Entry(f"work:{n}:0", "work", "step", str(n).encode())


def started(n):
    return drafted(events.StepStarted("work", f"work:{n}:0", 1))


def delta(text):
    return drafted(events.StepDelta("work", "work:0:0", 1, msgspec.Raw(msgspec.json.encode(text))))


def ended():
    return drafted(events.RunCompleted(msgspec.Raw(b'"done"')))


def owner(name, expires_at=NOW + 10):
    return Owner(name, "worker", 0, ready=True, expires_at=expires_at, started_at=NOW)


async def created(port, *, by="a", **changes):
    record = a_record(**changes)
    commit, log = port.store.create(record, accepted(record), owner=by, durable=True)
    assert (await commit).existing is None
    return record, log


async def numbers(port, run, after=0):
    found = []
    while part := await port.store.events(run.id, after):
        found += [frame.seq for frame in part]
        after = found[-1]
    return found


async def test_writes_become_visible_in_order_and_none_is_lost(port):
    run, log = await created(port)
    for n in range(500):
        log.append(entry(n), started(n))
    await log.durable()
    assert await port.store.journal(run.id) == [entry(n) for n in range(500)]
    assert await numbers(port, run) == list(range(1, 502))


async def test_a_record_comes_back_as_it_was_given(port):
    run, _ = await created(
        port,
        session_id="s",
        metadata={"k": "v"},
        trace={"traceparent": "t"},
        deadline_at=NOW + 9,
        webhook=Webhook("https://example.com"),
    )
    assert await port.store.get(run.id) == run


async def test_an_unknown_run_is_none_and_has_no_log(port):
    assert await port.store.get("run_0") is None
    assert await port.store.journal("run_0") == []
    assert await port.store.events("run_0", 0) == []


async def test_an_outcome_ends_the_log_and_gives_the_lease_back(port):
    run, log = await created(port)
    await log.finish(DONE, ended(), NOW + 1)
    stored = await port.store.get(run.id)
    assert (stored.status, stored.result, stored.finished_at) == ("completed", b'"done"', NOW + 1)
    log.append(entry(1), started(1))
    with pytest.raises(LeaseLost):
        await log.durable()
    with pytest.raises(LeaseLost):
        await log.finish(DONE, ended(), NOW + 2)
    assert await numbers(port, run) == [1, 2]
    assert await port.store.journal(run.id) == []


async def test_a_failure_is_stored(port):
    run, log = await created(port)
    failure = Failure("step-failed", "no", "work", 2, causes=[Failure("x", "y")])
    await log.finish(Outcome("failed", error=failure), drafted(events.RunFailed(failure.public())), NOW)
    assert (await port.store.get(run.id)).error == failure


async def test_a_run_is_created_once_for_its_id(port):
    run, log = await created(port)
    again, _ = port.store.create(run, accepted(run), owner=None, durable=True)
    assert (await again).existing == run.id
    log.append(None, started(1))
    await log.durable()
    assert await numbers(port, run) == [1, 2]


async def test_a_run_is_created_once_for_its_tenant_and_key(port):
    key = Idempotency("k", "body", NOW + 60)
    first = a_record(tenant="t")
    assert (
        await port.store.create(first, accepted(first), owner="a", durable=False, idempotency=key)[0]
    ).existing is None
    second = a_record(tenant="t")
    commit, _ = port.store.create(second, accepted(second), owner="a", durable=False, idempotency=key)
    assert (await commit).existing == first.id
    assert await port.store.get(second.id) is None

    other = a_record(tenant="u")
    assert (
        await port.store.create(other, accepted(other), owner="a", durable=False, idempotency=key)[0]
    ).existing is None

    wrong = a_record(tenant="t")
    changed = Idempotency("k", "another body", NOW + 60)
    with pytest.raises(IdempotencyMismatch):
        await port.store.create(wrong, accepted(wrong), owner="a", durable=False, idempotency=changed)[0]
    assert await port.store.get(wrong.id) is None

    late = a_record(tenant="t", created_at=NOW + 61)
    commit, _ = port.store.create(late, accepted(late), owner="a", durable=False, idempotency=changed)
    assert (await commit).existing is None


async def test_what_was_refused_reaches_nobody_and_its_writer_is_told(port):
    run, log = await created(port)
    lost, heard = [], []
    port.store.on_lost(lost.append)
    port.store.listen(heard.append)
    await port.leases.retire("a")
    log.append(entry(1), started(1))
    with pytest.raises(LeaseLost):
        await log.durable()
    await eventually(lambda: set(lost) == {log.lease})
    assert [batch for part in heard for batch in part if batch.first > 1] == []
    assert await numbers(port, run) == [1]


async def test_readers_hear_of_every_event_in_order_after_it_is_visible(port):
    heard = []
    port.store.listen(heard.extend)
    run, log = await created(port)
    for n in range(50):
        log.append(None, delta(str(n)))
    await log.finish(DONE, ended(), NOW)
    await eventually(lambda: sum(len(batch.frames) for batch in heard) == 52)
    seen = [(batch.first + place, data) for batch in heard for place, data in enumerate(batch.frames)]
    stored, after = [], 0
    while part := await port.store.events(run.id, after):
        stored, after = stored + [tuple(frame) for frame in part], part[-1].seq
    assert seen == stored
    assert [number for number, _ in stored] == list(range(1, 53))


async def test_deltas_can_be_skipped_without_renumbering(port):
    run, log = await created(port)
    for n in range(3):
        log.append(None, started(n))
        for text in "abc":
            log.append(None, delta(text))
    await log.durable()
    kept = await port.store.events(run.id, 0, skip_deltas=True)
    assert [(frame.seq, frame.type) for frame in kept] == [
        (1, "run.accepted"),
        *((seq, "step.started") for seq in (2, 6, 10)),
    ]
    assert [frame.seq for frame in await port.store.events(run.id, 6, skip_deltas=True)] == [10]


async def test_a_text_with_line_breaks_is_one_event(port):
    run, log = await created(port)
    log.append(None, delta("one\ntwo\r\n\u2028three"))
    await log.durable()
    [frame] = await port.store.events(run.id, 1)
    assert decode(frame.data).data["delta"] == "one\ntwo\r\n\u2028three"


async def test_runs_are_listed_newest_first_by_page_and_filter(port):
    made = []
    for n in range(6):
        run, log = await created(port, session_id=f"s{n % 2}", pipeline=f"p{n % 3}", tenant="t")
        made.append(run.id)
        if n < 2:
            await log.finish(DONE, ended(), NOW)
    await created(port, tenant="other")

    async def ids(**wanted):
        return [run.id for run in await port.store.runs(RunFilter(tenant="t", **wanted))]

    newest = made[::-1]
    assert await ids() == newest
    assert await ids(limit=2) == newest[:2]
    assert await ids(limit=2, after=newest[1]) == newest[2:4]
    assert await ids(session_id="s0") == [made[4], made[2], made[0]]
    assert await ids(status="completed") == [made[1], made[0]]
    assert await ids(pipeline="p2", session_id="s1") == [made[5]]
    assert await ids(status="queued") == []


async def test_a_listing_leaves_large_results_out(port):
    run, log = await created(port)
    large = msgspec.json.encode("x" * events.RESULT_INLINE_BYTES_MAX)
    await log.finish(Outcome("completed", large), drafted(events.RunCompleted(result_url="u")), NOW)
    assert [listed.result for listed in await port.store.runs(RunFilter())] == [None]
    assert (await port.store.get(run.id)).result == large


async def test_an_adopted_run_is_deep_and_adopting_again_changes_nothing(port):
    run, log = await created(port)
    demotion = Demotion("budget", NOW + 6, 6000.0, 6000.0)
    log.append(entry(1), None)
    await port.store.adopt(log.lease, demotion)
    first = await port.store.get(run.id)
    await port.store.adopt(log.lease, demotion)
    assert await port.store.get(run.id) == first
    assert (first.path, first.demotion, first.status) == ("deep", demotion, "running")


async def test_only_its_owner_may_have_a_run_adopted(port):
    run, log = await created(port)
    with pytest.raises(LeaseLost):
        await port.store.adopt(Lease(run.id, "b", 1), Demotion("budget", NOW, 1.0, 1.0))
    with pytest.raises(LeaseLost):
        await port.store.adopt(Lease(run.id, "a", 2), Demotion("budget", NOW, 1.0, 1.0))
    assert (await port.store.get(run.id)).demotion is None
    assert log.lease == Lease(run.id, "a", 1)


async def test_a_purged_run_is_known_but_empty(port):
    run, log = await created(port, input=b'{"secret": "s"}', retention_s=100.0)
    log.append(entry(1), started(1))
    await log.finish(DONE, ended(), NOW)
    kept, _ = await created(port)
    assert await port.store.purge(NOW + 99) == 0
    assert await port.store.purge(NOW + 100) == 1
    assert await port.store.purge(NOW + 100) == 0
    stored = await port.store.get(run.id)
    assert (stored.purged, stored.status, stored.result) == (True, "completed", None)
    assert b"secret" not in stored.input
    assert await port.store.journal(run.id) == []
    assert await numbers(port, run) == []
    assert await numbers(port, kept) == [1]


async def test_a_run_that_has_not_ended_is_never_purged(port):
    run, _ = await created(port, retention_s=1.0)
    assert await port.store.purge(NOW + 1e9) == 0
    assert await numbers(port, run) == [1]


# Leases.


async def test_a_queued_run_is_claimed_once_with_a_higher_token(port):
    run, log = await created(port, by=None, status="queued")
    assert log is None
    [claim] = await port.leases.claim("a", 10, ["research"], NOW)
    assert await port.leases.claim("b", 10, ["research"], NOW) == []
    assert (claim.record.id, claim.record.status, claim.record.path, claim.fresh) == (run.id, "running", "deep", True)
    await port.leases.release(claim.lease)
    [again] = await port.leases.claim("b", 10, ["research"], NOW + 1)
    assert again.lease.token > claim.lease.token
    assert not again.fresh
    assert again.record.started_at == NOW


async def test_runs_are_claimed_by_priority_then_age_and_only_of_known_pipelines(port):
    made = {}
    for name, priority, pipeline in [("old", 0, "p"), ("new", 0, "p"), ("first", 5, "p"), ("not mine", 9, "q")]:
        made[name], _ = await created(port, by=None, status="queued", priority=priority, pipeline=pipeline)
    two = await port.leases.claim("a", 2, ["p"], NOW)
    rest = await port.leases.claim("a", 2, ["p"], NOW)
    assert [claim.record.id for claim in [*two, *rest]] == [made[name].id for name in ("first", "old", "new")]


async def test_a_claimed_run_goes_on_where_its_log_ends(port):
    run, log = await created(port)
    log.append(entry(1), started(1))
    await log.durable()
    await port.leases.release(log.lease)
    [claim] = await port.leases.claim("b", 1, ["research"], NOW)
    other = port.store.log(claim.lease)
    other.append(entry(2), started(2))
    await other.finish(DONE, ended(), NOW)
    assert await numbers(port, run) == [1, 2, 3, 4]
    assert await port.store.journal(run.id) == [entry(1), entry(2)]


async def test_a_writer_that_was_overtaken_cannot_write_any_more(port):
    run, log = await created(port)
    await port.leases.retire("a")
    [claim] = await port.leases.claim("b", 1, ["research"], NOW)
    log.append(entry(1), started(1))
    with pytest.raises(LeaseLost):
        await log.finish(DONE, ended(), NOW)
    with pytest.raises(LeaseLost):
        await port.leases.release(log.lease)
    with pytest.raises(LeaseLost):
        await port.store.adopt(log.lease, Demotion("budget", NOW, 1.0, 1.0))
    assert await numbers(port, run) == [1]
    assert (await port.store.get(run.id)).status == "running"
    await port.store.log(claim.lease).finish(DONE, ended(), NOW)
    assert await numbers(port, run) == [1, 2]


async def test_what_an_owner_held_is_free_once_it_is_expired_and_not_before(port):
    await port.leases.register(owner("a", NOW + 10))
    run, _ = await created(port, by="a")
    assert port.leases.renew("a", NOW + 20) == (True, [])
    assert port.leases.expire(NOW + 19) == []
    assert await port.leases.claim("b", 1, ["research"], NOW) == []
    assert port.leases.expire(NOW + 21) == ["a"]
    assert port.leases.renew("a", NOW + 30) == (False, [])
    [claim] = await port.leases.claim("b", 1, ["research"], NOW)
    assert claim.record.id == run.id
    assert not claim.fresh


async def test_retiring_says_how_many_runs_are_free_now(port):
    await port.leases.register(owner("a"))
    for _ in range(3):
        await created(port, by="a")
    await created(port, by="b")
    assert await port.leases.retire("a") == 3
    assert await port.leases.retire("a") == 0
    assert await port.leases.owners() == []


async def test_a_wish_to_cancel_reaches_the_owner_with_its_renewal(port):
    await port.leases.register(owner("a"))
    run, log = await created(port, by="a")
    assert (await port.leases.request_cancel(run.id)).cancel_requested
    assert port.leases.renew("a", NOW + 20) == (True, [run.id])
    await log.finish(Outcome("cancelled"), drafted(events.RunCancelled({})), NOW)
    assert port.leases.renew("a", NOW + 30) == (True, [])


async def test_a_wish_to_cancel_stays_with_a_queued_run(port):
    run, _ = await created(port, by=None, status="queued")
    await port.leases.request_cancel(run.id)
    claim = await port.leases.claim_one("a", run.id, NOW)
    assert claim.record.cancel_requested
    assert await port.leases.claim_one("a", run.id, NOW) is None


async def test_a_finished_or_unknown_run_is_not_cancelled(port):
    run, log = await created(port)
    await log.finish(DONE, ended(), NOW)
    record = await port.leases.request_cancel(run.id)
    assert (record.status, record.cancel_requested) == ("completed", False)
    assert await port.leases.request_cancel("run_0") is None


async def test_owners_are_known_and_may_change(port):
    await port.leases.register(owner("a"))
    await port.leases.register(Owner("a", "worker", 7, ready=False, expires_at=NOW + 5, started_at=NOW))
    assert await port.leases.owners() == [Owner("a", "worker", 7, ready=False, expires_at=NOW + 5, started_at=NOW)]
