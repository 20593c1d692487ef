"""What is bounded: memory, batches, a run's events, a read; and what is left when everything has ended."""

from __future__ import annotations

import asyncio
import re
import shutil
import time

import pytest

from offramp.core.stats import FINE, Cell
from offramp.errors import LeaseLost, StoreError, TooLarge
from offramp.ports.listing import RunFilter
from offramp.ports.outbox import UNDELIVERED_KEPT_S
from offramp.ports.store import Idempotency, Lease
from offramp.stores.redis import figures, leases, store, writer
from tests.conformance.on_redis import OpenRedis
from tests.servers import free_port
from tests.stores.redis.words import (
    DONE,
    claim,
    create,
    created,
    delta,
    ended,
    entry,
    keys_of,
    names_in,
    numbers,
    started,
)
from tests.support import GUARD_S, NOW, eventually

MEMORY = ("--maxmemory", "16mb", "--maxmemory-policy", "noeviction", "--appendonly", "yes")
INPUT = b'"' + b"x" * 100_000 + b'"'


@pytest.fixture
def looks_often(monkeypatch):
    monkeypatch.setattr(writer, "MEMORY_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.02)


async def _ask_for(opened, runs):
    for _ in range(runs):
        await created(opened, by=None, input=INPUT)


async def test_when_memory_is_nearly_full_no_run_is_taken_and_those_taken_go_on(a_server, at, looks_often):
    opened = at(a_server(*MEMORY).url())
    run, log = await created(opened)
    with pytest.raises(StoreError, match="nearly full"):
        await _ask_for(opened, 1_000)
    log.append(entry(1), started(1))
    await log.finish(DONE, ended(), NOW)
    assert (await opened.store.get(run.id)).status == "completed"
    assert len(await claim(opened, "a", limit=5)) == 5


async def test_when_memory_is_full_nothing_is_written_by_half(a_server, at, looks_often):
    server = a_server(*MEMORY)
    opened = at(server.url())
    run, log = await created(opened, retention_s=10.0)
    over, over_log = await created(opened, retention_s=10.0)
    await over_log.finish(DONE, ended(), NOW)
    free = await created(opened, by=None)
    with server.client() as client:
        client.config_set("maxmemory", "1mb")  # less than it has
        before = names_in(server, opened)
        for refused in (create(opened)[1], claim(opened, "a"), opened.leases.send_signal(run.id, "go", b"1", NOW)):
            with pytest.raises(StoreError, match=r"is (nearly )?full"):
                await refused
        log.append(entry(1), started(1))
        promise = log.durable()
        assert opened.leases.renew("a", NOW + 5) == (False, [])
        assert names_in(server, opened) == before
        assert (await opened.store.get(free[0].id)).status == "queued"
        assert await opened.store.purge(NOW + 11) == 1, "what would free memory needs some"
        assert (await opened.store.get(over.id)).purged
        client.config_set("maxmemory", "16mb")
    await promise
    assert await numbers(opened, run) == [1, 2]


async def test_a_batch_has_bounds(server, monkeypatch):
    sizes = []
    monkeypatch.setattr(writer, "BATCH_OPERATIONS_MAX", 10)
    opened = OpenRedis(server.url())
    opened.store.writer.committed = lambda operations, _seconds: sizes.append(operations)
    try:
        run, log = await created(opened)
        for n in range(100):
            log.append(entry(n), None)
        await log.durable()
        assert max(sizes) == 10
        monkeypatch.setattr(writer, "BATCH_OPERATIONS_MAX", 1_000)
        monkeypatch.setattr(writer, "BATCH_BYTES_MAX", 4_000)
        sizes.clear()
        for _ in range(20):
            log.append(None, delta("x" * 1_000))
        await log.durable()
        assert max(sizes) == 3
        log.append(None, delta("x" * 10_000))  # by itself, as it cannot be cut
        await log.durable()
        assert await numbers(opened, run) == list(range(1, 23))
        assert await keys_of(opened, run) == [entry(n).key for n in range(100)]
    finally:
        await opened.close()


async def test_a_run_emits_no_more_than_it_may_whoever_executes_it(server, at, monkeypatch):
    for module in (writer, store):
        monkeypatch.setattr(module, "RUN_EVENT_BYTES_MAX", 10_000)
    first, second = at(url := server.url()), at(url)
    run, log = await created(first)
    while run.id not in first.store.writer.full:
        log.append(None, delta("x" * 1_000))
        await log.durable()
    with pytest.raises(TooLarge, match="10000 bytes"):
        log.append(None, delta("x"))
    log.append(entry(1), started(1))  # but it goes on, and ends
    await first.leases.release(log.lease)
    assert run.id not in first.store.writer.full
    [taken] = await claim(second, "b")
    log = second.store.log(taken.lease)
    log.append(None, delta("x"))  # until the server has said so
    await log.durable()
    with pytest.raises(TooLarge):
        log.append(None, delta("x"))
    await log.finish(DONE, ended(), NOW)
    assert len(await numbers(second, run)) == 13
    other, log = await created(second)
    log.append(None, delta("x"))
    await log.durable()
    assert await numbers(second, other) == [1, 2]


async def test_a_claim_is_of_a_bounded_number_of_runs(server, at, monkeypatch):
    monkeypatch.setattr(leases, "CLAIM_MAX", 3)
    opened = at(server.url())
    await asyncio.gather(*(created(opened, by=None) for _ in range(5)))
    assert [len(await claim(opened, "a", limit=1_000)) for _ in range(3)] == [3, 2, 0]


def test_the_search_for_unfinished_runs_ends_with_as_many_as_are_wanted(monkeypatch):
    class Client:
        def sscan_iter(self, _key, count):
            yield from (b"a", b"b", b"a", b"c", b"d")
            raise AssertionError(f"all runs were read, {count} at a time, for a few")

    wanted = []
    monkeypatch.setattr(figures, "heads", lambda _client, _tag, ids: wanted.extend(ids) or [])
    figures.unfinished(Client(), "", 3)
    assert wanted == [b"a", b"b", b"c"]


async def test_a_page_of_a_listing_looks_at_a_bounded_number_of_runs(server, at, monkeypatch):
    monkeypatch.setattr(store, "LIST_LOOKS_MAX", 3)
    opened = at(server.url())
    made = []
    for n in range(20):
        run, log = await created(opened, tenant="t", pipeline="rare" if n % 7 == 0 else "often")
        made.append(run.id)
    rare = made[::-1][5::7]
    pages, after = [], ""
    while after is not None:
        page = await opened.store.runs(RunFilter(tenant="t", pipeline="rare", after=after or None))
        pages.append([run.id for run in page.runs])
        after = page.after
    assert [run for part in pages for run in part] == rare == [made[14], made[7], made[0]]
    assert len(pages) == 7, "a page looked further, or not as far"
    page = await opened.store.runs(RunFilter(tenant="t", pipeline="rare", after=made[15], limit=1))
    assert ([run.id for run in page.runs], page.after) == ([made[14]], made[13 - 1])
    await log.finish(DONE, ended(), NOW)
    page = await opened.store.runs(RunFilter(tenant=None, status="completed"))
    assert [run.id for run in page.runs] == [made[19]]


async def test_a_read_of_few_events_among_many_deltas_gets_to_them(server, at, monkeypatch):
    monkeypatch.setattr(store, "EVENTS_LOOKED_AT_MAX", 100)
    opened = at(server.url())
    run, log = await created(opened)
    for _ in range(1_000):
        log.append(None, delta("x"))
    log.append(None, started(1))
    await log.durable()
    assert [frame.seq for frame in await opened.store.events(run.id, 1, skip_deltas=True)] == [1_002]
    assert await opened.store.events(run.id, 1_002, skip_deltas=True) == []


async def test_a_long_journal_is_read_whole(server, at, monkeypatch):
    monkeypatch.setattr(store, "ENTRIES_READ_MAX", 7)
    opened = at(server.url())
    for count in (0, 6, 7, 15):
        run, log = await created(opened)
        for n in range(count):
            log.append(entry(n), None)
        await log.durable()
        assert await keys_of(opened, run) == [entry(n).key for n in range(count)]


async def _live_through(opened, number):
    """A run with everything that a run can have."""
    from offramp.core.run import Outcome, Webhook

    webhook = Webhook("https://example.com/hooks") if number % 2 else None
    key = Idempotency(f"key-{number}", "body", NOW + 60)
    run, _, log = create(
        opened, key=key, session_id="s", tenant="t", deadline_at=NOW + 9, retention_s=10.0, webhook=webhook
    )
    log.append(entry(1), started(1))
    await opened.leases.send_signal(run.id, "go", b"1", NOW, "key")
    if number % 3 == 0:
        taken = await opened.leases.assign_to_engine(run.id, NOW)
        turn = await opened.leases.take_step(taken.lease, "work:2:0")
        opened.store.log(turn.lease).append(entry(2), started(2))
        await opened.leases.request_cancel(run.id)
        log = opened.store.log(taken.lease)
    await log.finish(Outcome("completed", b'"' + b"x" * 300_000 + b'"'), ended(), NOW)
    return run


async def test_nothing_is_left_of_what_has_ended(server, at):
    opened = at(server.url())
    runs = [await _live_through(opened, number) for number in range(6)]
    await opened.store.add_cells([Cell("", FINE, 1, "pipe", "quick", {"good": 1})])
    later = NOW + 11 + UNDELIVERED_KEPT_S
    while await opened.store.purge(later):
        pass
    kept = names_in(server, opened)
    assert {name for name in kept if name.startswith(("e:", "j:", "s:", "k:", "t:", "b:", "w", "q"))} == set()
    assert all([(await opened.store.get(run.id)).purged for run in runs])
    assert await opened.store.purge(later + store.TOMBSTONE_S) == 0
    while await opened.store.sweep(later + store.TOMBSTONE_S):
        pass
    left = names_in(server, opened)
    assert {name for name in left if not name.startswith(("i:", "cells:"))} == set()
    with server.client() as client:
        assert all(client.ttl(opened.address.tag + name) > 0 for name in left), "a key that nothing would remove"


async def test_what_nobody_purges_expires_by_itself(server, at):
    opened = at(server.url())
    runs = [await _live_through(opened, number) for number in range(4)]
    open_run, _ = await created(opened, retention_s=10.0)
    most = 10 + UNDELIVERED_KEPT_S + store.UNPURGED_KEPT_S
    with server.client() as client:
        for name in names_in(server, opened, "*:run_*"):
            ttl = client.ttl(opened.address.tag + name)
            assert ttl == -1 if open_run.id in name else 0 < ttl <= most, (name, ttl)
        for name in names_in(server, opened, "*:run_*"):
            if open_run.id not in name:
                client.delete(opened.address.tag + name)
    assert [run.id for run in (await opened.store.runs(RunFilter(tenant=None))).runs] == [open_run.id]
    later = NOW + 11 + UNDELIVERED_KEPT_S
    assert await opened.store.purge(later) == len(runs)
    await opened.store.sweep(later + store.TOMBSTONE_S)
    assert names_in(server, opened, "ix:s:*") == set()


async def test_one_operation_that_fails_spoils_no_other(server, at):
    opened = at(server.url())
    run, log = await created(opened)
    other, other_log = await created(opened)
    with server.client() as client:
        client.set(f"{opened.address.tag}s:{run.id}", "not a list")
    sent = opened.leases.send_signal(run.id, "go", b"1", NOW)
    other_log.append(entry(1), started(1))
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await sent
    await other_log.durable()
    assert await numbers(opened, other) == [1, 2]
    log.append(entry(1), started(1))
    await log.durable()


async def test_a_run_is_not_written_behind_what_failed(server, at):
    opened = at(server.url())
    run, log = await created(opened)
    lost = []
    opened.store.on_lost(lost.append)
    with server.client() as client:
        client.set(key := f"{opened.address.tag}j:{run.id}", "not a list")
        log.append(entry(1), None)
        with pytest.raises(LeaseLost):
            await log.durable()
        client.delete(key)
    log.append(entry(2), None)
    with pytest.raises(LeaseLost):
        await log.durable()
    assert set(lost) == {log.lease}
    [taken] = await claim(opened, "b")
    opened.store.log(taken.lease).append(entry(1), None)
    await opened.store.log(taken.lease).durable()
    assert await keys_of(opened, run) == [entry(1).key]


async def test_a_batch_that_the_server_will_never_take_is_given_up(server, at):
    opened = at(server.url())
    run, log = await created(opened)
    lost = []
    opened.store.on_lost(lost.append)
    with server.client() as client:
        client.set(opened.store.writer.key, "not what it remembers")
    log.append(entry(1), None)
    with pytest.raises((StoreError, LeaseLost), match="refused"):  # in the same batch, or the next one
        await log.durable()
    assert log.lease in lost
    log.append(entry(2), None)
    with pytest.raises(LeaseLost, match="refused for good"):
        await log.durable()
    other, log = await created(opened)
    await log.finish(DONE, ended(), NOW)
    assert await numbers(opened, other) == [1, 2]
    assert await keys_of(opened, run) == []


async def test_what_an_engine_is_told_was_refused_can_be_tried_again(server, at):
    opened = at(server.url())
    run, _ = await created(opened)
    whole = (await opened.leases.assign_to_engine(run.id, NOW)).lease
    log = opened.store.log(whole)
    for number in range(3):
        with server.client() as client:
            client.set(opened.store.writer.key, "not what it remembers")
        log.append(entry(number), None)
        with pytest.raises(StoreError, match="refused"):  # in the same batch, or the next one
            await log.durable()
        log.append(entry(number), started(number))
        await log.durable()
    assert await numbers(opened, run) == [1, 2, 3, 4]
    assert await keys_of(opened, run) == [entry(number).key for number in range(3)]


async def test_stores_with_other_prefixes_do_not_see_each_other(server, at):
    one, other = at(server.url("one")), at(server.url("other"))
    run, log = await created(one, by=None)
    assert await other.store.get(run.id) is None
    assert await claim(other, "b") == []
    assert (await other.store.runs(RunFilter(tenant=None))).runs == []
    assert (await other.leases.queued(), await other.store.open_runs()) == ({}, {})
    assert log is None
    theirs = other.store.log(Lease(run.id, "a", 1))
    theirs.append(entry(1), started(1))
    await one.leases.claim("a", 1, ["research"], NOW)
    assert await keys_of(one, run) == []
    assert not names_in(server, other)


async def _full(server, client):
    client.config_set("maxmemory", "1mb")  # less than it has
    return lambda: client.config_set("maxmemory", "16mb")


async def _a_replica(server, client):
    client.replicaof("127.0.0.1", free_port())
    return lambda: client.replicaof("NO", "ONE")


async def _cannot_save(server, client):
    shutil.rmtree(server.folder)
    client.config_set("save", "3600 1")
    client.bgsave()
    await eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    return lambda: client.config_set("stop-writes-on-bgsave-error", "no")


@pytest.mark.parametrize(
    ("refuse", "message"), [(_full, "Redis is full"), (_a_replica, "READONLY|read only"), (_cannot_save, "MISCONF|RDB")]
)
async def test_a_server_that_refuses_writes_is_trouble_until_it_takes_them_again(
    a_server, at, looks_often, refuse, message
):
    server = a_server("--maxmemory", "16mb", "--maxmemory-policy", "noeviction", "--appendonly", "no")
    opened = at(server.url())
    _, log = await created(opened)
    assert opened.store.trouble() is None
    with server.client() as client:
        allow = await refuse(server, client)
        promise = log.durable()
        await eventually(lambda: opened.store.trouble() is not None)
        assert re.search(message, opened.store.trouble())
        assert str(server.port) not in opened.store.trouble()
        with pytest.raises(StoreError):
            await asyncio.wait_for(create(opened)[1], GUARD_S)
        allow()
        await promise
        assert opened.store.trouble() is None
        await created(opened)


async def test_what_waits_for_longer_than_a_request_does_is_refused_and_not_written_late(a_server):
    server = a_server()
    opened = OpenRedis(server.url(), timeout_s=0.3)
    try:
        run, log = await created(opened)
        with server.client() as client:
            client.client_pause(int(GUARD_S * 1000), all=False)
            log.append(entry(1), started(1))
            await eventually(lambda: opened.store.writer.writing_since is not None)  # the rest waits behind it
            late, commit, _ = create(opened)
            signal = asyncio.ensure_future(opened.leases.send_signal(run.id, "go", b"1", NOW))
            await eventually(lambda: opened.store.trouble() is not None)
            asked = time.monotonic()
            await eventually(lambda: time.monotonic() > asked + 0.3)
            client.client_unpause()
        for refused in (commit, signal):
            with pytest.raises(StoreError, match="not written"):
                await refused
        await log.durable()
        assert await opened.store.get(late.id) is None
        assert await opened.store.signals(run.id) == []
        assert await keys_of(opened, run) == [entry(1).key]
        assert opened.store.trouble() is None
    finally:
        await opened.close()


async def test_a_queue_that_an_older_version_changed_is_counted_anew(server, at):
    """It knows of no counts: what it queues and claims is in the queue alone."""
    opened = at(server.url())
    for tenant in ("acme", "acme", "beta"):
        await created(opened, by=None, tenant=tenant)
    waiting, queued = f"{opened.address.tag}waiting", f"{opened.address.tag}queued"
    with server.client() as client:
        for wrong in ({}, {"acme": 1}, {"acme": 4, "beta": -1}, {"acme": 0, "beta": 3}, {"gone": 9}):
            client.delete(waiting)
            if wrong:
                client.hset(waiting, mapping=wrong)
            assert await opened.leases.queued() == {"acme": 2, "beta": 1}
        assert client.scard(queued) == 3
    assert len(await claim(opened, "b", limit=10)) == 3
    assert await opened.leases.queued() == {}
    assert "waiting" not in names_in(server, opened)
