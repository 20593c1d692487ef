"""Cases of run records: creation, adoption, reading, listing, purging (S6, S8, S9, S11, S12, S13, S19, S20, S21)."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec

from offramp.conformance.case import case
from offramp.conformance.sample import (
    DEMOTION,
    DONE,
    NOW,
    PIPELINE,
    accepted,
    completed,
    drafted,
    entry,
    started,
)
from offramp.conformance.store_stage import StoreStage, claimed_one, count_of, frames_of, unsupported
from offramp.core import events
from offramp.core.failure import Failure
from offramp.core.recorded import Frame, Traceback
from offramp.core.run import NOT_TAKEN, Demotion, Outcome, RunRecord, Seen
from offramp.errors import IdempotencyMismatch
from offramp.ports.store import Idempotency, RunLog

KEY = Idempotency("key", "body", NOW + 60)


@case("S6")
async def a_run_is_created_once_for_its_id(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    for store in (stage.store, peer.store):
        again, _ = store.create(run, accepted(run), owner=None, durable=True)
        assert (await again).existing == run.id, f"{run.id} was created a second time"
    assert await stage.stored(run) == run, "creating a run again changed it"
    log.append(None, started(1))
    await log.durable()
    assert await count_of(stage.store, run) == 2


@case("S6")
async def a_run_that_ended_is_not_created_again(stage: StoreStage) -> None:
    run, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    again, _ = stage.store.create(run, accepted(run), owner="a", durable=True)
    assert (await again).existing == run.id, "a run that had ended began anew"
    assert (await stage.stored(run)).status == "completed"


@case("S6")
async def a_run_is_created_once_for_its_tenant_and_key(stage: StoreStage) -> None:
    first, none = await stage.keyed(KEY, tenant="t")
    assert none is None, "an unused idempotency key is taken"
    second, existing = await stage.keyed(KEY, tenant="t")
    assert existing == first.id, f"the key was used by {first.id}, but the answer was {existing}"
    assert await stage.store.get(second.id) is None, "a second run was created for the same key"
    _, other = await stage.keyed(KEY, tenant="u")
    assert other is None, "a key of one tenant blocks the same key of another"


@case("S6")
async def concurrent_creations_with_one_key_make_one_run(stage: StoreStage) -> None:
    peer = await stage.peer()
    records = [stage.record() for _ in range(8)]
    commits = [
        store.create(record, accepted(record), owner=None, durable=True, idempotency=KEY)[0]
        for record, store in zip(records, [stage.store, peer.store] * 4, strict=True)
    ]

    async def answer(number: int) -> str | None:
        return (await commits[number]).existing

    answers = await asyncio.gather(*(answer(number) for number in range(len(commits))))
    assert answers.count(None) == 1, f"eight requests with one key made {answers.count(None)} runs"
    [made] = [record.id for record, existing in zip(records, answers, strict=True) if existing is None]
    assert {existing for existing in answers if existing} == {made}


async def _seeded(stage: StoreStage, owner: str | None) -> tuple[RunRecord, RunLog | None]:
    """A run that is created with two entries."""
    run = stage.record(status="queued" if owner is None else "running", started_at=NOW if owner else NOT_TAKEN)
    made, log = stage.store.create(run, accepted(run), owner=owner, durable=True, entries=[entry(1), entry(2)])
    assert (await made).existing is None, f"{run.id} is new, but was said to exist"
    return run, log


@case("S1", "S20")
async def a_run_is_created_with_entries_that_come_before_its_own(stage: StoreStage) -> None:
    run, log = await _seeded(stage, "a")
    assert log is not None
    log.append(entry(4), None)
    await log.durable()
    assert await stage.store.journal(run.id) == [entry(1), entry(2), entry(4)]


@case("Q7", "S1", "S20")
async def a_queued_run_that_was_created_with_entries_is_not_claimed_as_fresh(stage: StoreStage) -> None:
    run, _ = await _seeded(stage, None)
    assert not (await stage.stored(run)).started_at, "a run that waits has been started"
    claim = await claimed_one(stage.leases, "b", now=NOW + 3)
    assert not claim.fresh, "a run that has finished steps was claimed as one that has none"
    assert (await stage.stored(run)).started_at == claim.record.started_at == NOW + 3, "its first claim starts a run"
    log = stage.store.log(claim.lease)
    log.append(entry(4), None)
    await log.durable()
    assert await stage.store.journal(run.id) == [entry(1), entry(2), entry(4)]


@case("S6", "S20")
async def creating_a_run_again_adds_no_entries(stage: StoreStage) -> None:
    run, _ = await _seeded(stage, None)
    again, _ = stage.store.create(run, accepted(run), owner=None, durable=True, entries=[entry(3)])
    assert (await again).existing == run.id
    assert await stage.store.journal(run.id) == [entry(1), entry(2)], "a run that exists was given more entries"


@case("S20", needs=("durable",))
async def the_entries_of_a_new_run_survive_with_it(stage: StoreStage) -> None:
    run, _ = await _seeded(stage, None)
    successor = await stage.crash()
    assert await successor.store.journal(run.id) == [entry(1), entry(2)]


@case("Q8", "S6", "S20", needs=("signals",))
async def a_run_is_created_with_signals_that_come_before_others(stage: StoreStage) -> None:
    run = stage.record(status="queued")
    sent = [("go", b"1"), ("stop", b'"x"'), ("go", b"2")]
    made, _ = stage.store.create(run, accepted(run), owner=None, durable=True, signals=sent)
    await made
    assert await stage.store.signals(run.id) == sent
    await stage.leases.send_signal(run.id, "go", b"3", NOW)
    assert await stage.store.signals(run.id) == [*sent, ("go", b"3")]
    again, _ = stage.store.create(run, accepted(run), owner=None, durable=True, signals=sent)
    assert (await again).existing == run.id
    assert len(await stage.store.signals(run.id)) == 4, "creating a run again sent its signals again"


@case("S6", "S21")
async def a_retry_is_named_by_the_run_that_it_retries(stage: StoreStage) -> None:
    run, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    made = []
    for owner in (None, "a"):
        retry = stage.record(status="queued" if owner is None else "running", retry_of=run.id, keys_of=run.id)
        for _ in range(2):
            commit, _ = stage.store.create(retry, accepted(retry), owner=owner, durable=True)
            await commit
        made.append(retry.id)
        kept = await stage.store.get(retry.id)
        assert kept is not None
        assert (kept.retry_of, kept.keys_of, kept.retried_as) == (run.id, run.id, [])
        retried = await stage.store.get(run.id)
        assert retried is not None
        assert retried.retried_as == made
        assert retried.status == "completed", "a retry changed the run that it retries"


@case("S21")
async def a_retry_of_an_unknown_run_is_created(stage: StoreStage) -> None:
    retry = stage.record(retry_of=stage.record().id)
    commit, _ = stage.store.create(retry, accepted(retry), owner="a", durable=True)
    assert (await commit).existing is None


@case("S11")
async def a_key_with_another_body_is_refused(stage: StoreStage) -> None:
    await stage.keyed(KEY)
    wrong = stage.record()
    commit, _ = stage.store.create(
        wrong, accepted(wrong), owner="a", durable=True, idempotency=Idempotency("key", "another body", NOW + 60)
    )
    try:
        await commit
    except IdempotencyMismatch:
        assert await stage.store.get(wrong.id) is None, "a refused request left a run"
        return
    raise AssertionError("a key was accepted with another body than before")


@case("S11")
async def an_expired_key_is_free_again(stage: StoreStage) -> None:
    first, _ = await stage.keyed(KEY)
    _, before = await stage.keyed(KEY, created_at=NOW + 59)
    assert before == first.id, "the key was forgotten before it expired"
    _, after = await stage.keyed(Idempotency("key", "another body", NOW + 120), created_at=NOW + 61)
    assert after is None, "the key was remembered after it expired"


@case("S8")
async def a_record_comes_back_as_it_was_given(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, _ = await stage.running(
        session_id="s",
        metadata={"k": "v"},
        seen=Seen(3, (2.5, 1.0), {"words": 7, "kind": "batch"}),
        trace={"traceparent": "t"},
        deadline_at=NOW + 9,
        tenant="t",
        priority=3,
        input=b'{"question":"why"}',
        mount="/at",
    )
    assert await peer.store.get(run.id) == run


@case("S8")
async def an_unknown_run_has_nothing(stage: StoreStage) -> None:
    unknown = stage.record()
    assert await stage.store.get(unknown.id) is None
    assert await stage.store.journal(unknown.id) == []
    assert await stage.store.events(unknown.id, 0) == []
    assert await stage.store.signals(unknown.id) == []


@case("S8")
async def a_failure_is_kept_whole(stage: StoreStage) -> None:
    run, log = await stage.running()
    failure = Failure(
        "step-failed", "no", "work", 2, causes=[Failure("x", "y")], traceback=Traceback([Frame("a.py", 1, "f")])
    )
    await log.finish(Outcome("failed", error=failure), drafted(events.RunFailed(failure.public())), NOW)
    stored = await stage.stored(run)
    assert (stored.status, stored.error, stored.result) == ("failed", failure, None)


@case("S9")
async def an_adopted_run_is_deep_and_leased_still(stage: StoreStage) -> None:
    run, log = await stage.running()
    await stage.store.adopt(log.lease, DEMOTION)
    stored = await stage.stored(run)
    assert (stored.path, stored.demotion, stored.status) == ("deep", DEMOTION, "running")
    assert await stage.leases.claim("b", 1, [PIPELINE], NOW) == [], "the run was taken from its owner"
    log.append(entry(1), None)
    await log.durable()


@case("S9")
async def adopting_again_changes_nothing(stage: StoreStage) -> None:
    run, log = await stage.running()
    await stage.store.adopt(log.lease, DEMOTION)
    before = await stage.stored(run)
    await stage.store.adopt(log.lease, DEMOTION)
    assert await stage.stored(run) == before
    assert await count_of(stage.store, run) == 1


@case("S12")
async def runs_are_listed_newest_first_by_page(stage: StoreStage) -> None:
    made = [(await stage.running())[0].id for _ in range(5)]
    newest = made[::-1]
    assert await stage.listed() == newest
    assert await stage.listed(limit=2) == newest[:2]
    assert await stage.listed(limit=2, after=newest[1]) == newest[2:4]
    assert await stage.listed(limit=2, after=newest[4]) == []
    assert await stage.paged(limit=2) == await stage.paged(limit=5) == newest


@case("S12")
async def runs_are_listed_by_every_filter(stage: StoreStage) -> None:
    made = []
    for number in range(6):
        run, log = await stage.running(session_id=f"s{number % 2}", pipeline=f"p{number % 3}", tenant="t")
        made.append(run.id)
        if number < 2:
            await log.finish(DONE, completed(), NOW)
    assert await stage.listed(tenant="t", session_id="s0") == [made[4], made[2], made[0]]
    assert await stage.listed(tenant="t", status="completed") == [made[1], made[0]]
    assert await stage.listed(tenant="t", pipeline="p2", session_id="s1") == [made[5]]
    assert await stage.listed(tenant="t", status="queued") == []


@case("S12")
async def every_combination_of_filters_shows_what_fits_all_of_them(stage: StoreStage) -> None:
    made: list[dict[str, str | None]] = []
    for number in range(12):
        asked = {"tenant": f"t{number % 2}", "session_id": f"s{number // 2 % 2}", "pipeline": f"p{number // 4 % 2}"}
        run, log = await stage.running(**asked)
        if number % 3 == 0:
            await log.finish(DONE, completed(), NOW)
        made.insert(0, {**asked, "status": "running" if number % 3 else "completed", "id": run.id})
    filters = [
        (name, value) for name in ("tenant", "session_id", "status", "pipeline") for value in (None, made[0][name])
    ]
    for chosen in itertools.product(*zip(filters[::2], filters[1::2], strict=True)):
        wanted = dict(chosen)
        fits = [run["id"] for run in made if all(value in {None, run[name]} for name, value in wanted.items())]
        assert await stage.paged(limit=2, **wanted) == fits, f"not the runs that fit {wanted}"


@case("S12")
async def runs_are_listed_by_class_path_time_and_part_of_a_text(stage: StoreStage) -> None:
    made = []
    for number in range(6):
        run, _ = await stage.running(
            sla=f"c{number % 2}",
            path="deep" if number == 4 else "fast",
            session_id=f"Chat-{number}" if number < 3 else None,
            metadata={"customer": f"Ann {number}\u00c4", "order": "7%_"} if number > 1 else {},
        )
        made.append(run)
    oldest = [run.id for run in made]
    second = made[2].id
    cases: list[tuple[list[int], dict[str, Any]]] = [
        ([5, 3, 1], {"sla": "c1"}),
        ([3], {"sla": "c1", "until": NOW + 5.5, "since": NOW + 3}),
        ([4], {"path": "deep"}),
        ([5, 3, 2, 1, 0], {"path": "fast"}),
        ([5, 4, 3, 2, 1], {"since": NOW + 2}),
        ([1, 0], {"until": NOW + 3}),
        ([2, 3], {"since": NOW + 3, "until": NOW + 5, "newest_first": False}),
        ([2, 1, 0], {"q": "cHAT-"}),
        ([5, 4, 3, 2], {"q": "ann "}),
        ([3], {"q": "Ann 3\u00c4"}),
        ([], {"q": "ann 3\u00e4"}),
        ([5, 4, 3, 2], {"q": "7%_"}),
        ([], {"q": "7_%"}),
        ([], {"q": "customer"}),
        ([2], {"q": second}),
        ([2], {"q": second[3:].lower()}),
        ([], {"q": second, "sla": "c1"}),
        ([0, 1, 2, 3, 4, 5], {"newest_first": False}),
    ]
    for found, wanted in cases:
        ids = [oldest[number] for number in found]
        for limit in (2, 10):
            assert await stage.paged(limit=limit, **wanted) == ids, f"not the runs that fit {wanted}"


@case("S12")
async def nobody_is_shown_the_runs_of_another_tenant(stage: StoreStage) -> None:
    mine, _ = await stage.running(tenant="t")
    await stage.running(tenant="u")
    assert await stage.listed(tenant="t") == [mine.id]
    assert await stage.listed() == []


@case("S12")
async def the_operator_is_shown_the_runs_of_every_tenant(stage: StoreStage) -> None:
    made = [(await stage.running(tenant=tenant))[0].id for tenant in ("t", "u", "")]
    assert await stage.listed(tenant=None) == made[::-1]


@case("S12")
async def a_listing_leaves_large_results_out(stage: StoreStage) -> None:
    run, log = await stage.running()
    large = msgspec.json.encode("x" * events.RESULT_INLINE_BYTES_MAX)
    await log.finish(Outcome("completed", large), drafted(events.RunCompleted(result_url="u")), NOW)
    other, small = await stage.running()
    await small.finish(DONE, completed(), NOW)
    listed = [await stage.listed_record(made) for made in (run, other)]
    assert [record.result for record in listed] == [None, DONE.result]
    assert (await stage.stored(run)).result == large, "a large result was lost"


async def _ended(stage: StoreStage, retention_s: float, demotion: Demotion | None = None) -> RunRecord:
    seen = Seen(2, (1.5,), {"secret": "s"})
    run, log = await stage.running(input=b'{"secret":"s"}', seen=seen, retention_s=retention_s, metadata={})
    if demotion is not None:
        await stage.store.adopt(log.lease, demotion)
    log.append(entry(1), started(1))
    await log.finish(DONE, completed(), NOW)
    return run


async def _purged(stage: StoreStage, now: float) -> int:
    count = 0
    while part := await stage.store.purge(now):
        count += part
    return count


@case("S13", "S9", needs=("purge",))
async def a_purged_run_is_known_but_empty(stage: StoreStage) -> None:
    run = await _ended(stage, 100.0, msgspec.structs.replace(DEMOTION, reasons=["it has a secret"], trace={}))
    assert await _purged(stage, NOW + 101) == 1
    stored = await stage.stored(run)
    assert (stored.purged, stored.status, stored.result) == (True, "completed", None)
    assert b"secret" not in stored.input, "the input outlived its retention"
    unreasoned = msgspec.structs.replace(run.route, reasons=[])
    assert (stored.route, stored.metadata) == (unreasoned, {}), "reasons outlived their retention, or more is lost"
    assert stored.demotion == msgspec.structs.replace(DEMOTION, trace={}), "reasons outlived their retention"
    assert stored.seen is None, "what was known of the input outlived its retention"
    assert await stage.store.journal(run.id) == [], "the journal outlived its retention"
    assert await frames_of(stage.store, run) == [], "the events outlived their retention"


@case("S13", needs=("purge", "signals"))
async def signals_are_purged_with_their_run(stage: StoreStage) -> None:
    run, log = await stage.running(retention_s=100.0)
    await stage.leases.send_signal(run.id, "go", b"1", NOW)
    await log.finish(DONE, completed(), NOW)
    await _purged(stage, NOW + 101)
    assert await stage.store.signals(run.id) == [], "the signals outlived their retention"


@case("S13", needs=("purge",))
async def nothing_is_purged_before_its_time(stage: StoreStage) -> None:
    run = await _ended(stage, 100.0)
    kept = await _ended(stage, 1_000.0)
    assert await _purged(stage, NOW + 99) == 0, "a run was purged before its retention was over"
    assert await count_of(stage.store, run) == 3
    await _purged(stage, NOW + 101)
    assert await count_of(stage.store, kept) == 3, "a run with a longer retention was purged"


@case("S13", needs=("purge",))
async def a_run_that_has_not_ended_is_never_purged(stage: StoreStage) -> None:
    run, log = await stage.running(retention_s=1.0)
    log.append(entry(1), started(1))
    await log.durable()
    assert await _purged(stage, NOW + 1e9) == 0
    assert await count_of(stage.store, run) == 2
    assert await stage.store.journal(run.id) == [entry(1)]


@case("S13", needs=("purge",))
async def what_is_due_is_told_and_purged_by_name(stage: StoreStage) -> None:
    first, second, kept = await _ended(stage, 100.0), await _ended(stage, 100.0), await _ended(stage, 1_000.0)
    assert list(await stage.store.due(NOW + 99)) == [], "a run is due before its retention is over"
    assert sorted(await stage.store.due(NOW + 101)) == sorted([first.id, second.id])
    assert await stage.store.purge(NOW + 101, [first.id, kept.id]) == 1, "expected the run that is named and due"
    assert list(await stage.store.due(NOW + 101)) == [second.id], "the purged run is due, or another is not"
    for run in (second, kept):
        assert await count_of(stage.store, run) == 3, "a run was purged that was not named, or not due"


@case("S13", needs=("purge",))
async def sweeping_removes_only_what_nothing_needs(stage: StoreStage) -> None:
    emptied, kept = await _ended(stage, 100.0), await _ended(stage, 1_000.0)
    record, _ = await stage.keyed(Idempotency("expired", "body", NOW + 60))
    await stage.keyed(Idempotency("good", "body", NOW + 200))
    await _purged(stage, NOW + 101)
    while await stage.store.sweep(NOW + 101):
        pass
    assert (await stage.stored(emptied)).purged
    assert await count_of(stage.store, kept) == 3, "a run was swept away before its retention was over"
    assert (await stage.stored(record)).status == "running", "a run was swept away with its key"
    assert await stage.store.holder("", "good", NOW + 101) is not None, "a key was swept away before its time"
    assert await stage.store.holder("", "expired", NOW + 101) is None


@case("S19")
async def a_duty_is_one_owner_s_at_a_time(stage: StoreStage) -> None:
    peer = await stage.peer()
    assert await stage.store.take_duty("clean", "a", NOW, NOW + 10), "a free duty was not given"
    assert not await peer.store.take_duty("clean", "b", NOW + 9, NOW + 19), "two owners have one duty"
    assert await peer.store.take_duty("cook", "b", NOW, NOW + 10), "another duty was not given"
    assert await stage.store.take_duty("clean", "a", NOW + 9, NOW + 19), "the owner could not keep its duty"
    assert not await peer.store.take_duty("clean", "b", NOW + 18, NOW + 28), "a duty was taken from its owner"


@case("S19")
async def a_duty_is_free_again_when_it_is_given_back_or_its_owner_is_silent(stage: StoreStage) -> None:
    peer = await stage.peer()
    assert await stage.store.take_duty("clean", "a", NOW, NOW + 10)
    assert await peer.store.take_duty("clean", "b", NOW + 10, NOW + 20), "a duty is held forever"
    assert not await stage.store.take_duty("clean", "a", NOW + 11, NOW + 21), "a silent owner still has its duty"
    assert await peer.store.take_duty("clean", "b", NOW + 12, NOW + 12)
    assert await stage.store.take_duty("clean", "a", NOW + 12, NOW + 22), "a duty given back is not free"


@case("S13", lacks="purge")
async def without_purging_it_is_refused(stage: StoreStage) -> None:
    await unsupported(stage.store.purge(NOW), "purge")
    await unsupported(stage.store.due(NOW), "purge")
    await unsupported(stage.store.sweep(NOW), "purge")
