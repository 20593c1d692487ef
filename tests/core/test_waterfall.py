"""A run's log as rows over time: what each event makes of them, and what holds whatever the log says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.events import INTERRUPTED, Event
from offramp.core.timestamps import rfc3339
from offramp.core.waterfall import Span, layout

T0 = 1_700_000_000.0
RUN = "run_01M803AAHNQ8E0R424BHCTM99K"


class Log:
    """A run's events, told by their times in seconds since its acceptance."""

    def __init__(self, path="fast"):
        self.events = []
        self.then(0.0, "run.accepted", path=path, pipeline="research")

    def then(self, at, kind, **data):
        self.events.append(Event(kind, RUN, len(self.events) + 1, rfc3339(T0 + at), data))
        return self

    def step(self, at, what, key="write", attempt=1, **data):
        return self.then(at, f"step.{what}", step=key.partition(":")[0], key=key, attempt=attempt, **data)

    def executed(self, start, end, key="write"):
        return self.step(start, "started", key).step(end, "completed", key, duration_ms=(end - start) * 1000)

    def waits(self, at, what, **data):
        return self.then(at, f"wait.{what}", wait="signal", name="go", key="go:0", **data)

    def seen(self, now=0.0, started=None):
        shown = layout(self.events, T0 + now, None if started is None else T0 + started)
        assert shown is not None
        return shown

    def spans(self, number, **seen):
        return [
            (span.kind, round(span.start, 3), round(span.end, 3), span.open)
            for span in self.seen(**seen).rows[number].spans
        ]


def ended(log, at, status="completed"):
    return log.then(at, f"run.{status}")


def path_of(shown):
    return [
        ("own" if link.row is None else shown.rows[link.row].name, round(link.start, 3), round(link.end, 3))
        for link in shown.critical
    ]


def shares(shown):
    return [round(seconds, 3) for seconds in shown.totals]


def test_calls_with_labels_are_rows_of_that_name():
    log = Log().step(0.0, "started", "gather:1", label="web").step(0.0, "started", "gather:2", label="db")
    assert [row.name for row in ended(log, 1.0).seen().rows] == ["research", "gather web", "gather db"]


def test_a_quick_run():
    log = ended(Log().executed(0.0, 0.25, "search").executed(0.3, 0.5), 0.5)
    shown = log.seen()
    assert (shown.status, round(shown.took, 3)) == ("completed", 0.5)
    assert [(row.kind, row.name, row.status) for row in shown.rows] == [
        ("run", "research", "completed"),
        ("step", "search", "completed"),
        ("step", "write", "completed"),
    ]
    assert log.spans(0) == [("fast", 0.0, 0.5, False)]
    assert path_of(shown) == [("search", 0.0, 0.25), ("own", 0.25, 0.3), ("write", 0.3, 0.5)]
    assert shares(shown) == [0.45, 0.0, 0.0, 0.05]


def test_of_parallel_steps_the_slow_one_is_critical():
    log = Log().step(0.0, "started", "a").step(0.0, "started", "b").step(0.2, "completed", "a")
    log.step(0.6, "completed", "b").executed(0.6, 0.7, "c")
    assert path_of(ended(log, 0.7).seen()) == [("b", 0.0, 0.6), ("c", 0.6, 0.7)]


def test_a_retry_is_a_failed_attempt_a_delay_and_another_attempt():
    log = Log().step(0.0, "started").step(0.1, "retrying", error={"code": "step-failed"}, delay_ms=400.0)
    log.step(0.5, "started", attempt=2).step(0.6, "failed", attempt=2, error={})
    ended(log, 0.6, "failed")
    row = log.seen().rows[1]
    assert (row.status, row.attempts) == ("failed", 2)
    assert log.spans(1) == [("failed", 0.0, 0.1, False), ("retry", 0.1, 0.5, False), ("failed", 0.5, 0.6, False)]
    assert shares(log.seen()) == [0.2, 0.4, 0.0, 0.0]


def waits_for(log, at, reason="rate", key="write"):
    return log.then(at, "step.waiting", step=key.partition(":")[0], key=key, resource="openai", reason=reason)


def test_a_step_waits_for_its_permit_before_it_begins():
    log = waits_for(waits_for(Log(), 0.5), 0.9, "tokens").executed(1.0, 1.4)
    assert log.spans(1, now=0.0)[0][0] == "permit"
    ended(log, 1.4)
    assert log.spans(1) == [("permit", 0.25, 1.0, False), ("attempt", 1.0, 1.4, False)]
    row = log.seen().rows[1]
    assert (row.name, row.status, row.attempts) == ("write", "completed", 1)
    assert path_of(log.seen()) == [("own", 0.0, 0.25), ("write", 0.25, 1.0), ("write", 1.0, 1.4)]
    assert shares(log.seen()) == [0.4, 0.75, 0.0, 0.25]


