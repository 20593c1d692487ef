"""The critical path and the shares of a run's time, against slow and obvious ways to find them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.critical import Link, critical_path, totals, union

END = 60
moments = st.integers(0, END)
intervals = st.tuples(moments, moments).map(lambda pair: (float(min(pair)), float(max(pair))))
spans = st.lists(st.tuples(st.integers(0, 4), intervals).map(lambda drawn: (drawn[0], *drawn[1])), max_size=12)


def slow_path(spans, end):
    """Backwards from the end: the span that ended last by then; of several the first to begin, then the last row."""
    links, at = [], float(end)
    while at > 0:
        over = [span for span in spans if span[1] < span[2] <= at]
        if not over:
            links.append(Link(None, 0.0, at))
            break
        row, start, ended = min(over, key=lambda span: (-span[2], span[1], -span[0]))
        if ended < at:
            links.append(Link(None, ended, at))
        links.append(Link(row, start, ended))
        at = start
    return tuple(reversed(links))


@given(spans)
def test_the_path_is_the_one_that_a_slow_search_finds(spans):
    assert critical_path(spans, END) == slow_path(spans, END)


@given(spans)
def test_the_path_has_no_gap_and_every_part_is_a_span_or_time_in_which_none_ended(spans):
    at = 0.0
    for link in critical_path(spans, END):
        assert link.start == at < link.end
        at = link.end
        if link.row is None:
            assert not [span for span in spans if span[1] < span[2] and link.start < span[2] <= link.end]
        else:
            assert tuple(link) in spans
    assert at == END


def test_of_parallel_steps_the_last_to_end_counts_and_before_it_what_it_waited_for():
    spans = [(0, 0.0, 3.0), (0, 3.0, 10.0), (1, 0.0, 9.0)]
    assert critical_path(spans, 10.5) == (Link(0, 0.0, 3.0), Link(0, 3.0, 10.0), Link(None, 10.0, 10.5))


@given(st.lists(intervals, max_size=5), st.lists(intervals, max_size=5), st.lists(intervals, max_size=5))
def test_each_moment_goes_to_the_first_class_that_has_it(steps, waiting, moving):
    shares = [0, 0, 0, 0]
    for moment in range(END):
        holders = [any(a <= moment < b for a, b in each) for each in (steps, waiting, moving)]
        shares[holders.index(True) if True in holders else 3] += 1
    assert list(totals(float(END), steps, waiting, moving)) == pytest.approx(shares)


@given(st.lists(intervals, max_size=8))
def test_a_union_is_in_order_and_holds_the_same_moments(given_intervals):
    joined = union(given_intervals)
    assert all(a < b for a, b in joined)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(joined))
    for moment in range(END):
        assert any(a <= moment < b for a, b in joined) == any(a <= moment < b for a, b in given_intervals)
