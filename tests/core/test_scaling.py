"""How many workers are needed and kept: rules on single looks, and properties of whole histories in virtual time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.scaling import (
    FULL_SHARE,
    GROWTH,
    SETTLE_S,
    WAIT_S,
    WORKERS_MAX,
    Crew,
    Memory,
    Need,
    Sight,
    Span,
    need,
    parse_workers,
    span_of,
    target,
)

EACH = 10
IDLE_S = 30.0


@pytest.mark.parametrize(
    ("text", "span"), [("", None), ("0", (0, 0)), ("4", (4, 4)), ("2..8", (2, 8)), ("3..3", (3, 3))]
)
def test_workers_are_a_number_or_a_range(text, span):
    assert parse_workers(text) == span


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-1", "a range, such as 2..8"),
        ("2..", "a range, such as 2..8"),
        ("٤", "a range, such as 2..8"),
        ("8..2", "such as 2..8"),
        ("1..0", "such as 1..1"),
        ("0..3", "such as 1..3"),
        (f"1..{WORKERS_MAX + 1}", f"at most {WORKERS_MAX}"),
        ("9" * 10_000, "a range, such as 2..8"),
    ],
)
def test_other_text_is_refused_with_what_to_change(text, says):
    with pytest.raises(ValueError, match=says):
        parse_workers(text)


@pytest.mark.parametrize(
    ("span", "min_warm", "number"),
    [
        (None, 0, (1, 1)),
        (None, 3, (3, 3)),
        (Span(1, 4), 3, (3, 4)),
        (Span(2, 4), 0, (2, 4)),
        (Span(3, 3), 3, (3, 3)),
        (Span(0, 0), 3, (0, 0)),
    ],
)
def test_the_classes_keep_their_workers(span, min_warm, number):
    assert span_of(span, min_warm) == number


@pytest.mark.parametrize("span", [Span(2, 2), Span(1, 2)])
def test_a_maximum_below_what_the_classes_keep_is_refused(span):
    with pytest.raises(ValueError, match=r"keep 3 workers warm .* such as \d\.?\.?3|keep 3 workers warm"):
        span_of(span, 3)


def needed(seen, since=None, now=100.0, least=0):
    return need(seen, Need(0, since), now, least=least, places_each=EACH).workers


def test_more_workers_are_needed_only_once_runs_have_waited_without_room():
    full = Sight(waiting=5, busy=EACH, places=EACH, warm=1)
    first = need(full, Need(1), 100.0, least=0, places_each=EACH)
    assert first == (1, 100.0)
    assert need(full, first, 100.0 + WAIT_S - 0.1, least=0, places_each=EACH).workers == 1
    assert need(full, first, 100.0 + WAIT_S, least=0, places_each=EACH).workers == 2
    assert needed(full._replace(waiting=3 * EACH), since=0.0) == 4


def test_runs_that_wait_beside_free_places_ask_for_no_worker():
    # They are taken in a moment; or no worker here has their pipeline; or they are suspects that wait to be alone.
    assert needed(Sight(waiting=5, busy=0, places=EACH, warm=1), since=0.0) == 1
    assert needed(Sight(waiting=500, busy=0, places=900, warm=90), since=0.0) == 1


def test_the_sum_of_min_warm_is_needed_without_any_run():
    assert needed(Sight(0, 0, 0, 0), least=3) == 3
    assert needed(Sight(0, 0, 0, 0)) == 1


def test_one_fewer_is_needed_only_where_the_rest_has_room_to_spare():
    full = FULL_SHARE * EACH
    assert needed(Sight(0, int(full), 2 * EACH, 2)) == 1
    assert needed(Sight(0, int(full) + 1, 2 * EACH, 2)) == 2


spans = st.tuples(st.integers(1, 6), st.integers(1, 30)).map(lambda pair: Span(min(pair), max(pair)))
needs = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3), st.floats(0.1, 20.0)), min_size=1, max_size=60)


@given(spans, needs)
def test_the_number_keeps_its_bounds_grows_by_steps_and_falls_late(span, history):
    now, number, memory, looks, grew = 0.0, span.low, Memory.at_start(span.low, 0.0), [], -math.inf
    for wanted, cold, later in history:
        now += later
        crew = Crew(number, max(0, number - cold))
        count, memory = target(wanted, crew, memory, now, span=span, idle_s=IDLE_S)
        looks.append((now, wanted))
        assert span.low <= count <= span.high
        if count > number:
            assert count <= min(wanted, number * GROWTH)
            assert crew.warm == crew.size or now - grew >= SETTLE_S
            grew = now
        if count < number:
            lately = [amount for at, amount in looks if at > now - IDLE_S]
            assert count == max(span.low, min(span.high, max(lately)))
        number = count
        assert len(memory.recent) <= span.high - span.low + 2


@given(spans, st.integers(0, 200), st.floats(0.1, 8.0))
def test_a_steady_load_leads_to_one_number_that_carries_it(span, load, start_s):
    """Runs that never end, in workers that take some time to get warm."""
    now, number, memory, before, started = 0.0, span.low, Memory.at_start(span.low, 0.0), Need(0), []
    changes = []
    for _ in range(400):
        now += 1.0
        warm = number - sum(1 for at in started if now - at < start_s)
        busy = min(load, warm * EACH)
        before = need(Sight(load - busy, busy, warm * EACH, warm), before, now, least=span.low, places_each=EACH)
        count, memory = target(before.workers, Crew(number, warm), memory, now, span=span, idle_s=IDLE_S)
        if count != number:
            changes.append(count - number)
            started += [now] * max(0, count - number)
        number = count
    assert number == span.high or number * EACH >= load
    assert number in {span.low, math.ceil(load / EACH), span.high}
    assert all(change > 0 for change in changes)
    assert len(changes) <= 6
