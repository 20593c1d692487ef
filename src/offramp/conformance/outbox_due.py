"""Cases of when an announcement is due (W1, W2), and of retention (W4, W5)."""

from __future__ import annotations

import contextlib

from offramp.conformance.case import case, until
from offramp.conformance.outbox_stage import announcing, due, finish, finished_step, step, webhook
from offramp.conformance.sample import NOW, accepted, owner, started
from offramp.conformance.store_stage import StoreStage, count_of, frames_of, unsupported
from offramp.core.run import Webhook
from offramp.core.webhooks import Progress
from offramp.errors import IdempotencyMismatch
from offramp.ports.outbox import UNDELIVERED_KEPT_S, Pending
from offramp.ports.store import Idempotency

FROM_THE_START = Webhook("https://example.com/hooks", ("run.accepted",))


@case("W1", needs=("webhooks",))
async def an_entry_comes_with_its_run_alone(stage: StoreStage) -> None:
    run, _ = await stage.running(webhook=FROM_THE_START)
    await stage.running()
    assert (await stage.stored(run)).webhook == FROM_THE_START
    [pending] = await due(stage)
    assert (pending.run_id, pending.host, pending.latest) == (run.id, "example.com", 1)
    assert pending.progress == Progress(), "a new entry has progress"


@case("W1", needs=("webhooks",))
async def a_run_that_was_not_created_has_no_entry(stage: StoreStage) -> None:
    created: list[str] = []
    for body in ("body", "body", "another body"):
        with contextlib.suppress(IdempotencyMismatch):
            run, existing = await stage.keyed(Idempotency("key", body, NOW + 60), webhook=FROM_THE_START)
            created += [run.id] if existing is None else []
    assert sorted(pending.run_id for pending in await due(stage)) == created


@case("W1", "W2", "W3", "W4", "W5", "W6", lacks="webhooks")
async def a_webhook_is_refused_where_there_are_none(stage: StoreStage) -> None:
    async def create() -> None:
        record = stage.record(webhook=FROM_THE_START)
        commit, _ = stage.store.create(record, accepted(record), owner="a", durable=True)
        await commit

    await unsupported(create(), "webhooks")


@case("W2", needs=("webhooks",))
async def an_entry_is_due_once_something_it_asks_for_happened(stage: StoreStage) -> None:
    told: list[bool] = []
    stage.outbox.listen(lambda: told.append(True))
    _, log = await announcing(stage)
    log.append(None, started(0))
    await log.durable()
    assert await due(stage) == [], "an entry is due, but no event that it asks for has happened"
    assert not told, "an event that no webhook asks for woke a listener"
    await step(log, 1)
    await until(lambda: bool(told))
    [pending] = await due(stage)
    assert (pending.latest, pending.progress.cursor) == (3, 0)
    assert await stage.outbox.settle(pending, Progress(3))
    assert await due(stage) == [], "an announced event is due again"
    await step(log, 2)
    [pending] = await due(stage)
    assert (pending.latest, pending.progress.cursor) == (4, 3)


@case("W2", needs=("webhooks",))
async def the_end_makes_an_entry_due_whatever_it_asks_for(stage: StoreStage) -> None:
    _, log = await announcing(stage, Webhook("https://example.com/hooks", ("run.demoted",)))
    await finish(log)
    [pending] = await due(stage)
    assert pending.latest == 2
    assert await stage.outbox.settle(pending, Progress(2, done=True))
    assert await due(stage, NOW + 1e6) == [], "a finished entry is due again"


@case("W2", needs=("webhooks",))
async def what_happens_while_a_message_is_sent_is_not_left_out(stage: StoreStage) -> None:
    _, log = await announcing(stage)
    await step(log, 1)
    [pending] = await due(stage)
    await step(log, 2)
    assert await due(stage) == [], "an event that came while a message was sent gives the entry to another process"
    assert await stage.outbox.settle(pending, Progress(2))
    [pending] = await due(stage)
    assert (pending.latest, pending.progress.cursor) == (3, 2)


@case("W2", needs=("webhooks",))
async def what_happens_before_the_next_attempt_does_not_hurry_it(stage: StoreStage) -> None:
    _, log = await announcing(stage)
    await step(log, 1)
    [pending] = await due(stage)
    waits = Progress(0, 1, NOW, NOW + 30)
    assert await stage.outbox.settle(pending, waits)
    await finish(log)
    assert await due(stage, NOW + 29.9) == [], "an attempt is made before its time"
    [pending] = await due(stage, NOW + 30)
    assert pending.progress == waits._replace(due_at=None)
    assert pending.latest == 3


@case("W2", needs=("webhooks",))
async def a_run_that_goes_on_elsewhere_keeps_its_entry(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await announcing(stage)
    await stage.leases.release(log.lease)
    await peer.leases.register(owner("b"))
    claim = await peer.leases.claim_one("b", run.id, NOW)
    assert claim is not None
    await step(peer.store.log(claim.lease), 1)
    assert [pending.run_id for pending in await due(stage)] == [run.id]


@case("W4", needs=("webhooks", "durable"))
async def what_a_claim_shows_survives_a_crash(stage: StoreStage) -> None:
    run, log = await announcing(stage)
    for number in range(3):
        log.append(None, finished_step(number))
    claimed: list[Pending] = []

    async def shown() -> bool:
        claimed.extend(await due(stage))
        return bool(claimed)

    await until(shown)
    after = await stage.crash()
    assert await count_of(after.store, run) >= claimed[0].latest, "events may be announced that a crash takes back"


@case("W5", needs=("webhooks", "durable"))
async def entries_survive_a_crash(stage: StoreStage) -> None:
    run = await stage.queued(webhook=FROM_THE_START)
    other = await stage.queued(webhook=webhook())
    after = await stage.crash()
    assert [pending.run_id for pending in await due(after)] == [run.id], "a pending announcement is forgotten"
    claim = await after.leases.claim_one("b", other.id, NOW)
    assert claim is not None
    await step(after.store.log(claim.lease), 1)
    assert [pending.run_id for pending in await due(after)] == [other.id], "an entry that was not due is forgotten"


@case("W5", "S13", needs=("webhooks", "purge"))
async def what_is_not_announced_outlives_its_retention_but_not_for_ever(stage: StoreStage) -> None:
    waiting, log = await announcing(stage, retention_s=10.0)
    await finish(log)
    done, log = await announcing(stage, retention_s=10.0)
    await finish(log)
    for pending in await due(stage):
        if pending.run_id == done.id:
            await stage.outbox.settle(pending, Progress(2, done=True))
    assert await stage.store.purge(NOW + 11) == 1, "expected the run alone that has nothing to announce"
    assert ((await stage.stored(done)).purged, (await stage.stored(done)).webhook) == (True, None)
    assert len(await frames_of(stage.store, waiting)) == 2
    assert await stage.store.purge(NOW + 9 + UNDELIVERED_KEPT_S) == 0
    assert await stage.store.purge(NOW + 11 + UNDELIVERED_KEPT_S) == 1, (
        "an undelivered announcement keeps a run forever"
    )
    assert (await stage.stored(waiting)).purged
    assert await due(stage, NOW + 1e9) == []
