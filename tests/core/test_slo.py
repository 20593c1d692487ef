from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core import slo, stats
from offramp.core.sla import SLA
from offramp.core.slo import RULES, WINDOWS, Counts

COUNTS = st.builds(Counts, st.integers(0, 10**9), st.integers(0, 10**9))
SOME = COUNTS.filter(lambda counts: counts.total > 0)
OUTCOMES = ("completed", "failed", "cancelled", "expired")
QUICK = SLA("quick", p95=2.0)


@given(st.sampled_from(OUTCOMES), st.floats(0, 1e6))
def test_a_run_keeps_the_promise_if_it_completes_within_the_target(status, seconds):
    kept = slo.keeps_promise(QUICK, status, seconds)
    if status == "cancelled":
        assert kept is None
    else:
        assert kept is (status == "completed" and seconds <= 2.0)


def test_the_target_itself_is_within_it():
    assert slo.keeps_promise(QUICK, "completed", 2.0) is True
    assert slo.keeps_promise(QUICK, "completed", math.nextafter(2.0, 3.0)) is False


@given(st.sampled_from(OUTCOMES), st.floats(0, 1e6))
def test_without_a_target_nothing_counts(status, seconds):
    assert slo.keeps_promise(SLA("batch"), status, seconds) is None
    assert slo.keeps_promise(None, status, seconds) is None


@given(SOME)
def test_the_burn_rate_is_the_share_of_bad_runs_over_the_allowed_one(counts):
    share = slo.within_target(counts)
    assert 0.0 <= share <= 1.0
    assert slo.burn_rate(counts) == pytest.approx((1 - share) / (1 - slo.OBJECTIVE), abs=1e-9)
    assert slo.budget_left(counts) == pytest.approx(1 - slo.burn_rate(counts))


@given(st.integers(1, 10**6))
def test_a_class_that_just_keeps_its_objective_spends_its_budget_exactly(many):
    assert slo.burn_rate(Counts(good=19 * many, bad=many)) == pytest.approx(1.0)


@given(SOME, st.integers(1, 1000))
def test_the_burn_rate_is_of_shares_not_of_numbers(counts, times):
    more = Counts(counts.good * times, counts.bad * times)
    assert slo.burn_rate(more) == pytest.approx(slo.burn_rate(counts))


@given(SOME)
def test_another_bad_run_never_lowers_the_burn_rate_and_a_good_one_never_raises_it(counts):
    assert slo.burn_rate(counts.plus(Counts(bad=1))) >= slo.burn_rate(counts)
    assert slo.burn_rate(counts.plus(Counts(good=1))) <= slo.burn_rate(counts)


@given(SOME, SOME)
def test_two_times_together_burn_no_faster_than_the_faster_and_no_slower_than_the_slower(first, second):
    rates = sorted([slo.burn_rate(first), slo.burn_rate(second)])
    both = slo.burn_rate(first.plus(second))
    assert rates[0] - 1e-9 <= both <= rates[1] + 1e-9


@given(COUNTS, COUNTS, COUNTS)
def test_counts_add_up_in_any_order(one, two, three):
    assert one.plus(two).plus(three) == three.plus(one.plus(two))
    assert one.plus(Counts()) == one


def test_without_runs_nothing_is_burned():
    assert (slo.within_target(Counts()), slo.burn_rate(Counts()), slo.budget_left(Counts())) == (None, 0.0, 1.0)


def test_the_limits_of_the_burn_rate():
    assert slo.burn_rate(Counts(good=5)) == 0.0
    assert slo.burn_rate(Counts(bad=5)) == pytest.approx(20.0)


@given(st.floats(1e8, 4e9), st.sampled_from(list(WINDOWS)))
def test_a_window_reaches_as_far_back_as_it_says_and_one_cell_further_at_most(now, window):
    width, first, last = stats.cells_of(now, WINDOWS[window])
    begins = first * width * slo.MINUTE_S
    assert WINDOWS[window] * 60 <= now - begins < (WINDOWS[window] + width) * 60
    assert last * width * 60 <= now < (last + 1) * width * 60
    assert width <= max(1, WINDOWS[window] / 18), "the window is far longer than it says"


@given(st.floats(1e8, 4e9))
def test_a_longer_window_begins_earlier(now):
    begins = [first * width for width, first, _ in (stats.cells_of(now, minutes) for minutes in WINDOWS.values())]
    assert begins == sorted(begins, reverse=True)


class TestRules:
    def test_they_are_those_of_the_workbook(self):
        spent = [rule.threshold * WINDOWS[rule.long] / WINDOWS["30d"] for rule in RULES]
        assert spent == pytest.approx([0.02, 0.05, 0.10])
        assert [WINDOWS[rule.long] / WINDOWS[rule.short] for rule in RULES] == [12, 12, 12]
        assert [rule.severity for rule in RULES] == ["page", "page", "ticket"]

    @pytest.mark.parametrize("rule", RULES)
    def test_both_windows_have_to_burn(self, rule):
        calm = dict.fromkeys(WINDOWS, 0.0)
        assert not rule.fires(calm)
        assert not rule.fires(calm | {rule.long: rule.threshold + 1})
        assert not rule.fires(calm | {rule.short: rule.threshold + 1})
        assert rule.fires(calm | {rule.long: rule.threshold + 1, rule.short: rule.threshold + 1})
        assert not rule.fires(dict.fromkeys(WINDOWS, rule.threshold))

    @pytest.mark.parametrize("rule", RULES)
    def test_each_can_fire_with_the_budget_there_is(self, rule):
        assert rule.threshold < slo.burn_rate(Counts(bad=1))
