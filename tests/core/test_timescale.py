"""Time on a line of cells: in order, within the width, and idle stretches shortened only where they dwarf the work."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.critical import union
from offramp.core.timescale import LEAST_S, SHORTENED_FROM, Scale, nice

times = st.floats(0, 1e6, allow_nan=False)
lasting = st.floats(LEAST_S, 1e6)
pairs = st.tuples(times, times).map(sorted)
widths = st.integers(1, 200)


@given(times, st.lists(pairs, max_size=6), widths, st.lists(times, min_size=2, max_size=6))
def test_cells_are_in_order_and_within_the_width(took, busy, width, moments):
    scale = Scale(took, busy, width)
    cells = [scale.cell(at) for at in sorted(min(at, took) for at in moments)]
    assert cells == sorted(cells)
    assert 0 <= cells[0] <= cells[-1] < width
    assert scale.cell(0.0) == 0
    assert scale.cell(took) == (width - 1 if took >= LEAST_S else 0)


@given(times, st.lists(pairs, max_size=6), widths, pairs)
def test_a_stretch_has_a_cell_at_least_and_begins_where_it_begins(took, busy, width, stretch):
    scale = Scale(took, busy, width)
    start, end = (min(at, took) for at in stretch)
    cells = scale.cells(start, end)
    assert len(cells) >= 1
    assert (cells[0], cells[-1]) <= (scale.cell(start), scale.cell(end))
    assert cells[0] == scale.cell(start)


@given(st.integers(1, 40), widths)
def test_without_idle_stretches_time_is_even(parts, width):
    scale = Scale(float(parts), [(0.0, float(parts))], width)
    assert [scale.cell(part + 0.5) for part in range(parts)] == [
        math.floor((part + 0.5) / parts * width) for part in range(parts)
    ]
    assert scale.shortened() == []


@pytest.mark.parametrize(("idle", "cut"), [(SHORTENED_FROM * 2.0, False), (SHORTENED_FROM * 2.0 + 0.1, True)])
def test_a_stretch_is_shortened_when_it_is_longer_than_several_times_the_work(idle, cut):
    scale = Scale(idle + 2.0, [(0.0, 1.0), (idle + 1.0, idle + 2.0)], 100)
    assert bool(scale.shortened()) == cut
    if cut:  # to as long as the work
        assert scale.cells(0.0, 1.0) == range(25)
        assert scale.shortened() == [range(25, 75)]
        assert scale.cells(idle + 1.0, idle + 2.0) == range(75, 100)


def test_a_run_without_a_step_is_not_shortened():
    assert Scale(1000.0, [], 10).shortened() == []


@given(lasting, st.lists(pairs, max_size=6), widths, st.integers(2, 20))
def test_ticks_are_in_order_apart_and_where_their_moment_is(took, busy, width, apart):
    scale = Scale(took, busy, width)
    ticks = scale.ticks(apart)
    assert len(ticks) <= 2 * width
    for (one, earlier), (two, later) in itertools.pairwise(ticks):
        assert two - one >= apart // 2
        assert later > earlier
    working = union((start, min(stop, took)) for start, stop in busy)
    worked = sum(stop - start for start, stop in working)
    edges = [0.0, *(edge for interval in working for edge in interval), took]
    for cell, at in ticks:
        assert scale.cell(at) == cell
        for idle_from, idle_to in zip(edges[::2], edges[1::2], strict=True):
            assert not (worked and idle_to - idle_from > SHORTENED_FROM * worked and idle_from < at < idle_to)


@given(st.floats(1e-3, 1e6))
def test_a_nice_number_is_the_next_of_its_kind(least):
    found = nice(least)
    assert least <= found <= least * 2.5 * (1 + 1e-9)
    digit = found / 10 ** math.floor(math.log10(found) + 1e-9)
    assert any(digit == pytest.approx(each) for each in (1, 2, 5))
