"""A run is demoted, cancelled, lost, and ends, in any order, with the death of its process anywhere in between.

One process at a time executes it, no entry is lost, no finished step is repeated, it ends once, and nothing is written
of it after it was given back.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.leaving.faults import FAULTS
from tests.leaving.orders import ORDER, SHAPES, at_each_point, check

QUICK = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LONG = settings(QUICK, max_examples=5_000)

test_whatever_happens_in_whatever_order_the_run_is_one = QUICK(given(ORDER)(check))


def test_one_event_at_each_point_of_a_demotion():
    for order in at_each_point("line", thin=True):
        check(order)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen_in_the_same_orders(fault, monkeypatch):
    FAULTS[fault](monkeypatch)

    def all_of_them():
        orders = list(at_each_point("line", thin=True))
        for order in random.Random(7).sample(orders, len(orders)):  # most faults are seen in several: in one soon
            check(order)
        # The same function, so that the same examples are drawn.
        settings(QUICK, phases=[Phase.generate])(given(ORDER)(check))()

    with pytest.raises(AssertionError):
        all_of_them()


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_event_at_each_point_of_each_demotion(shape):
    for order in at_each_point(shape):
        check(order)


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_whatever_happens_in_many_more_orders():
    LONG(given(ORDER)(check))()
