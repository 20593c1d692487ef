"""Which targets of a failover are left, which follows, and when another one is asked as well."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.attempts import FailedAttempt
from offramp.core.call import FirstToken, Policy
from offramp.core.failover import DEEP_WAIT_S, follows, in_failover, left, notes_of, reason_of, together, too_long
from offramp.core.retry import ONCE, Retry
from offramp.errors import EncodingError, FirstTokenTimeout, ObjectsUnavailable, StepTimeout

NAMES = st.lists(st.sampled_from("abc"), min_size=2, max_size=6)


def failed(*names):
    return tuple(FailedAttempt(number, "code", f"{name} failed", target=name) for number, name in enumerate(names, 1))


def walked(names):
    """The targets of attempts that all fail."""
    seen = ()
    while follows(names, seen, ValueError()) or not seen:
        seen = (*seen, *failed(names[left(names, seen)[0]]))
    return [each.target for each in seen]


@given(NAMES)
def test_each_is_called_once_in_order_and_as_often_as_it_is_named(names):
    assert walked(names) == names


@given(NAMES, st.data())
def test_whatever_has_failed_the_places_that_are_left_are_as_many_as_have_not(names, data):
    gone = data.draw(st.lists(st.sampled_from(names), max_size=len(names), unique_by=id))
    gone = [name for number, name in enumerate(gone) if gone[:number].count(name) < names.count(name)]
    places = left(names, failed(*gone))
    assert places == sorted(set(places))
    assert len(places) == len(names) - len(gone)
    assert sorted([names[place] for place in places] + gone) == sorted(names)


def test_what_does_not_belong_to_it_counts_for_no_target():
    assert left(["a", "b"], failed("other", None)) == [0, 1]
    assert not follows(["a", "b"], failed("a", "b"), ValueError())


@pytest.mark.parametrize("error", [EncodingError("no JSON"), ObjectsUnavailable("no store")])
def test_no_other_follows_where_it_would_end_the_same(error):
    assert not follows(["a", "b"], failed("a"), error)
    assert follows(["a", "b"], failed("a"), ValueError())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError(), "error"),
        (TimeoutError(), "timeout"),
        (StepTimeout("late"), "timeout"),
        (FirstTokenTimeout("late"), "first-token"),
    ],
)
def test_reasons(error, reason):
    assert reason_of(error) == reason


@pytest.mark.parametrize(
    ("is_open", "expected_s", "path", "remaining_s", "reason"),
    [
        (True, None, "fast", 5.0, "breaker"),
        (True, 0.1, "deep", 5.0, "breaker"),
        (False, None, "fast", 0.0, None),
        (False, 5.0, "fast", 5.0, None),
        (False, 5.1, "fast", 5.0, "wait"),
        (False, DEEP_WAIT_S, "deep", float("inf"), None),
        (False, DEEP_WAIT_S + 0.1, "deep", float("inf"), "wait"),
    ],
)
def test_a_wait_is_too_long_for_the_budget_or_on_the_deep_path(is_open, expected_s, path, remaining_s, reason):
    assert too_long(is_open=is_open, expected_s=expected_s, path=path, remaining_s=remaining_s) == reason


def test_notes_say_how_earlier_ones_failed():
    assert notes_of(failed("a", None)) == [
        "before it, a failed: a failed",
        "before it, an attempt failed: None failed",
    ]


@pytest.mark.parametrize(("timeouts", "all_in_all"), [((1.0, 5.0), 5.0), ((None, 5.0), None)])
def test_an_engine_gives_it_the_longest_time_of_its_steps(timeouts, all_in_all):
    policies = [Policy("thread", timeout, ONCE, short=True) for timeout in timeouts]
    whole = together(policies, 3.0)
    assert (whole.timeout, whole.short, whole.first) == (all_in_all, True, FirstToken(within=3.0))
    assert not together([*policies, Policy("loop", None, ONCE)], None).short


def test_the_last_that_is_left_may_be_late_and_its_sdk_may_try_again():
    own = Policy("thread", 9.0, Retry(attempts=5), first=FirstToken(slow_after=2.0, hedge=True))
    whole = together([own, own], 3.0)
    first, last = (in_failover(own, whole, is_last=is_last) for is_last in (False, True))
    assert (first.lane, first.timeout, first.first) == ("thread", 9.0, FirstToken(3.0, 2.0, hedge=True))
    assert last.first == FirstToken(None, 2.0, hedge=True)
    assert (first.retry.attempts, last.retry.attempts) == (2, 1)
    assert in_failover(Policy("loop", None, ONCE), together([own, own], None), is_last=False).first is None
