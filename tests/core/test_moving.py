"""The time that a run moves, from its journal, its execution here, and its events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core import moving
from offramp.core.belief import STEPS_MAX, Progress
from offramp.core.events import Event
from offramp.core.journal import DUE, TIMER, Entry
from offramp.core.moving import Fast, Part
from offramp.core.timestamps import rfc3339
from offramp.core.waterfall import layout

BEGAN = 1_700_000_000.0


def step(start, took, name="work"):
    return Entry(f"{name}:{start}:0", name, "step", b"1", started_at=BEGAN + start, duration_ms=took * 1000)


def sleep(start, due, over=None):
    """A sleep from its start to its due time; `over` is when its end was noted."""
    begun = Entry("s:0", moving.SLEEP, "value", msgspec.json.encode(BEGAN + due), started_at=BEGAN + start)
    return [begun] if over is None else [begun, Entry("s:0:over", moving.SLEEP, "sleep", started_at=BEGAN + over)]


def timer(start, due, fired=None, kind="sleep"):
    key = f"{TIMER}:{kind}:0"
    made = Entry(f"{key}:due", DUE, "value", msgspec.json.encode(BEGAN + due), started_at=BEGAN + start)
    return [made] if fired is None else [made, Entry(key, TIMER, "sleep", started_at=BEGAN + fired)]


def part(start, end, *still):
    return Part(BEGAN + start, BEGAN + end, [(BEGAN + since, BEGAN + until) for since, until in still])


def moved(*asked, **more):
    progress = moving.moved(*asked, **more)
    steps = tuple((name, round(at, 3)) for name, at in progress.steps)
    return round(progress.elapsed_s, 3), steps


def test_a_run_that_began_here_moves_from_its_start_to_its_end():
    assert moved(part(0, 3), [step(0.5, 1, "search"), step(1.5, 1.25, "llm")]) == (
        3.0,
        (("search", 1.5), ("llm", 2.75)),
    )


def test_only_the_first_steps_are_named():
    entries = [step(number, 1) for number in range(2 * STEPS_MAX)]
    assert len(moved(part(0, 40), entries)[1]) == STEPS_MAX


def test_waits_for_others_do_not_count_unless_a_step_or_a_sleep_covers_them():
    assert moved(part(0, 10, (2, 8)), [step(1, 1), step(8, 1)]) == (4.0, (("work", 2.0), ("work", 3.0)))
    assert moved(part(0, 10, (2, 8), (6, 9)), [step(3, 2)])[0] == 5.0
    assert moved(part(0, 10, (2, 8)), sleep(3, 4, 4))[0] == 5.0


def test_earlier_executions_count_by_their_steps_and_sleeps():
    entries = [step(0, 1), *sleep(1, 3, 40), *timer(50, 52)]
    before = moving.earlier(entries, BEGAN + 60)
    assert moved(part(60, 61), entries, before)[0] == 1 + 2 + 2 + 1


@pytest.mark.parametrize(
    ("entries", "seconds"),
    [
        (sleep(1, 3), 2),
        (sleep(1, 90), 59),
        (timer(1, 90), 59),
        (timer(1, 3, 5), 2),
        (timer(1, 3, kind="timer"), 0),  # a timeout: the run did not wait for it
    ],
)
def test_a_sleep_counts_until_it_is_due_or_the_run_continues(entries, seconds):
    before = moving.earlier(entries, BEGAN + 60)
    assert moved(part(60, 60.5), entries, before)[0] == pytest.approx(seconds + 0.5)


def test_the_time_on_the_fast_path_counts_as_it_was_measured_there():
    entries = [step(0, 1), step(5, 3), step(100, 2)]
    before = moving.earlier(entries, BEGAN + 100)
    fast = Fast(BEGAN, BEGAN + 6, 4.0)
    assert moved(part(100, 102), entries, before, fast) == (8.0, (("work", 1.0), ("work", 6.0), ("work", 8.0)))


def event(kind, at, **data):
    return Event(f"{kind}", "run_1", 1, rfc3339(BEGAN + at), data)


def test_events_tell_the_same_of_a_run_in_several_processes():
    log = [
        event("run.accepted", 0, pipeline="p", path="deep"),
        event("run.resumed", 50, worker="w", replayed_steps=0),
        event("step.started", 51, step="search", key="a", attempt=1),
        event("step.retrying", 52, step="search", key="a", attempt=1, error={"code": "x"}, delay_ms=1000),
        event("step.started", 53, step="search", key="a", attempt=2),
        event("step.completed", 54, step="search", key="a", attempt=2, duration_ms=1000),
        event("wait.started", 54, wait="signal", name="go", key="g"),
        event("wait.ended", 90, wait="signal", name="go", key="g", reason="received"),
        event("wait.started", 90, wait="sleep", name=None, key="s"),
        event("wait.ended", 95, wait="sleep", name=None, key="s", reason="due"),
        event("step.started", 98, step="llm", key="b", attempt=1),
        event("step.completed", 100, step="llm", key="b", attempt=1, duration_ms=2000),
        event("run.completed", 101),
    ]
    drawn = layout(log, BEGAN + 101, BEGAN + 50)
    assert moving.moved_elsewhere(drawn, BEGAN, None) == Progress(10.0, (("search", 3.0), ("llm", 10.0)))
    fast = Fast(BEGAN, BEGAN + 53.5, 2.0)
    assert moving.moved_elsewhere(drawn, BEGAN, fast) == Progress(9.5, (("search", 2.5), ("llm", 9.5)))


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=6)


@given(spans, spans, st.integers(10, 60))
def test_a_run_moves_no_longer_than_it_lasts_and_its_steps_end_while_it_moves(steps, waits, end):
    entries = [step(start, took) for start, took in sorted(steps, key=sum) if start + took <= end]
    still = [(start, min(start + took, end)) for start, took in waits if start < end]
    took, ends = moved(part(0, end, *still), entries)
    busy = {second for start, length in steps if start + length <= end for second in range(start, start + length)}
    waited = {second for start, until in still for second in range(start, until)}
    assert took == end - len(waited - busy)
    assert list(ends) == sorted(ends, key=lambda each: each[1])
    assert all(0 <= at <= took for _, at in ends)
