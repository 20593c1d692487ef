"""Obligations W1 to W6 of the outbox port, on every adapter."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core import events
from offramp.core.run import Demotion, Outcome, Webhook
from offramp.core.webhooks import Progress
from offramp.errors import IdempotencyMismatch
from offramp.ports.outbox import UNDELIVERED_KEPT_S, Room
from offramp.ports.store import Idempotency, Owner
from offramp.stores.memory import MemoryStore
from offramp.stores.sqlite.outbox import SQLiteOutbox
from tests.support import NOW, Files, a_record, accepted, drafted, eventually

ROOM = Room(100, 100, {})
STEPS = Webhook("https://example.com/hooks", ("step.completed", "run.completed"))


class Memory:
    def __init__(self):
        self.store = self.leases = MemoryStore()
        self.outbox = self.store.outbox

    async def close(self):
        pass


class SQLite(Files):
    def __init__(self, folder, **writer):
        super().__init__(folder, **writer)
        self.outbox = SQLiteOutbox(self.database, self.writer)


@pytest.fixture(params=["memory", "sqlite"])
async def adapter(request, tmp_path):
    made = Memory() if request.param == "memory" else SQLite(tmp_path)
    yield made
    await made.close()


async def created(adapter, webhook=STEPS, **changes):
    record = a_record(webhook=webhook, **changes)
    commit, log = adapter.store.create(record, accepted(record), owner="me", durable=False)
    await commit
    return record, log


async def step(log, name="write"):
    log.append(None, drafted(events.StepCompleted(name, f"{name}#1", 1, 1.0)))
    await log.durable()


async def finish(log):
    await log.finish(Outcome("completed", b"1"), drafted(events.RunCompleted()), NOW)


async def claim(adapter, now=NOW, until=NOW + 15, room=ROOM):
    return await adapter.outbox.claim(room, now, until)


async def test_w1_an_entry_comes_with_its_run_only(adapter):
    record, _ = await created(adapter, Webhook("https://example.com", ("run.accepted",)))
    await created(adapter, None)
    [pending] = await claim(adapter)
    assert (pending.run_id, pending.host, pending.latest) == (record.id, "example.com", 1)
    assert pending.progress == Progress()


async def test_w1_a_run_that_existed_under_its_key_gets_no_second_entry(adapter):
    asked = Webhook("https://example.com", ("run.accepted",))
    record, again, other = (a_record(webhook=asked) for _ in range(3))
    key = Idempotency("key", "same", NOW + 60)
    for each in (record, again):
        commit, _ = adapter.store.create(each, accepted(each), owner="me", durable=True, idempotency=key)
        await commit
    key = Idempotency("key", "other", NOW + 60)
    commit, _ = adapter.store.create(other, accepted(other), owner="me", durable=True, idempotency=key)
    with pytest.raises(IdempotencyMismatch):
        await commit
    assert [pending.run_id for pending in await claim(adapter)] == [record.id]


async def test_w2_an_entry_is_due_once_something_it_asks_for_happened(adapter):
    told = []
    adapter.outbox.listen(lambda: told.append(1))
    _, log = await created(adapter)
    log.append(None, drafted(events.StepStarted("write", "write#1", 1)))
    await log.durable()
    assert await claim(adapter) == []
    assert not told
    await step(log)
    await eventually(lambda: told)
    [pending] = await claim(adapter)
    assert (pending.latest, pending.progress.cursor) == (3, 0)
    assert await adapter.outbox.settle(pending, Progress(3))
    assert await claim(adapter) == []
    await step(log, "again")
    [pending] = await claim(adapter)
    assert (pending.latest, pending.progress.cursor) == (4, 3)


async def test_w2_the_end_makes_it_due_though_nobody_asked(adapter):
    _, log = await created(adapter, Webhook("https://example.com", ("run.demoted",)))
    await finish(log)
    [pending] = await claim(adapter)
    assert pending.latest == 2
    assert await adapter.outbox.settle(pending, Progress(2, done=True))
    assert await claim(adapter, NOW + 1e6) == []


async def test_w2_what_happens_while_a_message_is_sent_is_not_left_out(adapter):
    _, log = await created(adapter)
    await step(log)
    [pending] = await claim(adapter)
    await step(log, "again")
    assert await claim(adapter) == []
    assert await adapter.outbox.settle(pending, Progress(2))
    [pending] = await claim(adapter)
    assert (pending.latest, pending.progress.cursor) == (3, 2)


async def test_w2_what_happens_while_it_waits_for_its_next_attempt_does_not_hurry_it(adapter):
    _, log = await created(adapter)
    await step(log)
    [pending] = await claim(adapter)
    waits = Progress(0, 1, NOW, NOW + 30)
    assert await adapter.outbox.settle(pending, waits)
    await finish(log)
    assert await claim(adapter, NOW + 29.9) == []
    [pending] = await claim(adapter, NOW + 30)
    assert pending.progress == waits._replace(due_at=None)
    assert pending.latest == 3


async def test_w2_a_run_that_goes_on_elsewhere_keeps_its_entry(adapter):
    record, log = await created(adapter)
    await adapter.store.adopt(log.lease, Demotion("budget", NOW, 1.0, 1.0))
    await adapter.leases.release(log.lease)
    await adapter.leases.register(Owner("other", "worker", 0, True, NOW + 60, NOW))
    claimed = await adapter.leases.claim_one("other", record.id, NOW)
    await step(adapter.store.log(claimed.lease))
    [pending] = await claim(adapter)
    assert pending.run_id == record.id


async def test_w3_one_process_at_a_time_until_the_claim_runs_out(adapter):
    _, log = await created(adapter)
    await step(log)
    [first] = await claim(adapter, NOW, NOW + 15)
    assert await claim(adapter, NOW + 14.9) == []
    [second] = await claim(adapter, NOW + 15, NOW + 30)
    assert second.token > first.token
    assert not await adapter.outbox.settle(first, Progress(2))
    assert not await adapter.outbox.settle(first, Progress(2, done=True))
    assert await adapter.outbox.settle(second, Progress(2))
    assert await claim(adapter, NOW + 1e6) == []


async def test_w3_processes_that_claim_together_share(tmp_path):
    members = [SQLite(tmp_path) for _ in range(3)]
    runs = set()
    for _ in range(20):
        record, log = await created(members[0])
        await step(log)
        runs.add(record.id)
    claims = await asyncio.gather(*(claim(member) for member in members))
    taken = [pending.run_id for each in claims for pending in each]
    assert sorted(taken) == sorted(runs)
    for member in members:
        await member.close()


async def test_w4_a_claim_brings_what_it_shows_to_the_disk(tmp_path):
    writers = SQLite(tmp_path, sync_every=60.0)
    reader = SQLite(tmp_path, sync_every=60.0)
    _, log = await created(writers)
    log.append(None, drafted(events.StepCompleted("write", "write#1", 1, 1.0)))
    while not (claimed := await claim(reader)):
        pass
    assert claimed[0].latest == 2
    assert reader.writer._is_full
    await writers.close()
    await reader.close()


async def test_w5_entries_are_there_after_a_restart(tmp_path):
    before = SQLite(tmp_path)
    record, log = await created(before)
    await step(log)
    await before.close()
    later = SQLite(tmp_path)
    assert [pending.run_id for pending in await claim(later)] == [record.id]
    await later.close()


async def test_w5_what_is_to_be_delivered_outlives_the_retention_but_not_for_ever(adapter):
    waiting, log = await created(adapter, retention_s=10.0)
    await finish(log)
    done, log = await created(adapter, retention_s=10.0)
    await finish(log)
    for pending in await claim(adapter):
        if pending.run_id == done.id:
            await adapter.outbox.settle(pending, Progress(2, done=True))
    assert await adapter.store.purge(NOW + 10) == 1
    purged = await adapter.store.get(done.id)
    assert (purged.purged, purged.webhook) == (True, None)
    assert len(await adapter.store.events(waiting.id, 0)) == 2
    assert await adapter.store.purge(NOW + 10 + UNDELIVERED_KEPT_S - 1) == 0
    assert await adapter.store.purge(NOW + 10 + UNDELIVERED_KEPT_S) == 1
    assert (await adapter.store.get(waiting.id)).purged
    assert await claim(adapter, NOW + 1e9) == []


async def test_w6_a_host_that_has_its_share_does_not_hold_up_the_others(adapter):
    for name, count in (("dead.example", 30), ("alive.example", 3)):
        for _ in range(count):
            _, log = await created(adapter, Webhook(f"https://{name}/x", STEPS.events))
            await step(log)
    taken = await claim(adapter, room=Room(10, 4, {}))
    hosts = [pending.host for pending in taken]
    assert sorted(hosts) == ["alive.example"] * 3 + ["dead.example"] * 4
    assert await claim(adapter, room=Room(10, 4, {"dead.example": 4})) == []
    assert await claim(adapter, room=Room(0, 4, {})) == []


async def test_w6_a_host_with_more_than_one_look_holds_does_not_hide_the_others(adapter, monkeypatch):
    monkeypatch.setattr("offramp.stores.sqlite.outbox.CANDIDATES_MAX", 5)
    monkeypatch.setattr("offramp.stores.memory_outbox.CANDIDATES_MAX", 5)
    for name in ["dead.example"] * 12 + ["alive.example"]:
        _, log = await created(adapter, Webhook(f"https://{name}/x", STEPS.events))
        await step(log)
    busy = {}
    taken = []
    while claimed := await claim(adapter, room=Room(10, 2, busy)):
        for pending in claimed:
            taken.append(pending.host)
            busy[pending.host] = busy.get(pending.host, 0) + 1
    assert sorted(taken) == ["alive.example", "dead.example", "dead.example"]


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(0, 10), st.integers(1, 4), st.randoms())
def test_room_is_never_overfilled_and_never_wasted(hosts, total, per_host, generator: random.Random):
    busy = {host: generator.randrange(per_host + 1) for host in "ab"}
    due = [(str(number), host) for number, host in enumerate(hosts)]
    chosen = Room(total, per_host, busy).choose(due)
    counts = {host: busy.get(host, 0) for host in "abcd"}
    for run_id in chosen:
        counts[hosts[int(run_id)]] += 1
    assert len(chosen) <= total
    assert all(count <= per_host for count in counts.values())
    left = [host for run_id, host in due if run_id not in chosen]
    assert len(chosen) == total or all(counts[host] == per_host for host in left)
