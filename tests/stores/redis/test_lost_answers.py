"""Answers that are lost: what was applied is applied once, what was refused is not there (S1, S2, S6)."""

from __future__ import annotations

import asyncio
import random

import pytest

from offramp.errors import StoreError
from offramp.ports.store import Idempotency
from offramp.stores.redis import writer
from offramp.stores.redis.operations import batch_of, encode, held, wire
from offramp.stores.redis.scripts import APPLY
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
from tests.support import NOW, eventually


@pytest.fixture
def through(server, line, at):
    """Opens a process behind the line, and one beside it, at the same store."""

    def open_both():
        url = server.url()
        return at(url.replace(str(server.port), str(line.port))), at(url)

    return open_both


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(writer, "PATIENCE_S", 0.0)
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.02)


@pytest.mark.parametrize("seed", range(3))
async def test_what_an_answer_was_lost_of_is_applied_once(through, line, monkeypatch, seed):
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.005)
    near, beside = through()
    rng = random.Random(seed)
    heard = []
    near.store.listen(heard.extend)
    runs = []
    for n in range(12):
        line.lose(rng.randrange(4))
        key = Idempotency(f"key-{n}", "body", NOW + 60)
        record, commit, log = create(near, key=key)
        log.append(entry(0), started(0))
        assert (await commit).existing is None, "the answer that came at last speaks of another time"
        await near.leases.send_signal(record.id, "go", b"1", NOW)
        line.lose(rng.randrange(3))
        log.append(entry(1), delta("x"))
        if n % 2:
            await log.finish(DONE, ended(), NOW)
        else:
            await log.durable()
        runs.append(record)
    assert line.lost > 12
    for n, run in enumerate(runs):
        assert await numbers(beside, run) == list(range(1, 5 if n % 2 else 4))
        assert await keys_of(beside, run) == [entry(0).key, entry(1).key]
        assert await beside.store.signals(run.id) == [("go", b"1")]
    told = [(batch.run_id, batch.first + place) for batch in heard for place in range(len(batch.frames))]
    assert len(told) == len(set(told)) == sum(5 if n % 2 else 4 for n in range(12)) - 12


async def test_requests_are_refused_while_the_server_is_away_and_accepted_runs_wait(through, line, impatient):
    near, beside = through()
    run, log = await created(near)
    line.cut()
    refused, commit, _ = create(near)
    with pytest.raises(StoreError, match="cannot be reached"):
        await commit
    with pytest.raises(StoreError, match="cannot be reached"):
        await claim(near, "a")
    with pytest.raises(StoreError, match="cannot be reached"):
        await near.store.get(run.id)
    log.append(entry(1), started(1))
    promise = log.durable()
    late, commit, _ = create(near)
    with pytest.raises(StoreError):
        await commit
    assert await numbers(beside, run) == [1]
    line.mend()
    await promise
    assert await numbers(beside, run) == [1, 2]
    assert [await beside.store.get(record.id) for record in (refused, late)] == [None, None]


async def test_what_was_refused_is_taken_back_if_it_was_applied(through, line, server, impatient):
    near, beside = through()
    await near.store.open_runs()  # the server knows the script from here on
    before = names_in(server, near)
    line.lose(1, then_cut=True)
    key = Idempotency("key", "body", NOW + 60)
    run, commit, log = create(near, key=key, tenant="t", session_id="s", deadline_at=NOW + 9)
    log.append(entry(1), started(1))
    with pytest.raises(StoreError):
        await commit
    assert await beside.store.get(run.id) is not None, "the answer was not lost, the request was"
    line.mend()
    await eventually(lambda: _is_gone(beside, run))
    assert await beside.store.open_runs() == {}
    assert await beside.store.holder("t", "key", NOW) is None
    await eventually(lambda: names_in(server, near) == before)


async def _is_gone(opened, run):
    return await opened.store.get(run.id) is None


async def test_a_claim_that_nobody_knows_of_is_given_back(through, line, impatient):
    near, beside = through()
    run, _ = await created(beside, by=None)
    await near.store.open_runs()  # the server knows the script from here on
    line.lose(1, then_cut=True)
    with pytest.raises(StoreError):
        await claim(near, "a")
    line.mend()

    async def is_free():
        return (await beside.store.get(run.id)).status == "queued"

    await eventually(is_free)
    [taken] = await claim(beside, "b")
    assert taken.record.id == run.id


async def test_closing_while_the_server_is_away_says_what_is_lost(through, line, impatient):
    near, beside = through()
    run, log = await created(near)
    lost = []
    near.store.on_lost(lost.append)
    line.cut()
    log.append(entry(1), started(1))
    promise = log.durable()
    await asyncio.to_thread(near.store.writer.close)
    with pytest.raises(StoreError, match="not written before the end"):
        await promise
    assert lost
    assert set(lost) == {log.lease}
    assert await numbers(beside, run) == [1]


async def test_a_server_that_pauses_applies_a_batch_once(server, at, monkeypatch, caplog):
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.01)
    opened = at(server.url())
    run, log = await created(opened)
    pool = opened.store.writer.client.connection_pool
    pool.connection_kwargs["socket_timeout"] = 0.05  # from its next connection on
    pool.disconnect()
    pool.reset()
    with server.client() as client:
        client.client_pause(400, all=False)
        log.append(entry(1), started(1))
        log.append(entry(2), started(2))
        await log.durable()
    assert "does not answer in time" in caplog.text
    assert await numbers(opened, run) == [1, 2, 3]
    assert await keys_of(opened, run) == [entry(1).key, entry(2).key]


async def test_a_batch_that_arrives_behind_a_later_one_is_not_applied(server, at):
    """As one that waited in the buffers of a connection which its writer has given up."""
    import redis

    opened = at(server.url())
    run, log = await created(opened)
    log.append(entry(1), started(1))
    await log.durable()
    writes = opened.store.writer
    late = batch_of([wire("append", *held(log.lease), False, "step.started", "{", "}")])
    with server.client() as client, pytest.raises(redis.ResponseError, match="SUPERSEDED"):
        APPLY(client, [writes.key], opened.address.tag, writes.number - 1, 60, late, encode({}), 1 << 20)
    assert await numbers(opened, run) == [1, 2]
    log.append(None, started(2))
    await log.durable()
    assert await numbers(opened, run) == [1, 2, 3]