def test_a_step_that_still_waits_for_its_permit_is_waiting():
    log = waits_for(Log(), 0.5)
    assert log.spans(1, now=2.0) == [("permit", 0.25, 2.0, True)]
    assert log.seen(now=2.0).rows[1].status == "waiting"
    ended(log, 2.0, "cancelled")
    assert log.spans(1) == [("permit", 0.25, 2.0, False)]
    assert log.seen().rows[1].status == "cancelled"


def test_a_retry_that_waits_for_a_permit_and_the_wait_of_a_request():
    log = Log().step(0.0, "started", label="web").step(0.1, "retrying", error={}, delay_ms=200.0)
    waits_for(log, 0.6).step(1.0, "started", attempt=2, label="web")
    waits_for(log, 1.5).step(2.0, "completed", attempt=2, duration_ms=1000.0)
    kinds = [(kind, start, end) for kind, start, end, _ in log.spans(1)]
    assert kinds == [("failed", 0.0, 0.1), ("retry", 0.1, 0.35), ("permit", 0.35, 1.0), ("attempt", 1.0, 2.0)]
    assert log.seen().rows[1].name == "write web"


def test_a_run_that_waits_for_a_permit_without_a_process_was_parked():
    log = waits_for(Log("deep"), 0.5).then(8.0, "run.resumed", worker="w", replayed_steps=0, reason="wait")
    waits_for(log, 8.5).executed(9.0, 9.5)
    ended(log, 9.5)
    assert [kind for kind, *_ in log.spans(0, started=0.1)] == ["queued", "deep", "parked", "deep"]
    assert log.spans(1) == [("permit", 0.25, 9.0, False), ("attempt", 9.0, 9.5, False)]


def test_a_demotion_marks_the_run_and_the_handoff_begins_where_the_last_step_in_flight_ended():
    log = Log().step(0.5, "started").then(1.0, "run.demoted", reason="budget")
    log.step(1.2, "completed").then(1.3, "run.resumed", worker="w1", replayed_steps=1).executed(1.3, 1.5, "after")
    shown = ended(log, 1.5).seen()
    assert [(mark.kind, round(mark.at, 3), mark.text) for mark in shown.marks] == [
        ("demoted", 1.0, "budget"),
        ("resumed", 1.3, "w1, 1 steps taken over"),
    ]
    assert log.spans(0) == [("fast", 0.0, 1.2, False), ("handoff", 1.2, 1.3, False), ("deep", 1.3, 1.5, False)]
    assert path_of(shown) == [("own", 0.0, 0.5), ("write", 0.5, 1.2), ("research", 1.2, 1.3), ("after", 1.3, 1.5)]
    assert shares(shown) == [0.9, 0.0, 0.1, 0.5]


def test_a_deep_run_waits_in_the_queue_first():
    log = ended(Log("deep").executed(0.41, 0.6), 0.6)
    assert log.spans(0) == [("queued", 0.0, 0.41, False), ("deep", 0.41, 0.6, False)]
    assert log.spans(0, started=0.4) == [("queued", 0.0, 0.4, False), ("deep", 0.4, 0.6, False)]
    assert shares(log.seen(started=0.4)) == [0.19, 0.4, 0.0, 0.01]
    assert path_of(log.seen(started=0.4))[0] == ("research", 0.0, 0.4)


def test_a_run_that_is_still_queued_is_drawn_to_now():
    log = Log("deep")
    assert log.spans(0, now=3.0) == [("queued", 0.0, 3.0, False)]
    assert log.seen(now=3.0).status == "running"
    assert shares(log.seen(now=3.0)) == [0.0, 3.0, 0.0, 0.0]


def test_a_running_run_is_drawn_to_now_and_what_goes_on_is_open():
    log = Log().executed(0.0, 0.2, "search").step(0.2, "started")
    assert log.spans(2, now=0.9) == [("attempt", 0.2, 0.9, True)]
    assert log.seen(now=0.9).rows[2].status == "running"
    assert path_of(log.seen(now=0.9)) == [("search", 0.0, 0.2), ("write", 0.2, 0.9)]


