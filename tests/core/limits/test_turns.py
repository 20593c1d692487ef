"""Whose turn it is: classes, shares, the reserve, tenants, and how long anything waits at most."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.limits.capacity import PACE, PACED_FROM
from offramp.core.limits.gate import ADVANCE_S
from offramp.core.limits.messages import Granted, WaitingClass, Waits
from offramp.core.order import longest_wait_s
from offramp.core.sla import SLA
from tests.core.limits.world import World, resource

HIGH, MIDDLE, LOW = SLA("high", priority=10), SLA("middle"), SLA("low", priority=-1)
_NONE = WaitingClass(0, 0.0)
CLASSES = {sla.name: sla for sla in (HIGH, MIDDLE, LOW)}


def classes_of(world, names):
    return [world.asks[name][1].sla for name in names]


@pytest.mark.parametrize("waited_s", [1, 59, 61, 300])
def test_a_high_one_is_next_but_for_the_share(waited_s):
    """The inversion test: one slot, a low holder, 50 low waiters that have waited, high arrivals."""
    w = World([resource(concurrency=1, share=0.05)], CLASSES)
    holder = w.ask("a", 0, "r")
    for number in range(1, 51):
        w.ask("a", number, "r", run=number)
    w.passes(waited_s)
    granted = []
    for number in range(100, 300):
        w.ask("b", number, "r", run=number, sla="high")
        w.end(holder)
        holder = w.order[-1]
        granted.append(w.asks[holder][1].sla)
        w.look()
    low = Counter(granted)["low"]
    assert low == (0 if waited_s <= LOW.patience else pytest.approx(200 * 0.05, abs=1))
    assert granted[0] == "high"


@settings(max_examples=10)
@given(
    st.sampled_from([0.05, 0.1, 0.25]),
    st.integers(1, 30),
    st.sampled_from([5, 20]),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.sampled_from([0.6, 0.9, 2.0]),
)
def test_nothing_waits_longer_than_the_formula(share, queue_limit, rate, reserve, load):
    """High arrivals take a part of the rate, or twice the rate; low ones fill their queue again and again."""
    low = SLA("low", priority=-1, patience=30, queue_limit=queue_limit)
    w = World([resource(rate=f"{rate}/s", share=share, reserve=reserve)], {"high": HIGH, "low": low})
    w.instant = True
    bound = 1.05 * longest_wait_s(SLA("low", patience=30, queue_limit=queue_limit, share=share), rate / 1.05)
    number, high = 0, 0.0
    for _ in range(int(min(bound * 1.5, 150) * rate)):
        high += load
        while high >= 1.0:
            high -= 1.0
            number += 1
            w.ask("a", number, "r", run=number, sla="high")
        while w.book.levels(w.now)[0].waiting.get("low", _NONE).count < queue_limit:
            number += 1
            w.ask("a", number, "r", run=number)
        w.passes(1 / rate)
        assert all(w.now - since <= bound + 1 for _, ask, since in w.asks.values() if ask.sla == "low")


def test_what_waits_behind_nothing_higher_takes_all_but_the_reserve():
    w = World([resource(rate="100/10s", reserve=0.2)], CLASSES)
    assert len([n for n in range(50) if isinstance(w.answers[w.ask("a", n, "r")], Granted)]) == 50
    w.ask("b", 100, "r", sla="high")
    granted = [n for n in range(200, 260) if isinstance(w.answers[w.ask("a", n, "r")], Granted)]
    assert len(granted) == 80 - 51
    assert [isinstance(w.answers[w.ask("b", n, "r", sla="high")], Granted) for n in range(300, 321)] == 20 * [True] + [
        False
    ]


def test_a_lower_class_takes_a_part_of_a_long_window_at_once_and_the_rest_at_an_even_pace():
    w = World([resource(rate="1000/min", reserve=0.2)], CLASSES)
    w.end(w.ask("b", 0, "r", sla="high"), how="unused")
    names = [w.ask("a", n, "r") for n in range(1, 1001)]

    def granted():
        return sum(isinstance(w.answers[name], Granted) for name in names)

    def write():
        for name in set(names) & set(w.held):
            w.write(name)

    at_once = round(800 * PACED_FROM)
    assert granted() == at_once
    write()
    by_second = []
    for _ in range(57):
        w.passes(1)
        write()
        by_second.append(granted())
    assert all(later - earlier <= 800 / PACE for earlier, later in zip(by_second, by_second[3:], strict=False))
    assert granted() == 800, "all that it may"
    assert isinstance(w.answers[w.ask("b", 2000, "r", sla="high")], Granted)


def test_the_reserve_is_kept_of_every_limit():
    for limits, lower in [({"concurrency": 10}, 8), ({"tokens": "1k/min"}, 8), ({"rate": ("10/s", "20/10s")}, 8)]:
        w = World([resource(reserve=0.2, **limits)], CLASSES)
        first = w.ask("b", 0, "r", sla="high", tokens=100)
        w.end(first, how="unused")
        granted = [isinstance(w.answers[w.ask("a", n, "r", tokens=100)], Granted) for n in range(1, 12)]
        assert granted.count(True) == lower


def test_a_lower_class_has_at_least_one():
    w = World([resource(concurrency=1, rate="1/min", tokens="10/min", reserve=0.9)], CLASSES)
    w.end(w.ask("b", 0, "r", sla="high", tokens=1), how="unused")
    assert isinstance(w.answers[w.ask("a", 1, "r", tokens=10)], Granted)


def test_what_is_overdue_and_alone_takes_its_share_of_the_reserve():
    w = World([resource(concurrency=100, reserve=0.4, share=0.1)], CLASSES)
    w.end(w.ask("b", 0, "r", sla="high"), how="unused")
    names = [w.ask("a", n, "r") for n in range(1, 101)]
    assert sum(name in w.held for name in names) == 60
    w.passes(LOW.patience - 1)
    assert sum(name in w.held for name in names) == 60
    w.passes(1.1)
    assert sum(name in w.held for name in names) == 64


def test_a_low_class_that_waits_does_not_hold_up_a_high_one():
    w = World([resource(rate="10/s", tokens="1k/s", reserve=0.2)], CLASSES)
    w.end(w.ask("b", 0, "r", sla="high", tokens=1), how="unused")
    for n in range(1, 30):
        w.ask("a", n, "r", tokens=100)
    assert isinstance(w.answers[w.ask("b", 100, "r", sla="high", tokens=100)], Granted)
    w.passes(100.0)
    for name in list(w.held):
        w.write(name)
        w.end(name)
    w.passes(1.06)
    assert isinstance(w.answers[w.ask("b", 101, "r", sla="high", tokens=100)], Granted)


def test_a_small_call_does_not_overtake_a_large_one_of_a_higher_class():
    w = World([resource(tokens="1k/s", reserve=0)], CLASSES)
    w.ask("a", 0, "r", tokens=500)
    large = w.ask("b", 1, "r", sla="high", tokens=600)
    small = w.ask("a", 2, "r", tokens=10)
    assert (large in w.held, small in w.held) == (False, False)
    w.end("run_0000:00000", how="unused")
    assert (large in w.held, small in w.held) == (True, True)


def test_the_oldest_run_goes_first_inside_a_tenant_and_tenants_take_turns():
    w = World([resource(concurrency=1)], CLASSES)
    holder = w.ask("a", 0, "r")
    for n in range(60):
        w.ask("a", n + 1, "r", run=100 - n, tenant="big")
    small = [w.ask("b", 200 + n, "r", run=200 + n, tenant="small") for n in range(3)]
    order = []
    for _ in range(63):
        w.end(holder)
        holder = w.order[-1]
        order.append(holder)
    assert [order.index(name) for name in small] == [1, 3, 5]
    big = [name for name in order if name not in small]
    assert big == sorted(big)


def test_places_ahead_are_counted_by_class_and_tenant():
    w = World([resource(concurrency=2)], CLASSES)
    w.ask("a", 0, "r")
    w.ask("b", 1, "r")
    for n in range(5):
        w.ask("a", n + 2, "r", run=n, tenant="big", sla="middle")
    for n in range(2):
        w.ask("a", n + 10, "r", run=n, sla="high")

    def ahead(number, **more):
        return w.answers[w.ask("a", number, "r", **more)].ahead

    assert ahead(20, run=99, tenant="big", sla="middle") == 2 + 5
    assert ahead(21, run=99, tenant="small", sla="middle") == 2 + 1
    assert ahead(22, run=0, tenant="x", sla="low") == 2 + 7
    assert ahead(23, run=1, sla="high") == 2
    assert ahead(24, run=0, sla="high", within=("run_0000:00000",)) == 0


@pytest.mark.parametrize(("rates", "within"), [("5/s", 0.01), ("30/20s", 0.01), (("5/s", "30/20s"), 6.0)])
def test_foretold_waits_come_true_where_nothing_else_comes(rates, within):
    """Windows are looked at apart: where both bind in turn, the time is out by less than the calls of one take."""
    w = World([resource(rate=rates, share=0.001, reserve=0)], CLASSES)
    w.instant = True
    names = [w.ask("a", n, "r", run=n) for n in range(100)]
    foretold = {name: w.answers[name].expected_s for name in names if isinstance(w.answers[name], Waits)}
    assert len(foretold) >= 70
    w.passes(1_000.0)
    for name, expected in foretold.items():
        assert expected == pytest.approx(w.waited[name], abs=within)


def test_an_overdue_class_that_had_more_than_its_share_lately_lets_a_burst_go_first():
    """Its share comes again once that is used up; within `ADVANCE_S`, whatever it had."""
    w = World([resource(rate="10/s", share=0.1, reserve=0.2)], {"high": HIGH, "low": LOW})
    w.instant = True
    w.ask("b", 0, "r", sla="high")
    for n in range(1, 900):
        w.ask("a", n, "r", run=n)
    w.passes(LOW.patience + 10)
    begun = len(w.order)
    for n in range(2000, 3000):
        w.ask("b", n, "r", run=n, sla="high")
    before = w.now

    def low():
        return sum(int(name.rpartition(":")[2]) < 2000 for name in w.order[begun:])

    w.passes(ADVANCE_S - 1)
    assert low() == 0
    w.passes(60)
    share = 0.1 * 10 / 1.05 * (w.now - before - ADVANCE_S)
    assert low() == pytest.approx(share, abs=3)
