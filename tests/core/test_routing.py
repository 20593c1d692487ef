"""The decision at the entry, held against what it promises and not against how it is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.routing import Facts, Load, Stay, decide

seconds = st.floats(0, 100)
stays = st.none() | st.builds(Stay, st.just("run_longest"), seconds)
loads = st.builds(Load, st.integers(0, 12), st.integers(1, 4), st.integers(0, 12), stays, st.booleans())
everything = st.builds(Facts, st.booleans(), seconds, st.just("c"), seconds, loads)
ROOM = Load(0, 1)


@given(st.booleans(), seconds)
def test_with_room_a_run_goes_fast_exactly_when_it_has_a_budget_and_its_client_waits(respond_async, budget):
    decision = decide(Facts(respond_async, budget, "c", 1.0, ROOM))
    assert decision.path == ("fast" if budget > 0 and not respond_async else "deep")
    assert len(decision.reasons) == 1


@given(everything)
def test_every_decision_has_a_reason_and_displaces_a_run_only_for_one_that_goes_fast(facts):
    decision = decide(facts)
    assert decision.reasons
    assert decision.displaces is None or (decision.path, facts.load.held >= facts.load.most) == ("fast", True)


@given(everything)
def test_at_most_twice_as_many_runs_as_fit_are_let_onto_the_fast_path(facts):
    assert decide(facts).path != "fast" or facts.load.held < 2 * facts.load.most


@given(everything)
def test_only_a_request_for_the_fast_path_is_refused_for_its_tenants_share(facts):
    wants_fast = facts.budget_s > 0 and not facts.respond_async
    assert (decide(facts).path == "refused") is (wants_fast and facts.load.share_is_taken)


@given(everything)
def test_of_a_full_path_and_the_new_run_the_longest_goes_deep(facts):
    decision, load = decide(facts), facts.load
    if decision.displaces is not None:
        assert load.longest.rest_s > facts.expected_s
    if decision.path == "deep" and facts.budget_s > 0 and not facts.respond_async and load.held < 2 * load.most:
        assert load.longest is None or load.longest.rest_s <= facts.expected_s
        assert decision.predicted_ms == pytest.approx(facts.expected_s * 1000, abs=0.001)


def test_a_refused_request_has_no_route():
    with pytest.raises(ValueError, match="no route"):
        decide(Facts(False, 1.0, "c", 1.0, Load(0, 1, share_is_taken=True))).route()
