"""The order of queues: the clauses of the rule, fairness, and bounds on waits, on generated histories."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.order import SPARE, Line, Queue, Waiter, longest_wait_s, overdue
from offramp.core.sla import SLA

HIGH, MIDDLE, LOW = SLA("high", priority=10), SLA("middle"), SLA("low", priority=-5)
CLASSES = {sla.name: sla for sla in (HIGH, MIDDLE, LOW)}


def waiter(number, sla=MIDDLE, tenant="a", since=0.0, cost=1.0):
    return Waiter(f"run_{number:06}", sla.name, tenant, sla.priority, since, cost)


def queue_of(*waiters, classes=CLASSES):
    queue = Queue(classes)
    for each in waiters:
        queue.add(each)
    return queue


def drained(queue, late=()):
    found = []
    while (taken := queue.take(late)) is not None:
        found.append(taken)
    return found


class Plain:
    """The rule said as plainly as possible, and as slowly: everything is looked at for every grant."""

    def __init__(self, classes):
        self.classes, self.waiting = classes, []
        self.tags, self.earned = defaultdict(dict), defaultdict(float)

    def add(self, new):
        tags = self.tags[new.priority]
        present = {each.tenant for each in self.waiting if each.priority == new.priority}
        if not present:
            tags[new.tenant] = max(tags.values(), default=0.0)
        elif new.tenant not in present:
            tags[new.tenant] = max(tags.get(new.tenant, 0.0), min(tags[each] for each in present))
        if not present:
            for tenant in tags:
                tags[tenant] = tags[new.tenant]
        self.waiting.append(new)

    def remove(self, gone):
        self.waiting = [each for each in self.waiting if each != gone]

    def overdue(self, now):
        return {each.sla for each in self.waiting if now - each.since > self.classes[each.sla].patience}

    def take(self, late):
        if not self.waiting:
            return None
        due = [each for each in self.waiting if each.sla in late and self.earned[each.sla] >= 1 - 1e-9]
        if due:
            richest = min((-self.earned[each.sla], each.sla) for each in due)[1]
            found = [each for each in due if each.sla == richest]
        else:
            found = self.waiting
        highest = max(each.priority for each in found)
        tags = self.tags[highest]
        taken = min((each for each in found if each.priority == highest), key=lambda each: (tags[each.tenant], each.id))
        for sla in {each.sla for each in self.waiting} & set(late) - {taken.sla}:
            share = self.classes[sla].share
            self.earned[sla] = min(self.earned[sla] + share / (1 - share), 2 / (1 - share))
        if due:
            self.earned[taken.sla] -= 1
        if len({each.tenant for each in self.waiting if each.priority == highest}) > 1:
            tags[taken.tenant] += taken.cost
        self.waiting.remove(taken)
        return taken


moves = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from(["high", "middle", "other", "low"]),
            st.sampled_from("abcd"),
            st.integers(0, 999),
            st.sampled_from([1.0, 1.0, 3.0]),
        ),
        st.tuples(st.just("take"), st.integers(0, 40)),
        st.tuples(st.just("remove"), st.integers(0, 99)),
    ),
    max_size=120,
)


@given(moves, st.sampled_from([0.05, 0.3, 0.6]))
def test_every_history_is_served_as_the_rule_says(history, share):
    classes = {
        "high": SLA("high", priority=1, patience=50, share=share),
        "middle": SLA("middle", patience=20, share=share),
        "other": SLA("other", patience=5, share=0.1),
        "low": SLA("low", priority=-1, patience=0, share=0.05),
    }
    queue, plain, now, added = Queue(classes), Plain(classes), 0.0, {}
    for step, (kind, *given_values) in enumerate(history):
        if kind == "add":
            sla, tenant, place, cost = given_values
            new = Waiter(f"run_{place:03}_{step:03}", sla, tenant, classes[sla].priority, now, cost)
            added[new.id] = new
            queue.add(new)
            plain.add(new)
        elif kind == "take":
            now += given_values[0]
            late = queue.overdue(now)
            assert late == plain.overdue(now)
            ahead = queue.peek(late)
            taken = queue.take(late)
            assert taken == ahead == plain.take(late)
        elif added:
            gone = added[sorted(added)[given_values[0] % len(added)]]
            queue.remove(gone)
            plain.remove(gone)
        for sla in classes:
            assert queue.waiting(sla) == sum(each.sla == sla for each in plain.waiting)
    late = queue.overdue(now + 100)
    assert drained(queue, late) == [plain.take(late) for _ in range(len(plain.waiting))]


def test_the_highest_class_goes_first_then_the_oldest_run():
    queue = queue_of(waiter(1, LOW), waiter(4, HIGH), waiter(3), waiter(2, HIGH))
    assert [each.id[-1] for each in drained(queue)] == ["2", "4", "3", "1"]


@pytest.mark.parametrize("waited_s", [1, 59, 61, 300])
def test_a_high_run_is_next_whatever_low_ones_have_waited(waited_s):
    queue = queue_of(*(waiter(number, LOW) for number in range(500)))
    granted = []
    for arrival in range(400):
        queue.add(waiter(1_000 + arrival, HIGH, since=waited_s))
        granted.append(queue.take(queue.overdue(waited_s)).sla)
    expected = 0 if waited_s <= LOW.patience else 400 * LOW.share
    assert Counter(granted)["low"] == pytest.approx(expected, abs=1)


def test_shares_hold_beside_each_other():
    classes = {
        "high": SLA("high", priority=9),
        "middle": SLA("middle", share=0.2),
        "low": SLA("low", priority=-9, share=0.1),
    }
    queue = Queue(classes)
    for number in range(3_000):
        for sla in classes.values():
            queue.add(waiter(number * 10 + sla.priority, sla))
    counts = Counter(queue.take({"high", "middle", "low"}).sla for _ in range(2_000))
    assert counts["middle"] == pytest.approx(400, abs=3)
    assert counts["low"] == pytest.approx(200, abs=3)


@settings(max_examples=40)
@given(
    st.floats(0.05, 0.5),
    st.integers(1, 12),
    st.floats(0, 30),
    st.sampled_from([1.0, 7.5]),
    st.lists(st.sampled_from(["a", "a", "b", "c"]), min_size=1, max_size=40),
)
def test_no_run_waits_longer_than_the_formula(share, queue_limit, patience, rate, tenants):
    low = SLA("low", priority=-1, share=share, queue_limit=queue_limit, patience=patience)
    queue, now, number, bounds = Queue({"high": HIGH, "low": low}), 0.0, 0, {}
    among, arrivals = len(set(tenants)), itertools.cycle(tenants)
    for _ in range(300):
        now += 1 / rate
        queue.add(waiter(number := number + 1, HIGH, since=now))
        while queue.waiting("low") < queue_limit:
            new = waiter(number := number + 1, low, next(arrivals), since=now)
            ahead = sum(1 for each, _ in bounds.values() if each.tenant == new.tenant)
            grants = queue_limit if among == 1 else (ahead + 2) * among
            bounds[new.id] = new, longest_wait_s(replace(low, queue_limit=grants), rate)
            queue.add(new)
        taken = queue.take(queue.overdue(now))
        bounds.pop(taken.id, None)
        assert all(now - each.since <= bound + 1 / rate for each, bound in bounds.values())


def test_the_longest_wait_is_what_the_prototype_measured():
    batch = SLA("batch", priority=-1, queue_limit=100, share=0.05, patience=60)
    assert longest_wait_s(batch, 15.04) == pytest.approx(193, abs=0.1)
    assert longest_wait_s(SLA("batch"), 15.04) is None
    assert longest_wait_s(batch, 0.0) is None


@pytest.mark.parametrize("tenants", [1, 50])
def test_one_run_does_not_wait_for_the_thousands_of_another_tenant(tenants):
    queue = queue_of(*(waiter(number, tenant=f"big {number % tenants}") for number in range(6_000)))
    for _ in range(100):
        queue.take()
    queue.add(waiter(9_000, tenant="small"))
    place = next(place for place in range(6_000) if queue.take().tenant == "small")
    assert place <= tenants


@given(st.lists(st.integers(1, 60), min_size=2, max_size=12), st.integers(1, 400))
def test_tenants_that_wait_get_the_same(counts, grants):
    queue = Queue(CLASSES)
    for tenant, count in enumerate(counts):
        for number in range(count):
            queue.add(waiter(tenant * 100 + number, tenant=str(tenant)))
    got, left = Counter(), dict(enumerate(counts))
    for _ in range(min(grants, sum(counts))):
        got[int(queue.take().tenant)] += 1
        waiting = [got[tenant] for tenant in left if got[tenant] < counts[tenant]]
        assert not waiting or max(got.values()) - min(waiting) <= 1


def test_a_tenant_that_asks_again_and_again_does_not_starve_one_with_a_backlog():
    queue = queue_of(*(waiter(number, tenant="backlog") for number in range(100)))
    for number in range(10):
        queue.add(waiter(1_000 + number, tenant=f"busy {number}"))
    got = Counter()
    for number in range(220):
        taken = queue.take()
        got[taken.tenant] += 1
        if taken.tenant != "backlog":
            queue.add(waiter(2_000 + number, tenant=taken.tenant))
    assert got["backlog"] == 20


def test_a_tenant_that_was_alone_owes_nothing_for_it():
    queue = queue_of(*(waiter(number, tenant="first") for number in range(1_000)))
    for _ in range(500):
        queue.take()
    for number in range(1_000, 1_100):
        queue.add(waiter(number, tenant="second"))
    assert Counter(queue.take().tenant for _ in range(100)) == {"first": 50, "second": 50}


def test_costs_count():
    queue = queue_of(
        *(waiter(number, tenant="dear", cost=3) for number in range(100)),
        *(waiter(number, tenant="cheap") for number in range(100, 300)),
    )
    assert Counter(queue.take().tenant for _ in range(80)) == {"dear": 20, "cheap": 60}


def test_a_run_that_comes_back_has_the_place_of_its_acceptance():
    queue = queue_of(waiter(5), waiter(7))
    queue.add(waiter(3))
    assert [each.id[-1] for each in drained(queue)] == ["3", "5", "7"]


def test_what_may_not_be_granted_now_holds_up_no_other_class():
    queue = queue_of(waiter(1, HIGH), waiter(2, LOW))
    assert queue.take(without={"high"}).sla == "low"
    assert queue.take(without={"high"}) is None
    assert queue.take().sla == "high"


def test_a_class_that_is_passed_by_saves_up_no_share():
    queue = queue_of(
        *(waiter(number, HIGH) for number in range(100)), *(waiter(number, LOW) for number in range(100, 200))
    )
    for _ in range(60):
        queue.take({"low"}, without={"low"})
    assert queue.earned == {}


def test_a_class_that_is_not_declared_has_the_defaults():
    queue = Queue({})
    queue.add(waiter(1, SLA("gone")))
    assert (queue.overdue(60), queue.overdue(61)) == (set(), {"gone"})
    assert overdue({"gone": 0.0}, {}, 61) == {"gone"}
    assert queue.take({"gone"}).sla == "gone"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3))
def test_lines_that_are_read_bit_by_bit_are_served_as_if_known(counts, at_once):
    whole, bits = Queue(CLASSES), Queue(CLASSES)
    for tenant, count in enumerate(counts):
        waiters = [waiter(number * 10 + tenant, tenant=str(tenant)) for number in range(count)]
        for each in waiters:
            whole.add(each)
        parts = iter([waiters[at : at + at_once] for at in range(0, count, at_once)])
        bits.add_line(Line(0, "middle", str(tenant), more=lambda parts=parts: next(parts, [])), 0.0)
    assert [each.id for each in drained(bits)] == [each.id for each in drained(whole)]


def test_what_comes_and_goes_leaves_nothing_behind():
    queue = queue_of(waiter(1, HIGH, since=-1.0), waiter(2, HIGH, tenant="b"))
    tracemalloc.start()
    try:
        for number in range(6_000):
            for new in (waiter(number + 10, LOW, tenant=f"t{number}", since=number), waiter(0, HIGH)):
                queue.add(new)
                queue.remove(new)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert [each.id[-1] for each in drained(queue)] == ["1", "2"]


def test_ten_thousand_tenants_are_all_served_in_one_round():
    queue = queue_of(*(waiter(number, tenant=f"t{number % 10_000}") for number in range(20_000)))
    assert len({queue.take().tenant for _ in range(10_000)}) == 10_000
    assert math.isclose(min(queue.tags(0).values()), 1.0)


def test_tenants_that_give_up_before_their_turn_leave_nothing_behind():
    queue = Queue({})
    queue.add(Waiter("stays", tenant="stays"))
    for number in range(10 * SPARE):
        waiter = Waiter(f"w{number}", tenant=f"t{number}")
        queue.add(waiter)
        queue.remove(waiter)
    assert len(queue.tags(0)) <= 2 + SPARE
