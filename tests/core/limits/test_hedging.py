"""How many calls are hedged, after how long, and when none is."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.limits.hedging import CALLS_PER_HEDGE, STEPS_MAX, TIMES_MAX, TIMES_MIN, UNUSED_MAX, Hedges
from offramp.core.limits.messages import BreakerLevel, Level


def level(name="openai", **changes) -> Level:
    return Level(name=name, in_use=0, concurrency=None, **changes)


def seen(hedges: Hedges, times, step="write") -> Hedges:
    for seconds in times:
        hedges.called(step)
        hedges.saw(step, seconds)
    return hedges


@given(st.lists(st.sampled_from(["call", "hedge", "refused"]), max_size=1000))
def test_at_most_one_call_in_twenty_is_hedged(history):
    hedges, calls, made = Hedges(), 0, 0
    for what in history:
        if what == "call":
            hedges.called("write")
            calls += 1
        elif hedges.may():
            if what == "refused":
                hedges.give_back()
            else:
                made += 1
        assert made * CALLS_PER_HEDGE <= calls


def test_unused_hedges_are_left_for_later_but_not_many():
    hedges = seen(Hedges(), [1.0] * 10_000)
    assert [hedges.may() for _ in range(UNUSED_MAX + 1)] == [True] * UNUSED_MAX + [False]
    for _ in range(2 * UNUSED_MAX):
        hedges.give_back()
    assert sum(hedges.may() for _ in range(100)) == UNUSED_MAX


def test_the_first_token_is_late_after_its_p99():
    hedges = seen(Hedges(), [1.0] * (TIMES_MIN - 1))
    assert hedges.after_s("write") is None
    assert seen(hedges, [1.0]).after_s("write") == 1.0
    assert seen(Hedges(), range(1, 1001)).after_s("write") == 990
    assert hedges.after_s("another") is None


def test_it_is_computed_anew_after_a_few_calls():
    hedges = seen(Hedges(), [1.0] * TIMES_MIN)
    assert seen(hedges, [9.0] * 24).after_s("write") == 1.0
    assert seen(hedges, [9.0]).after_s("write") == 9.0


def test_only_the_last_times_count():
    hedges = seen(Hedges(), [100.0] * TIMES_MAX)
    assert seen(hedges, [1.0] * TIMES_MAX).after_s("write") == 1.0


def test_of_recorded_stragglers_one_percent_is_hedged():
    random = Random(7)
    hedges, hedged = Hedges(), 0
    for _ in range(20_000):
        hedges.called("write")
        first_s = random.lognormvariate(0, 0.5) if random.random() > 0.004 else 60.0
        after_s = hedges.after_s("write")
        if after_s is not None and first_s > after_s and hedges.may(["openai"]):
            hedged += 1
            first_s = min(first_s, after_s + random.lognormvariate(0, 0.5))
        hedges.saw("write", first_s)
    assert 0.005 < hedged / 20_000 < 0.02


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (level(), True),
        (level(breaker=BreakerLevel("closed")), True),
        (level(scale=0.999), False),
        (level(breaker=BreakerLevel("open")), False),
        (level(breaker=BreakerLevel("half-open")), False),
        (level("another", scale=0.5), True),
    ],
)
def test_a_resource_in_trouble_gets_no_second_call(shown, wanted):
    hedges = seen(Hedges(), [1.0] * TIMES_MIN)
    hedges.report([shown])
    assert hedges.may(["openai"]) is wanted
    hedges.report([level()])
    assert hedges.may(["openai"]), "it has recovered, and the refusal used nothing up"
    assert hedges.may(), "a step without resources"


def test_memory_is_bounded():
    hedges = seen(Hedges(), [1.0] * TIMES_MIN, "old")
    for number in range(STEPS_MAX - 1):
        hedges.called(str(number))
    hedges.called("one more")
    assert hedges.after_s("old") is None
    seen(hedges, [1.0] * TIMES_MIN, "old")
    hedges.called("yet another")
    assert hedges.after_s("old") == 1.0
    for number in range(STEPS_MAX):
        hedges.called(f"new {number}")
    assert hedges.after_s("old") is None
    hedges.saw("old", 1.0)
    assert hedges.after_s("old") is None


def test_no_time_that_is_none_is_learned():
    hedges = seen(Hedges(), [1.0] * TIMES_MIN)
    seen(hedges, [-1.0, math.nan] * TIMES_MIN)
    assert hedges.after_s("write") == 1.0


def test_a_call_that_names_no_resource_is_not_hedged_while_any_is_in_trouble():
    hedges = Hedges()
    for _ in range(CALLS_PER_HEDGE):
        hedges.called("write")
    hedges.report([level(scale=0.9)])
    assert not hedges.may()
    assert hedges.may(["other"])