def test_a_clock_that_is_behind_is_taken_as_at_the_newest_event():
    assert Log().executed(0.0, 0.2).seen(now=-50.0).took == pytest.approx(0.2, abs=1e-6)


def test_a_worker_that_died_loses_the_attempt_and_the_time_until_the_run_was_resumed():
    log = Log("deep").executed(0.1, 0.2, "a").step(0.2, "started")
    log.then(5.0, "run.resumed", worker="w2", replayed_steps=1)
    log.step(5.0, "retrying", error={"code": INTERRUPTED}, delay_ms=0.0).step(5.0, "started").step(5.5, "completed")
    shown = ended(log, 5.5).seen(started=0.1)
    assert log.spans(2) == [("lost", 0.2, 5.0, False), ("attempt", 5.0, 5.5, False)]
    assert shown.rows[2].attempts == 1, "interruption is not an attempt"
    assert log.spans(0, started=0.1)[2] == ("moved", 0.2, 5.0, False)
    assert path_of(shown)[-2:] == [("write", 0.2, 5.0), ("write", 5.0, 5.5)]
    assert shares(shown) == [0.6, 0.1, 4.8, 0.0]


def handed_over_at_once():
    log = Log().step(0.1, "started", "a").step(0.1, "started", "b").then(0.3, "run.demoted", reason="budget")
    return log.then(0.4, "run.resumed", worker="w", replayed_steps=0)


def test_a_step_that_ends_in_the_process_that_demoted_its_run_is_not_lost():
    log = handed_over_at_once()
    assert log.spans(1, now=0.6) == [("attempt", 0.1, 0.6, True)]
    log.step(0.7, "retrying", "a", error={"code": "step-error"}, delay_ms=100.0).step(0.8, "started", "a", attempt=2)
    log.step(0.9, "completed", "a", attempt=2, duration_ms=100.0).step(0.9, "failed", "b", duration_ms=800.0, error={})
    ended(log, 1.0)
    assert log.spans(1) == [("failed", 0.1, 0.7, False), ("retry", 0.7, 0.8, False), ("attempt", 0.8, 0.9, False)]
    assert log.spans(2) == [("failed", 0.1, 0.9, False)]


def test_it_is_lost_if_that_process_died():
    log = handed_over_at_once().step(2.0, "retrying", "a", error={"code": INTERRUPTED}, delay_ms=0.0)
    log.step(2.0, "started", "a").step(2.5, "completed", "a", duration_ms=500.0)
    log.step(2.5, "failed", "b", duration_ms=0.0, error={"code": "effect-unknown"})
    ended(log, 2.5)
    assert log.spans(1) == [("lost", 0.1, 0.4, False), ("attempt", 2.0, 2.5, False)]
    assert log.spans(2) == [("lost", 0.1, 0.4, False), ("failed", 2.5, 2.5, False)]


def test_an_interrupted_step_that_fails_without_another_try():
    log = Log("deep").step(0.1, "started").then(2.0, "run.resumed", worker="w", replayed_steps=0)
    log.step(2.1, "failed", duration_ms=0.0, error={"code": "effect-unknown"})
    ended(log, 2.2, "failed")
    assert log.spans(1) == [("lost", 0.1, 2.0, False), ("failed", 2.1, 2.1, False)]
    assert log.seen().rows[1].status == "failed"


def test_a_wait_for_a_signal_goes_on_while_the_run_is_parked():
    log = Log("deep").executed(0.0, 0.1).waits(0.1, "started", until=None)
    log.then(100.0, "run.resumed", worker="w", replayed_steps=1).waits(100.1, "ended", reason="received")
    shown = ended(log.executed(100.1, 100.2, "after"), 100.2).seen()
    assert log.spans(2) == [("wait", 0.1, 100.1, False)]
    assert (shown.rows[2].name, shown.rows[2].status) == ("signal go", "received")
    assert log.spans(0)[-2:] == [("parked", 0.1, 100.0, False), ("deep", 100.0, 100.2, False)]
    assert path_of(shown) == [("write", 0.0, 0.1), ("signal go", 0.1, 100.1), ("after", 100.1, 100.2)]
    assert shares(shown) == [0.2, 100.0, 0.0, 0.0]


def test_a_run_may_be_parked_during_the_delay_of_a_retry():
    log = Log("deep").step(0.0, "started").step(0.1, "retrying", error={"code": "x"}, delay_ms=9000.0)
    log.then(9.0, "run.resumed", worker="w", replayed_steps=0).step(9.1, "started", attempt=2)
    log.step(9.2, "completed", attempt=2)
    ended(log, 9.2)
    assert log.spans(1) == [("failed", 0.0, 0.1, False), ("retry", 0.1, 9.1, False), ("attempt", 9.1, 9.2, False)]
    assert log.spans(0)[1] == ("parked", 0.1, 9.0, False)


