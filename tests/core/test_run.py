from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.failure import Failure
from offramp.core.run import (
    NOT_TAKEN,
    OUTCOMES,
    TRANSITIONS,
    Demotion,
    document,
    is_run_id,
    run_id,
    trace_id,
    transition,
)
from offramp.errors import RunConflict
from tests.support import a_record

moments = st.integers(0, 2**48 - 1).map(lambda ms: ms / 1000)
randomness = st.binary(min_size=10, max_size=10)


@given(moments, randomness)
def test_a_run_id_is_run_and_a_ulid(now, random):
    made = run_id(now, random)
    assert is_run_id(made)
    assert len(made) == 30
    assert made.startswith("run_")


@given(st.integers(0, 2**48 - 2), randomness, randomness)
def test_run_ids_sort_by_time(ms, first, second):
    assert run_id(ms / 1000, first)[:14] <= run_id((ms + 1) / 1000, second)[:14]
    assert run_id(float(ms // 1000), first) < run_id(float(ms // 1000 + 1), second)


@given(moments, randomness, randomness)
def test_run_ids_of_one_moment_differ_by_their_randomness(now, first, second):
    assert (run_id(now, first) == run_id(now, second)) == (first == second)


@pytest.mark.parametrize("text", ["", "run_", "run_" + "I" * 26, "run_" + "0" * 25, "RUN_" + "0" * 26, "x" * 30])
def test_what_is_no_run_id(text):
    assert not is_run_id(text)


statuses = st.sampled_from(list(TRANSITIONS))


@given(statuses, statuses)
def test_a_run_moves_only_as_the_table_says(now, to):
    if to in TRANSITIONS[now]:
        assert transition(now, to) == to
    else:
        with pytest.raises(RunConflict, match=f"{now} cannot become {to}"):
            transition(now, to)


def test_an_outcome_is_final_and_every_other_state_can_reach_one():
    for status, following in TRANSITIONS.items():
        assert bool(following) == (status not in OUTCOMES)
        assert status in OUTCOMES or following & OUTCOMES


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None),
        ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        ("garbage", None),
        ("", None),
    ],
)
def test_the_trace_id_is_that_of_a_valid_traceparent(header, expected):
    assert trace_id({"traceparent": header}) == expected


def test_a_document_has_the_documented_fields_and_encodes():
    record = a_record(
        demotion=Demotion("budget", 1_700_000_006.0, 6000.0, 6000.0),
        result=b'{"a":1}',
        error=Failure("step-failed", "no", "search", 2),
        metadata={"k": "v"},
    )
    shown = msgspec.json.decode(msgspec.json.encode(document(record, [], "/mounted")))
    assert list(shown) == [
        *("id", "pipeline", "status", "path", "class", "session_id", "metadata", "route", "demotion", "created_at"),
        *("started_at", "finished_at", "result", "error", "steps"),
        *("waiting_for", "trace_id", "retry_of", "retried_as", "links"),
    ]
    assert shown["demotion"] == {
        "reason": "budget",
        "at": "2023-11-14T22:13:26.000Z",
        "elapsed_ms": 6000.0,
        "budget_ms": 6000.0,
        "reasons": [],
    }
    assert shown["result"] == {"a": 1}
    assert shown["error"] == {"code": "step-failed", "message": "no", "step": "search", "attempt": 2, "where": None}
    assert shown["links"] == {
        "self": f"/mounted/v1/runs/{record.id}",
        **{name: f"/mounted/v1/runs/{record.id}/{name}" for name in ("events", "result", "ws", "cancel")},
    }


def test_a_retry_that_no_process_has_taken_shows_no_start():
    assert document(a_record(status="queued", started_at=NOT_TAKEN), [])["started_at"] is None
