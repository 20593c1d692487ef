"""How tenants share a capacity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.shares import Shares, Tenancy


def keyed(share):
    tenancy = Tenancy(share)
    tenancy.is_keyed = lambda: True
    return tenancy


def fill(shares, tenant):
    """Take as much as there is for a tenant; how much that was, and what it was refused for."""
    taken = 0
    while (refused := shares.refusal(tenant)) is None:
        shares.take(tenant)
        taken += 1
    return taken, refused


def test_each_tenant_gets_its_share_of_what_the_others_leave():
    shares = Shares(1000, keyed(0.5))
    assert [fill(shares, tenant) for tenant in "abc"] == [(500, "share"), (250, "share"), (125, "share")]
    assert shares.total == 875


def test_what_one_gives_back_is_shared_anew():
    shares = Shares(100, keyed(0.5))
    assert [fill(shares, tenant)[0] for tenant in "ab"] == [50, 25]
    for _ in range(50):
        shares.give_back("a")
    assert fill(shares, "b") == (25, "share")
    assert shares.by_tenant() == {"b": 50}


@pytest.mark.parametrize("tenancy", [Tenancy(0.5), Tenancy(), keyed(1.0)])
def test_without_keys_or_with_the_whole_as_share_one_may_fill_it(tenancy):
    shares = Shares(10, tenancy)
    assert fill(shares, "a") == (10, "full")
    assert shares.refusal("b") == "full"


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_of_the_smallest_capacity_one_gets_one(share):
    shares = Shares(1, keyed(share))
    assert fill(shares, "a") == (1, "share")
    assert shares.refusal("b") == "full", "there is none left"


def test_what_came_unasked_counts_against_that_tenant_alone():
    """Demoted and woken runs come into a queue whether they fit or not."""
    shares = Shares(100, keyed(0.5), {"a": 400})
    assert shares.refusal("a") == "share"
    assert fill(shares, "b") == (25, "share"), "as if the other held its half"
    for _ in range(399):
        shares.give_back("a")
    assert fill(shares, "b")[0] + 25 == 49


def test_keys_that_are_added_while_it_runs_divide_what_is_there():
    closed = []
    tenancy = Tenancy(0.5)
    tenancy.is_keyed = lambda: bool(closed)
    shares = Shares(10, tenancy)
    assert fill(shares, "")[0] == 10
    closed.append(True)
    assert (shares.refusal(""), fill(shares, "a")) == ("share", (2, "share"))


@given(
    st.integers(1, 40),
    st.sampled_from([0.01, 0.1, 0.29, 0.5, 0.7, 0.99]),
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=120),
)
def test_whoever_comes_next_finds_room_until_all_is_taken(capacity, share, moves):
    shares = Shares(capacity, keyed(share))
    for tenant, takes in moves:
        if takes and shares.refusal(tenant) is None:
            shares.take(tenant)
        elif not takes and shares.held(tenant):
            shares.give_back(tenant)
        assert shares.total == sum(shares.by_tenant().values()) <= capacity
        refused = shares.refusal("new")
        assert refused == ("full" if shares.total == capacity else None)
