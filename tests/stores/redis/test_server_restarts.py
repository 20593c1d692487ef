"""A server that is killed, restarted, replaced: with all it acknowledged, or with less."""

from __future__ import annotations

import asyncio

import pytest

from offramp.errors import LeaseLost, SettingsError, StoreError
from offramp.stores.redis import writer
from tests.stores.redis.words import DONE, claim, create, created, delta, ended, entry, keys_of, numbers, started
from tests.support import NOW, eventually

FORGETS = ("--appendonly", "no")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.02)


async def test_what_was_acknowledged_survives_the_server(a_server, at):
    server = a_server()
    url = server.url()
    stores = [at(url), at(url)]
    held = [await created(opened, by=f"p{n}") for n, opened in enumerate(stores)]
    written = [0, 0]
    survived = asyncio.Event()

    async def write(n):
        while not survived.is_set():
            for _ in range(3):
                held[n][1].append(entry(written[n]), started(written[n]))
                written[n] += 1
            await held[n][1].durable()

    async def kill():
        for _ in range(3):
            before = list(written)
            await eventually(
                lambda before=before: all(now > then + 20 for now, then in zip(written, before, strict=True))
            )
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        survived.set()

    await asyncio.gather(write(0), write(1), kill())
    for n, (run, _) in enumerate(held):
        assert await numbers(stores[n], run) == list(range(1, written[n] + 2))
        assert await keys_of(stores[1 - n], run) == [entry(number).key for number in range(written[n])]


async def test_tokens_grow_over_restarts(a_server, at):
    server = a_server()
    opened = at(server.url())
    await created(opened, by=None)
    tokens = []
    for restart in range(3):
        [taken] = await claim(opened, "a", now=NOW + restart)
        tokens.append(taken.lease.token)
        await opened.leases.release(taken.lease)
        server.kill()
        server.start()
    assert tokens == sorted(set(tokens))


async def test_what_the_server_forgot_can_be_written_by_nobody(a_server, at):
    server = a_server(*FORGETS)
    opened = at(server.url())
    lost = []
    opened.store.on_lost(lost.append)
    run, log = await created(opened)
    server.kill()
    server.start()
    log.append(entry(1), started(1))
    with pytest.raises(LeaseLost):
        await log.durable()
    with pytest.raises(LeaseLost):
        await log.finish(DONE, ended(), NOW)
    assert set(lost) == {log.lease}
    assert await opened.store.get(run.id) is None
    again, log = await created(opened)
    assert await numbers(opened, again) == [1]


def saved(server):
    """All that the server has saved so far."""
    with server.client() as client:
        client.save()


async def test_a_run_whose_last_writes_are_forgotten_is_left_to_the_next(a_server, at):
    server = a_server(*FORGETS)
    opened, other = at(url := server.url()), at(url)
    lost = []
    opened.store.on_lost(lost.append)
    run, log = await created(opened)
    kept, kept_log = await created(opened, by="c")
    log.append(entry(1), started(1))
    await log.durable()
    saved(server)
    log.append(entry(2), started(2))
    await log.durable()  # and readers may have seen event 3
    server.kill()
    server.start()
    log.append(entry(3), started(3))
    with pytest.raises(LeaseLost):
        await log.durable()
    assert lost
    assert set(lost) == {log.lease}
    [taken] = await claim(other, "b")
    assert (taken.record.id, taken.fresh) == (run.id, False)
    assert taken.lease.token > log.lease.token
    other.store.log(taken.lease).append(entry(2), started(2))
    await other.store.log(taken.lease).durable()
    assert await keys_of(other, run) == [entry(1).key, entry(2).key]
    kept_log.append(entry(1), started(1))
    await kept_log.durable()
    assert await numbers(other, kept) == [1, 2]


async def test_a_claim_that_is_forgotten_has_no_token_of_a_later_one(a_server, at):
    server = a_server(*FORGETS)
    opened = at(server.url())
    await created(opened, by=None)
    saved(server)
    [first] = await claim(opened, "a", now=NOW)
    server.kill()
    server.start()
    [second] = await claim(opened, "a", now=NOW + 1)
    assert second.lease.token > first.lease.token
    old = opened.store.log(first.lease)
    old.append(entry(1), started(1))
    with pytest.raises(LeaseLost):
        await old.durable()
    assert await keys_of(opened, second.record) == []


async def test_a_server_that_forgets_its_scripts_is_told_them_again(server, at):
    opened = at(server.url())
    run, log = await created(opened)
    with server.client() as client:
        client.script_flush()
    log.append(entry(1), started(1))
    await log.durable()
    assert await numbers(opened, run) == [1, 2]
    assert opened.leases.renew("a", NOW) == (False, [])


async def test_a_server_that_became_a_replica_is_waited_for(a_server, at, monkeypatch):
    monkeypatch.setattr(writer, "PATIENCE_S", 0.0)
    server, primary = a_server(), a_server()
    opened = at(server.url())
    run, log = await created(opened)
    with server.client() as client:
        client.execute_command("CONFIG", "SET", "replica-read-only", "yes")
        client.replicaof("127.0.0.1", 1)
        log.append(entry(1), started(1))
        promise = log.durable()
        _, commit, _ = create(opened)
        with pytest.raises(StoreError, match="refused"):
            await commit
        with pytest.raises(SettingsError, match="it is a replica"):
            at(server.url())
        client.replicaof("NO", "ONE")
    await promise
    assert await numbers(opened, run) == [1, 2]
    assert primary.answers()


async def test_a_script_that_blocks_the_server_is_waited_for(a_server, at):
    server = a_server("--busy-reply-threshold", "50", "--appendonly", "yes")
    opened = at(server.url())
    run, log = await created(opened)
    with server.client(socket_timeout=20) as blocker, server.client() as client:
        block = asyncio.to_thread(blocker.eval, "while true do end", 0)
        blocked = asyncio.create_task(block)
        await eventually(lambda: _is_busy(client))
        log.append(entry(1), delta("x"))
        promise = log.durable()
        await asyncio.sleep(0)
        client.script_kill()
        with pytest.raises(Exception, match=r"(?i)killed"):
            await blocked
        await promise
    assert await numbers(opened, run) == [1, 2]


def _is_busy(client):
    import redis

    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False
