"""Windows count exactly, and say when there is room again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.limits.windows import ENTRIES_MAX, Windows
from offramp.core.rates import Rate

RATES = (Rate(5, 1), Rate(12, 4))
MARGIN_S = 0.25
moves = st.lists(
    st.tuples(st.sampled_from(["open", "note", "late", "drop", "pass"]), st.integers(1, 6), st.floats(0, 2)),
    max_size=60,
)


@given(moves)
def test_they_count_what_a_list_of_everything_counts(history):
    windows, noted, opened, now = Windows(RATES, MARGIN_S), [], [], 10.0
    for kind, amount, seconds in history:
        if kind == "pass":
            now += seconds
        elif kind == "open":
            windows.open += amount
            opened.append(amount)
        elif opened and kind == "note":
            windows.note(now, amount, opened.pop())
            noted.append((now, amount))
        elif opened and kind == "late":
            windows.note(now - seconds, amount, opened.pop())
            noted.append((max([now - seconds, *(at for at, _ in noted)]), amount))
        elif opened:
            windows.open -= opened.pop()
        windows.pass_to(now)
        for number, rate in enumerate(RATES):
            counted = sum(each for at, each in noted if at + (rate.seconds + MARGIN_S) > now)
            assert windows.used(number) == counted + sum(opened)


@given(st.lists(st.floats(0, 0.4), max_size=40), st.integers(1, 6))
def test_the_time_foretold_is_the_first_at_which_so_much_fits(gaps, amount):
    windows, now = Windows((Rate(6, 1),), MARGIN_S), 0.0
    for gap in gaps:
        now += gap
        windows.pass_to(now)
        if windows.fits(1, (6,)):
            windows.note(now, 1, 0)
    early = Windows((Rate(6, 1),), MARGIN_S)
    early.recall(now, windows.entries(now))
    at = windows.free_at(0, now, amount, 6)
    windows.pass_to(at)
    assert windows.fits(amount, (6,))
    if at > now:
        early.pass_to(at - 1e-6)
        assert not early.fits(amount, (6,))


def test_more_than_a_window_takes_it_several_times_over():
    windows = Windows((Rate(10, 60),), 0.0)
    windows.note(100.0, 10, 0)
    assert windows.free_at(0, 100.0, 1, 10) == 160.0
    assert windows.free_at(0, 100.0, 10, 10) == 160.0
    assert windows.free_at(0, 100.0, 11, 10) == 220.0
    assert windows.free_at(0, 100.0, 35, 10) == 340.0


def test_what_is_open_counts_without_end():
    windows = Windows((Rate(1, 1),), 0.0)
    windows.open += 1
    windows.pass_to(1e9)
    assert not windows.fits(1, (1,))
    windows.note(1e9, 1, 1)
    windows.pass_to(1e9 + 0.5)
    assert not windows.fits(1, (1,))
    windows.pass_to(1e9 + 1)
    assert windows.fits(1, (1,))


def test_more_than_a_limit_fits_into_an_empty_window():
    windows = Windows((Rate(100, 60),), 0.0)
    assert windows.fits(100, (25,))
    windows.note(0.0, 1, 0)
    assert not windows.fits(25, (25,))


@pytest.mark.parametrize(("limit", "at_most"), [(1_000, 1_000), (1_000_000, ENTRIES_MAX + 1)])
def test_entries_are_bounded_and_never_count_for_less(limit, at_most):
    windows, now = Windows((Rate(limit, 60),), 0.0), 0.0
    for _ in range(3 * limit if limit == 1_000 else 40_000):
        now += 0.06 if limit == 1_000 else 0.001
        windows.pass_to(now)
        windows.note(now, 1, 0)
    assert len(windows.entries(now)) <= at_most
    assert windows.used(0) >= min(40_000, round(60 / 0.06) if limit == 1_000 else 40_000) - 1


def test_what_was_noted_elsewhere_counts_as_long_as_there():
    windows, other = Windows(RATES, 0.0), Windows(RATES, 0.0)
    for at in (0.0, 1.0, 1.5):
        other.note(at, 2, 0)
    windows.note(1.2, 1, 0)
    windows.pass_to(1.6)
    windows.recall(1.6, other.entries(1.6))
    assert (windows.used(0), windows.used(1)) == (5, 7)
    windows.pass_to(2.2)
    assert (windows.used(0), windows.used(1)) == (2, 7)
    windows.pass_to(6.0)
    assert windows.used(1) == 0
