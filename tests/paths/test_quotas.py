"""Quotas of API keys over several processes at one store: never passed by one, and learned from the others."""

from __future__ import annotations

import asyncio
import random

import pytest

from offramp.conformance.sample import DONE, accepted, completed, record_of
from offramp.core.quotas import Quota
from offramp.core.rates import Rate
from offramp.core.run import run_id
from offramp.errors import RateLimited, StoreError
from offramp.paths.quotas import Quotas
from offramp.stores.memory import MemoryStore
from offramp.testing import FakeClock

KEY = "acme/ann"
WAITS_S = 60.0


class Stored(MemoryStore):
    """Counts how often it is asked; it answers when the test says so."""

    def __init__(self):
        super().__init__()
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.broken = False

    async def runs_of_key(self, key, after, limit):
        self.asked += 1
        found = await super().runs_of_key(key, after, limit)
        await self.answers.wait()
        if self.broken:
            raise StoreError("away")
        return found


class Gateway:
    """One process: its quotas, and the runs that it starts."""

    def __init__(self, store, clock):
        self.store, self.clock = store, clock
        self.quotas = Quotas(store, clock, WAITS_S)
        self.numbers = random.Random(id(self))

    async def start(self, quota, *, fails=False):
        """The log of a new run; None if the quota refuses it."""
        now = self.clock.time()
        record = record_of(1, id=run_id(now, self.numbers.randbytes(10)), created_at=now, api_key=quota.key)
        try:
            known = await self.quotas.take(quota, record.id, 20.0)
        except RateLimited:
            return None
        if fails:
            known.give_back(record.id)
            return None
        commit, log = self.store.create(record, accepted(record), owner="a", durable=True)
        await commit
        known.created_run(record.id)
        return log


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store():
    return Stored()


@pytest.fixture
def gateway(store, clock):
    return Gateway(store, clock)


async def test_requests_at_once_do_not_slip_through_together(gateway, store):
    quota = Quota(KEY, Rate(3, 60), 3)
    store.answers.clear()
    asked = [asyncio.create_task(gateway.start(quota)) for _ in range(20)]
    await asyncio.sleep(0)
    store.answers.set()
    started = await asyncio.gather(*asked)
    assert sum(log is not None for log in started) == 3


async def test_a_full_window_asks_the_store_no_more_and_ends_to_the_millisecond(gateway, store, clock):
    quota = Quota(KEY, Rate(2, 60))
    assert await gateway.start(quota)
    clock.advance(10.0)
    assert await gateway.start(quota)
    asked = store.asked
    with pytest.raises(RateLimited) as refused:
        await gateway.quotas.take(quota, "run", 1.0)
    assert refused.value.retry_after == pytest.approx(50.0)
    clock.advance(49.99)
    assert not await gateway.start(quota)
    assert store.asked == asked
    clock.advance(0.02)
    assert await gateway.start(quota)
    assert not await gateway.start(quota)


async def test_a_run_that_waited_for_its_place_counts_in_other_gateways(store, clock):
    quota, here, there = Quota(KEY, Rate(1, 120)), Gateway(store, clock), Gateway(store, clock)
    record = record_of(1, id=run_id(clock.time(), bytes(10)), created_at=clock.time(), api_key=KEY)
    await here.quotas.take(quota, record.id, 1.0)
    for _ in range(6):
        clock.advance(WAITS_S / 6)
        await there.quotas.use(quota)
    commit, _ = store.create(record, accepted(record), owner="a", durable=True)
    await commit
    assert not await there.start(quota)


async def test_a_run_that_ends_frees_its_place_at_once_and_one_that_fails_to_start_takes_none(gateway):
    quota = Quota(KEY, None, 2)
    first = await gateway.start(quota)
    assert not await gateway.start(quota, fails=True)
    assert await gateway.start(quota)
    with pytest.raises(RateLimited) as refused:
        await gateway.quotas.take(quota, "run", 20.0)
    assert refused.value.retry_after == 10.0, "one of two runs of 20 s ends every 10 s"
    await first.finish(DONE, completed(), 0.0)
    assert await gateway.start(quota)
    assert not await gateway.start(quota)


async def test_a_process_learns_what_others_started_before_and_since(gateway, store, clock):
    quota = Quota(KEY, Rate(4, 3600), 4)
    assert await gateway.start(quota)
    other = Gateway(store, clock)
    assert await other.start(quota)
    assert (await other.quotas.use(quota)).started == 2
    clock.advance(600.0)
    assert await gateway.start(quota)
    clock.advance(600.0)
    assert await other.start(quota)
    assert not await other.start(quota)
    assert not await gateway.start(quota)
    use = await gateway.quotas.use(quota)
    assert (use.started, use.open) == (4, 4)


async def test_what_is_not_learned_is_not_taken_for_nothing(gateway, store, clock):
    quota = Quota(KEY, Rate(2, 60), 2)
    assert await gateway.start(quota)
    store.broken = True
    store.answers.clear()
    asked = [asyncio.create_task(gateway.start(quota)) for _ in range(3)]
    await asyncio.sleep(0)
    store.answers.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, StoreError) for each in results)
    store.broken = False
    assert await gateway.start(quota)
    assert not await gateway.start(quota)


async def test_whatever_happens_the_count_is_that_of_the_store(store, clock):
    """Two gateways start, fail and end runs at random: after a look both count what the store has."""
    numbers, quota = random.Random(11), Quota(KEY, Rate(50, 30), 8)
    gateways, logs = [Gateway(store, clock) for _ in range(2)], []
    for _ in range(400):
        clock.advance(numbers.choice([0.0, 0.001, 0.06, 2.0]))
        log = await numbers.choice(gateways).start(quota, fails=numbers.random() < 0.2)
        if log is not None:
            logs.append(log)
        if logs and numbers.random() < 0.4:
            await logs.pop(numbers.randrange(len(logs))).finish(DONE, completed(), clock.time())
        assert len(logs) <= 8
    clock.advance(1.0)
    for gateway in gateways:
        assert (await gateway.quotas.use(quota)).open == len(logs)


async def test_a_run_that_is_stored_but_not_confirmed_counts_once_however_many_others_start_later(store, clock):
    one, other, quota = Gateway(store, clock), Gateway(store, clock), Quota(KEY, None, 10)
    confirmed, are_stored = asyncio.Event(), asyncio.Barrier(5)
    created = store.create

    def slow(record, *given, **options):
        commit, log = created(record, *given, **options)

        async def late():
            await commit
            await are_stored.wait()
            await confirmed.wait()

        return late(), log

    store.create = slow
    waiting = [asyncio.create_task(one.start(quota)) for _ in range(4)]
    await are_stored.wait()
    store.create = created
    for _ in range(40):
        clock.advance(0.001)
        log = await other.start(quota)
        await log.finish(DONE, completed(), clock.time())
    for _ in range(6):
        clock.advance(0.001)
        assert await one.start(quota)
    assert not await one.start(quota)
    assert not await other.start(quota)
    confirmed.set()
    assert all(await asyncio.gather(*waiting))
    assert (await one.quotas.use(quota)).open == 10
