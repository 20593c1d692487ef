"""The bound on what tenants have: counted by the store, corrected in between, and never passed by one process."""

from __future__ import annotations

import asyncio

import pytest

from offramp.core.shares import Shares, Tenancy
from offramp.errors import StoreError, TenantLimit
from offramp.ports.bounds import Bound
from offramp.testing import FakeClock

MOST = 3
EVERY_S = 1.0


class Counted:
    """A store that is asked how many there are, and answers when the test says so."""

    def __init__(self):
        self.clock = FakeClock()
        self.there = {}
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.broken = False
        self.bound = Bound(
            self.count, lambda counts: Shares(MOST, Tenancy(), counts), self.refusal, {}, self.clock, EVERY_S
        )

    async def count(self):
        self.asked += 1
        found = dict(self.there)  # what was written before the count began
        await self.answers.wait()
        if self.broken:
            raise StoreError("away")
        return found

    @staticmethod
    def refusal(held, tenant):
        return TenantLimit("as many as may be") if held.held(tenant) >= MOST else None

    async def taken(self, tenant="a"):
        """One more is there, or it is refused."""
        try:
            taken = await self.bound.take(tenant)
        except TenantLimit:
            return None
        self.there[tenant] = self.there.get(tenant, 0) + 1
        return taken


@pytest.fixture
async def store():
    return Counted()


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_store_is_asked_once_and_at_the_bound(store):
    for _ in range(MOST):
        assert await store.taken() is not None
    assert store.asked == 1
    assert await store.taken() is None
    assert store.asked == 2
    store.there["a"] = 0
    assert await store.taken() is not None


async def test_nothing_slips_in_while_it_is_counted(store):
    for _ in range(MOST):
        await store.taken()
    store.answers.clear()
    refused = [asyncio.create_task(store.taken())]
    await turns()
    refused += [asyncio.create_task(store.taken()) for _ in range(5)]  # a count is under way
    await turns()
    store.answers.set()
    assert [await each for each in refused] == [None] * 6
    assert store.there == {"a": MOST}


async def test_nothing_slips_in_while_it_is_counted_beside(store):
    await store.taken()
    store.clock.advance(EVERY_S)
    store.answers.clear()
    for _ in range(MOST - 1):
        assert await asyncio.wait_for(store.taken(), 5) is not None, "an ordinary request does not wait for the count"
    late = asyncio.create_task(store.taken())
    await turns()
    store.answers.set()
    assert await late is None


async def test_after_a_while_without_requests_it_is_counted_first(store):
    await store.taken()
    store.there["a"] = MOST  # by other processes
    store.clock.advance(2 * EVERY_S)
    assert await store.taken() is None
    assert store.asked == 3


async def test_what_did_not_come_to_be_is_given_back_once(store):
    for _ in range(10):
        store.bound.give_back("a", await store.bound.take("a"))
    stale = await store.bound.take("a")
    store.there["a"] = MOST
    assert await store.taken("b") is not None
    for _ in range(MOST):
        await store.taken("b")
    store.bound.give_back("a", stale)  # a count has not seen it
    assert await store.taken("a") is None


async def test_a_store_that_is_away_is_told_at_the_bound_alone(store, caplog):
    await store.taken()
    store.broken = True
    store.clock.advance(EVERY_S)
    assert await store.taken() is not None
    await turns()
    assert "could not be counted: away" in caplog.text
    assert await store.taken() is not None
    with pytest.raises(StoreError):
        await store.taken()


async def test_it_counts_no_more_when_it_is_closed(store):
    await store.taken()
    store.clock.advance(EVERY_S)
    store.answers.clear()
    await store.taken()
    await turns()
    task = store.bound.task
    store.bound.close()
    with pytest.raises(asyncio.CancelledError):
        await task
