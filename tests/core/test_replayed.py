"""What routing would have done to recorded runs."""

from __future__ import annotations

import random

import pytest

from offramp.core import replayed
from offramp.core.features import Session, features
from offramp.core.replayed import Recorded, recorded, replay
from offramp.errors import InputError

DOCUMENT = {
    "id": "run_1",
    "pipeline": "answer",
    "class": "chat",
    "session_id": "s",
    "status": "completed",
    "path": "fast",
    "input": {"question": "why?"},
    "created_at": "2026-11-21T22:00:00.000Z",
    "finished_at": "2026-11-21T22:00:05.000Z",
    "demotion": None,
    "steps": [
        {"name": "search", "started_at": "2026-11-21T22:00:00.000Z", "duration_ms": 1500.0},
        {"name": "write", "started_at": "2026-11-21T22:00:02.000Z", "duration_ms": 2000.0},
    ],
}


def test_a_document_of_a_fast_run_moved_as_long_as_it_took():
    run = recorded(DOCUMENT)
    assert (run.pipeline, run.sla, run.session_id, run.input) == ("answer", "chat", "s", {"question": "why?"})
    assert run.took_s == 5.0
    assert run.steps == (("search", 1.5), ("write", 4.0))


def test_a_document_of_a_deep_run_moved_while_its_steps_executed():
    run = recorded(DOCUMENT | {"path": "deep", "finished_at": "2026-11-21T23:00:00.000Z"})
    assert run.took_s == 3.5
    assert run.steps == (("search", 1.5), ("write", 3.5))


def test_a_document_of_a_demoted_run_moved_on_the_fast_path_too():
    demotion = {"reason": "budget", "at": "2026-11-21T22:00:01.800Z"}
    run = recorded(DOCUMENT | {"path": "deep", "demotion": demotion, "finished_at": "2026-11-21T23:00:00.000Z"})
    assert run.took_s == pytest.approx(3.8)


def test_the_short_form():
    run = recorded({"pipeline": "answer", "took_s": 2, "steps": [["b", 1.5], ["a", 0.5]]})
    assert run == Recorded("answer", "default", None, {}, None, 2.0, (("a", 0.5), ("b", 1.5)))


@pytest.mark.parametrize("change", [{"status": "failed"}, {"status": "running"}, {"retry_of": "run_2"}])
def test_what_tells_nothing_is_left_out(change):
    assert recorded(DOCUMENT | change) is None


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (None, "Expected `object`, got `null`"),
        ([], "Expected `object`, got `array`"),
        ({"took_s": 1}, "missing required field `pipeline`"),
        ({"pipeline": 3, "took_s": 1}, r"at `\$.pipeline`"),
        ({"pipeline": "p"}, "neither 'took_s', nor 'created_at' and 'finished_at'"),
        ({"pipeline": "p", "took_s": -1}, "got -1.0"),
        ({"pipeline": "p", "took_s": float("nan")}, "got nan"),
        ({"pipeline": "p", "took_s": "x"}, "took_s"),
        ({"pipeline": "p", "took_s": 1, "steps": [3]}, r"at `\$\[0\]`"),
        ({"pipeline": "p", "took_s": 1, "created_at": "yesterday"}, "created_at"),
        (DOCUMENT | {"steps": [{}]}, "missing required field `name`"),
        (DOCUMENT | {"path": "deep", "demotion": "budget"}, "demotion"),
    ],
)
def test_anything_else_is_refused_with_what_it_should_be(line, part):
    with pytest.raises(InputError, match=part):
        recorded(line)


def mixed(count, *, seed=1):
    draws = random.Random(seed)
    for number in range(count):
        slow = draws.random() < 0.6
        took_s = draws.uniform(12, 60) if slow else draws.uniform(0.5, 7)
        yield Recorded("answer", "chat", None, {"kind": "slow" if slow else "quick"}, 1e9 + number, took_s, ())


def test_each_way_to_route_is_counted():
    runs = list(mixed(600))
    made = sum(run.took_s <= 8 for run in runs)
    [row] = replay(runs, 8.0, 0.05)
    assert (row["pipeline"], row["class"], row["runs"], row["made"]) == ("answer", "chat", 600, made)
    fast, deep, learned = row["always_fast"], row["always_deep"], row["learned"]
    assert (fast["right"], fast["waited_s"], fast["short_deep"]) == (made, 8.0 * (600 - made), 0)
    assert (deep["right"], deep["waited_s"], deep["short_deep"]) == (600 - made, 0.0, made)
    assert learned["waited_s"] < fast["waited_s"] / 3  # what it costs to learn included
    assert learned["wrong_share"] == round(learned["short_deep"] / made, 4) <= 0.07
    assert learned["share_right"] > 0.85


def test_nothing_is_taken_off_where_none_may_be():
    [row] = replay(mixed(200), 8.0, 0.0)
    assert row["learned"] == {**row["always_fast"], "wrong_share": 0.0}


def test_a_replay_repeats_and_does_not_depend_on_the_order_of_the_lines():
    runs = list(mixed(300))
    shuffled = runs.copy()
    random.Random(2).shuffle(shuffled)
    assert replay(runs, 8.0, 0.05) == replay(shuffled, 8.0, 0.05)


def test_a_run_is_decided_by_those_that_had_ended():
    """A thousand runs accepted at once: nothing is known of any."""
    runs = [run._replace(began=1e9) for run in mixed(1_000)]
    [row] = replay(runs, 8.0, 0.05)
    assert row["learned"]["waited_s"] == row["always_fast"]["waited_s"]


def test_without_a_budget_every_run_goes_deep():
    [row] = replay(mixed(50), 0.0, 0.05)
    assert (row["learned"]["waited_s"], row["learned"]["right"]) == (0.0, row["always_deep"]["right"])


@pytest.mark.parametrize(("budget_s", "share"), [(-1.0, 0.05), (float("nan"), 0.05), (float("inf"), 0.05), (1.0, 1.5)])
def test_a_budget_and_a_share_that_cannot_be_are_refused(budget_s, share):
    with pytest.raises(InputError, match="0 seconds or more"):
        replay([], budget_s, share)


def test_pipelines_and_classes_are_apart():
    runs = [Recorded(name, sla, None, {}, None, 1.0, ()) for name in "ba" for sla in ("y", "x")]
    assert [(row["pipeline"], row["class"], row["runs"]) for row in replay(runs, 1.0, 0.05)] == [
        ("a", "x", 1),
        ("a", "y", 1),
        ("b", "x", 1),
        ("b", "y", 1),
    ]
    assert replay([], 1.0, 0.05) == []


def test_what_the_pipeline_says_of_a_run_distinguishes_short_from_long():
    kinds = [("long", 30.0) if at % 2 else ("short", 1.0) for at in range(300)]
    bare = [{"pipeline": "p", "took_s": took_s} for _, took_s in kinds]
    described = [line | {"features": {"kind": kind}} for line, (kind, _) in zip(bare, kinds, strict=True)]
    (knowing,), (blind,) = (replay(map(recorded, lines), 8.0, 0.05) for lines in (described, bare))
    assert knowing["learned"]["waited_s"] < blind["learned"]["waited_s"]


def test_a_replay_keeps_of_a_session_only_what_its_next_run_is_compared_by(monkeypatch):
    sessions = []
    monkeypatch.setattr(replayed, "features", lambda *given: sessions.append(given[-1]) or features(*given))
    replay([Recorded("answer", "chat", "s", {}, None, number / 100, ()) for number in range(50)], 1.0, 0.05)
    assert (sessions[0], sessions[-1]) == (Session(0), Session(49, (0.48, 0.47, 0.46)))