def test_a_cancelled_run_ends_what_it_was_doing():
    log = ended(Log().step(0.1, "started").waits(0.2, "started", until=None), 0.9, "cancelled")
    assert log.spans(1) == [("cancelled", 0.1, 0.9, False)]
    assert log.spans(2) == [("wait", 0.2, 0.9, False)]
    assert {row.status for row in log.seen().rows} == {"cancelled"}
    assert path_of(log.seen()) == [("own", 0.0, 0.1), ("write", 0.1, 0.9)]
    assert shares(log.seen()) == [0.8, 0.0, 0.0, 0.1]


def test_the_loser_of_a_race_ends_nobody_knows_when_and_counts_for_nothing():
    log = Log().step(0.0, "started", "slow").step(0.0, "started", "quick").step(0.3, "completed", "quick")
    shown = ended(log.executed(0.3, 0.5, "after"), 0.5).seen()
    assert log.spans(1) == [("cancelled", 0.0, 0.5, True)]
    assert path_of(shown) == [("quick", 0.0, 0.3), ("after", 0.3, 0.5)]


def test_events_and_fields_of_a_later_version_are_passed_over():
    log = Log().then(0.1, "run.promoted").then(0.2, "step.started").then(0.3, "wait.started")
    shown = ended(log, 0.4).seen()
    assert [row.name for row in shown.rows] == ["research", "?", "wait"]


def test_without_an_event_there_is_nothing_to_draw():
    assert layout([], T0) is None


# What holds whatever the log says.

_keys = st.sampled_from(["a", "b", "c"])
_moves = st.one_of(
    st.tuples(st.sampled_from(["step.started", "step.completed", "step.failed", "step.retrying"]), _keys),
    st.tuples(st.sampled_from(["wait.started", "wait.ended"]), st.sampled_from(["d", "e"])),
    st.tuples(st.sampled_from(["run.demoted", "run.resumed", "interrupted", "step.delta"]), _keys),
)
_ends = st.sampled_from([None, "completed", "failed", "cancelled", "expired"])


@st.composite
def logs(draw, least_ms=0):
    """Any events in any order, each some milliseconds after the one before; below 0 where clocks disagree."""
    log, at_ms = Log(draw(st.sampled_from(["fast", "deep"]))), 0
    for kind, key in draw(st.lists(_moves, max_size=25)):
        at_ms += draw(st.integers(least_ms, 500))
        if kind == "interrupted":
            log.step(at_ms / 1000, "retrying", key, error={"code": INTERRUPTED})
        else:
            log.then(at_ms / 1000, kind, key=key, step=key, attempt=draw(st.integers(1, 3)))
    end = draw(_ends)
    return log if end is None else ended(log, (at_ms + draw(st.integers(0, 500))) / 1000, end)


@given(logs(least_ms=-300), st.floats(-10, 100), st.none() | st.floats(-10, 20))
def test_every_span_is_within_the_run_and_the_path_and_the_shares_make_up_all_of_it(log, now, started):
    shown = log.seen(now, started)
    for row in shown.rows:
        assert all(0.0 <= span.start <= span.end <= shown.took for span in row.spans), row
        assert row.took >= 0.0
    assert sum(shown.totals) == pytest.approx(shown.took)
    assert min(shown.totals) >= 0.0
    at = 0.0
    for link in shown.critical:
        assert link.start == at
        at = link.end
        if link.row is not None:
            assert (link.start, link.end) in [(span.start, span.end) for span in shown.rows[link.row].spans]
    assert at == shown.took
    assert all(0.0 <= mark.at <= shown.took for mark in shown.marks)


@given(logs(), st.floats(0, 100), st.none() | st.floats(-1, 20))
def test_the_spans_of_a_row_follow_each_other(log, now, started):
    for row in log.seen(now, started).rows:
        for one, two in itertools.pairwise(row.spans):
            assert one.end <= two.start + 1e-6, row


@given(logs())
def test_only_what_goes_on_is_open(log):
    shown = log.seen(now=100.0)
    open_spans: list[Span] = [span for row in shown.rows for span in row.spans if span.open]
    assert all(span.end == shown.took for span in open_spans)
    if shown.status in {"cancelled", "expired"}:
        assert open_spans == []
