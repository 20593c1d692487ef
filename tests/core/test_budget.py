from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.sla import DEFAULT_CLASS, SLA, budget_s
from offramp.errors import DeclarationError, InputError

seconds = st.floats(0, 100)
maybe = st.none() | seconds


@given(seconds, maybe, maybe, seconds)
def test_the_request_beats_the_pipeline_beats_the_class(declared, pipeline, asked, most):
    sla = SLA("c", budget=declared)
    if asked is not None and asked > most:
        with pytest.raises(InputError) as caught:
            budget_s(sla, pipeline, asked, most)
        assert caught.value.errors[0][0] == "/budget"
        return
    chosen = budget_s(sla, pipeline, asked, most)
    assert chosen == (asked if asked is not None else min(most, declared if pipeline is None else pipeline))


@pytest.mark.parametrize("asked", [-0.1, float("nan"), float("inf"), 60.1])
def test_a_budget_nobody_can_have_is_refused_with_the_limit_and_the_setting(asked):
    with pytest.raises(InputError, match=r"0 to 60 seconds \(OFFRAMP_MAX_BUDGET\)"):
        budget_s(DEFAULT_CLASS, None, asked, 60.0)


def test_the_largest_budget_may_be_asked_for():
    assert budget_s(DEFAULT_CLASS, None, 60.0, 60.0) == 60.0


def test_the_default_is_six_seconds():
    assert budget_s(DEFAULT_CLASS, None, None, 60.0) == 6.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "no spaces"}, "SLA class name"),
        ({"budget": -1}, "budget="),
        ({"budget": float("nan")}, "budget="),
        ({"budget": "6"}, "budget="),
        ({"p95": 0}, "p95="),
        ({"p95": float("inf")}, "p95="),
        ({"p95": "2"}, "p95="),
        ({"priority": 1.5}, "priority="),
        ({"priority": 2**80}, "priority="),
    ],
)
def test_a_class_that_could_not_work_is_refused(values, message):
    with pytest.raises(DeclarationError, match=message):
        SLA(**({"name": "c"} | values))
