"""The decision at the entry, held against what it promises and not against how it is made."""

from __future__ import annotations

from enum import StrEnum

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.belief import Estimate
from offramp.core.routing import (
    REASON_LENGTH_MAX,
    STAYS,
    Answer,
    Facts,
    Load,
    Stay,
    Unusable,
    answer_of,
    decide,
)
from offramp.core.run import Route

seconds = st.floats(0, 100)
paths = st.sampled_from(["fast", "deep"])
priorities = st.integers(-1, 1)
stays = st.none() | st.builds(Stay, st.just("run_longest"), seconds, priorities)
loads = st.builds(
    Load,
    *(st.integers(0, 12), st.integers(1, 4), st.integers(0, 12), seconds, stays, st.booleans()),
    *(priorities, st.integers(0, 5), st.none() | st.integers(1, 5), st.integers(0, 3)),
)
answers = st.none() | st.builds(Answer, paths, st.just("because"), st.none() | seconds)
estimates = st.none() | st.builds(
    Estimate, seconds, seconds, st.floats(0, 1), st.integers(1, 500), st.just(("seen before",))
)
verdicts = st.none() | st.sampled_from(["stay", "demote", "control"])
ROOM = Load(0, 1)


everything = st.builds(
    Facts, st.just("c"), seconds, st.booleans(), st.booleans(), answers, answers, estimates, verdicts
)


def wanted(facts):
    """The path and the reason by the documented order, without the load."""
    if facts.respond_async:
        return "deep", "preference"
    if facts.own_budget:
        return ("fast" if facts.budget_s > 0 else "deep"), "preference"
    if facts.budget_s == 0:
        return "deep", "class"
    for by in ("rule", "classifier"):
        if (answer := getattr(facts, by)) is not None:
            return answer.path, by
    if facts.estimate is not None and facts.verdict is not None:
        return ("deep" if facts.verdict == "demote" else "fast"), "learned"
    return "fast", "default"


@given(everything)
def test_with_room_the_first_that_answers_decides(facts):
    decision = decide(facts, ROOM)
    assert (decision.path, decision.by) == wanted(facts)


@given(everything, loads)
def test_the_load_keeps_runs_off_the_fast_path_and_puts_none_on_it(facts, load):
    path, by = wanted(facts)
    decision = decide(facts, load)
    assert decision.by in {by, "load"}
    assert (decision.by == "load") == (decision.path != path)
    assert path == "fast" or decision.path == "deep"


@given(everything, loads)
def test_every_decision_has_a_reason_and_displaces_a_run_only_for_one_that_goes_fast(facts, load):
    decision = decide(facts, load)
    assert decision.reasons
    assert decision.displaces is None or (decision.path, load.held >= load.most) == ("fast", True)


@given(everything, loads)
def test_at_most_twice_as_many_runs_as_fit_are_let_onto_the_fast_path(facts, load):
    assert decide(facts, load).path != "fast" or load.held < 2 * load.most


@given(everything, loads)
def test_only_a_request_for_the_fast_path_is_refused_for_its_tenants_share(facts, load):
    assert (decide(facts, load).path == "refused") is (wanted(facts)[0] == "fast" and load.share_is_taken)


@given(everything, loads)
def test_of_a_full_path_and_the_new_run_the_lowest_class_goes_deep_and_of_one_class_the_longest(facts, load):
    decision, leaver = decide(facts, load), load.leaver
    if decision.displaces is not None:
        assert ("a higher class" in decision.gave_way) is (leaver.priority < load.priority)
        assert (-leaver.priority, leaver.rest_s) > (-load.priority, load.expected_s)
        assert not load.ahead, "requests that wait go first"
    if decision.by == "load" and decision.path == "deep" and load.held < 2 * load.most:
        stays = leaver is None or (-leaver.priority, leaver.rest_s) <= (-load.priority, load.expected_s)
        assert stays or load.ahead or load.class_is_full
        assert decision.predicted == decide(facts, ROOM).predicted, "the load foretells nothing about a run"
        assert decision.predicted or "expected to take longest" not in decision.reasons[-1]


@given(everything, loads)
def test_a_class_never_has_more_runs_on_the_path_than_its_concurrency(facts, load):
    decision = decide(facts, load)
    if load.class_is_full:
        assert decision.path != "fast"
        assert decision.path == "refused" or decision.by != "load" or "its concurrency" in decision.reasons[-1]


