"""What an SLA class takes and refuses."""

import pytest

from offramp import SLA
from offramp.errors import DeclarationError


def test_a_class_has_the_documented_defaults():
    sla = SLA("default")
    assert (sla.p50, sla.p95, sla.p99, sla.budget, sla.priority) == (None, None, None, 6.0, 0)
    assert (sla.concurrency, sla.queue_limit, sla.min_warm) == (None, None, 0)
    assert (sla.patience, sla.share, sla.early_demotion) == (60, 0.05, 0.05)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("p50", 0, "above 0"),
        ("p95", float("nan"), "above 0"),
        ("p99", "4", "above 0"),
        ("budget", -1, "0 or more"),
        ("budget", True, "0 or more"),
        ("priority", 1_001, "from -1000 to 1000"),
        ("priority", 1.5, "from -1000 to 1000"),
        ("concurrency", 0, "above 0, or None"),
        ("queue_limit", 1.5, "above 0, or None"),
        ("patience", float("inf"), "0 or more"),
        ("share", 0, "above 0 and below 1"),
        ("share", 1, "above 0 and below 1"),
        ("early_demotion", 1.1, "from 0 to 1"),
        ("min_warm", -1, "0 or more"),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_error_says_what_is_taken(field, value, rule):
    with pytest.raises(DeclarationError, match=rf"SLA\('batch', {field}=\) .*{rule}, got {value!r}"):
        SLA("batch", **{field: value})


@pytest.mark.parametrize("targets", [{"p50": 3, "p95": 2}, {"p95": 3, "p99": 2}, {"p50": 3, "p99": 2}])
def test_a_target_above_that_of_a_higher_percentile_is_refused(targets):
    with pytest.raises(DeclarationError, match=r"is at most p9[59] \(2\), got 3"):
        SLA("batch", **targets)
