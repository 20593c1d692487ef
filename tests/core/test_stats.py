from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from offramp.core import stats
from offramp.core.run import Demotion, RunHead, run_id
from offramp.core.stats import COARSE, FINE, LONG, Row
from tests.support import NOW, a_record


def row_of(*runs, unfinished=None, oldest=None):
    ended = {}
    for record, status, seconds in runs:
        ended = stats.added(ended, stats.counts_of(record, status, record.created_at + seconds, good=None))
    return Row("p", "c", ended, unfinished or {}, oldest)


@given(st.lists(st.floats(0.002, 1e5), min_size=1, max_size=50))
def test_a_quantile_is_near_the_value_of_its_rank(durations):
    found = row_of(*[(a_record(), "completed", seconds) for seconds in durations]).durations()
    ordered = sorted(durations)
    for name, share in stats.QUANTILES.items():
        true = ordered[max(0, math.ceil(share * len(ordered)) - 1)]
        assert true / 1.1 <= found[name] <= true * 1.1, name


def test_durations_beyond_the_buckets_are_counted_in_the_outermost():
    found = row_of((a_record(), "completed", 0.0), (a_record(), "completed", -1.0), (a_record(), "completed", 1e12))
    quantiles = found.durations()
    assert quantiles["p50"] < 0.002
    assert quantiles["p99"] > 1e6


def test_only_completed_runs_have_durations_and_only_fast_starts_a_rate():
    assert row_of().durations() is None
    assert row_of((a_record(), "failed", 3.0)).durations() is None
    assert row_of((a_record(path="deep"), "completed", 3.0)).demotion_rate is None
    demoted = a_record(path="deep", demotion=Demotion("budget", NOW, 1.0, 1.0))
    runs = [
        (demoted, "failed", 3.0),
        (a_record(path="fast"), "cancelled", 1.0),
        (a_record(path="deep"), "completed", 1.0),
    ]
    assert row_of(*runs).demotion_rate == 0.5


def test_windows_are_whole_cells_that_end_now():
    assert stats.cells_of(120 * 60.0 + 59, 5) == (FINE, 115, 120)
    assert stats.cells_of(120 * 60.0, 60) == (FINE, 60, 120)
    assert stats.cells_of(1440 * 60.0, 360) == (COARSE, 96 - 24, 96)
    assert stats.cells_of(43_200 * 60.0, 43_200) == (LONG, 0, 180)
    assert [stats.cells_of(1e9, minutes)[0] for minutes in stats.WINDOWS.values()] == [FINE, FINE, FINE, COARSE, COARSE]


def test_a_run_counts_for_its_class():
    record = a_record(path="fast", created_at=NOW, started_at=NOW + 1)
    assert stats.counts_of(record, "failed", NOW + 3, good=False) == {"failed:fast": 1, "bad": 1}
    record = a_record(path="deep", retry_of="run_1")
    assert stats.counts_of(record, "cancelled", NOW, good=None) == {"cancelled:deep": 1}


def test_a_row_shows_what_ended_and_what_has_not():
    def head(at, status, pipeline="p"):
        return RunHead(run_id(at, b"0123456789"), "", pipeline, "c", None, status, "deep", None, 1, demoted=False)

    heads = [head(NOW - 7, "queued"), head(NOW - 9, "queued"), head(NOW - 99, "running"), head(NOW - 1, "running", "q")]
    ended = {("p", "c"): {"completed:fast": 3, "d:0": 3}}
    first, second = [stats.shown(row, NOW, 100, 260.0) for row in stats.rows(ended, heads)]
    assert (first["pipeline"], second["pipeline"]) == ("p", "q")
    assert first["counts"]["queued"] == {"fast": 0, "deep": 2}
    assert first["counts"]["running"] == {"fast": 0, "deep": 1}
    assert first["counts"]["completed"] == {"fast": 3, "deep": 0}
    assert first["queue"] == {"length": 2, "oldest_s": 9.0, "limit": 100, "longest_wait_s": 260.0}
    assert 1000 <= first["duration_ms"]["p50"] <= 1190
    assert (second["queue"]["length"], second["queue"]["oldest_s"]) == (0, None)
    assert second["duration_ms"] is None