@given(everything, loads)
def test_a_prediction_is_recorded_with_the_runs_that_it_rests_on(facts, load):
    decision = decide(facts, load)
    if decision.path == "refused":
        return
    shown = decision.route().shown()
    assert (shown.path, shown.by, shown.reasons) == (decision.path, decision.by, decision.reasons)
    if decision.by == "learned":
        estimate = facts.estimate
        assert shown.predicted_ms.p50 == pytest.approx(estimate.p50_s * 1000, abs=0.001)
        assert shown.predicted_ms.p95 == pytest.approx(estimate.p95_s * 1000, abs=0.001)
        assert shown.confidence == estimate.runs
    if decision.by in {"preference", "class"}:
        assert (shown.predicted_ms, shown.confidence) == (None, 0)


@pytest.mark.parametrize(
    ("chance", "verdict", "is_told"), [(0.2, "stay", True), (0.6, "stay", False), (0.2, "demote", False)]
)
def test_a_run_that_stays_against_the_odds_says_so(chance, verdict, is_told):
    estimate = Estimate(9.0, 12.0, chance, 30, ("30 of the last 30 runs like this took longer than 2 s",))
    route = decide(Facts("c", 2.0, estimate=estimate, verdict=verdict), Load(0, 1)).route()
    assert (STAYS in route.reasons) == is_told


def test_a_refused_request_has_no_route():
    with pytest.raises(ValueError, match="no route"):
        decide(Facts("c", 1.0), Load(0, 1, share_is_taken=True)).route()


class Where(StrEnum):
    DEEP = "deep"


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (None, None),
        ("fast", Answer("fast", "rule 'r' says fast")),
        (Where.DEEP, Answer("deep", "rule 'r' says deep")),
        (("deep", "more than 3 files"), Answer("deep", "more than 3 files")),
        (("deep", "  "), Answer("deep", "rule 'r' says deep")),
        (("deep", "x" * 1000), Answer("deep", "x" * REASON_LENGTH_MAX)),
        (("deep", "half of \ud83d"), Answer("deep", "half of ?")),
        (6, Answer("fast", "rule 'r' expects 6 s, within the budget of 6 s", 6.0)),
        (6.5, Answer("deep", "rule 'r' expects 6.5 s, above the budget of 6 s", 6.5)),
    ],
)
def test_what_a_function_says_is_understood(returned, expected):
    assert answer_of(returned, "rule 'r'", 6.0) == expected


@pytest.mark.parametrize(
    "returned",
    [True, "FAST", "", b"deep", ("deep",), ("deep", None), ["deep", "x"], -1, float("nan"), float("inf"), {}],
)
def test_nonsense_is_refused_without_repeating_it(returned):
    with pytest.raises(Unusable, match="has to return") as caught:
        answer_of(returned, "rule 'r'", 6.0)
    assert not returned or str(returned) not in str(caught.value).partition("got")[2]


def test_a_route_of_an_earlier_version_is_shown_in_the_present_form():
    stored = msgspec.msgpack.encode({"path": "deep", "reasons": ["full"], "predicted_ms": 60_000.0})
    shown = msgspec.to_builtins(msgspec.msgpack.decode(stored, type=Route).shown())
    assert shown == {
        "path": "deep",
        "by": "default",
        "reasons": ["full"],
        "predicted_ms": {"p50": 60_000.0, "p95": None},
        "confidence": 0,
    }


def test_a_process_of_an_earlier_version_reads_a_route_of_this_one():
    class Earlier(msgspec.Struct):
        path: str
        reasons: list[str]
        predicted_ms: float | None = None

    stored = msgspec.msgpack.encode(Route("deep", ["slow"], 9_000.0, "learned", 20_000.0, 200))
    assert msgspec.msgpack.decode(stored, type=Earlier) == Earlier("deep", ["slow"], 9_000.0)


def test_a_rule_does_not_answer_with_seconds():
    with pytest.raises(Unusable, match="has to return"):
        answer_of(6.0, "rule 'r'")


@pytest.mark.parametrize(
    ("chance", "verdict", "says"), [(0.1, "stay", True), (0.1, "demote", False), (0.9, "stay", False)]
)
def test_a_run_that_goes_fast_against_its_reasons_says_why(chance, verdict, says):
    estimate = Estimate(9.0, 9.0, chance, 30, ("30 of 30 took longer",))
    decision = decide(Facts("c", 2.0, estimate=estimate, verdict=verdict), ROOM)
    assert ("early_demotion" in decision.reasons[-1]) is says
