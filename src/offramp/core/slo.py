"""Service levels: which runs keep a class's promise, and how fast the others spend its error budget.

A class with a target (`p95=`) promises that `OBJECTIVE` of its runs complete within it. Burn rates and the rule over
two windows are those of the SRE workbook, chapter 5, "Alerting on SLOs" (sre.google/workbook/alerting-on-slos).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from offramp.core.run import OutcomeStatus
from offramp.core.sla import SLA

ERROR_BUDGET = 0.05
OBJECTIVE = 1 - ERROR_BUDGET
"""The share of runs that must meet a class's target, which is a 95th percentile."""
MINUTE_S = 60

WINDOWS: dict[str, int] = {"5m": 5, "30m": 30, "1h": 60, "6h": 360, "24h": 1440, "3d": 4320, "30d": 43_200}
"""The windows of a class in minutes; the longest is the period of its error budget."""
BUDGET_WINDOW = "30d"


class Counts(NamedTuple):
    """Runs that kept a promise, and runs that did not."""

    good: int = 0
    bad: int = 0

    @property
    def total(self) -> int:
        """All runs that count."""
        return self.good + self.bad

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(self.good + other.good, self.bad + other.bad)


class Rule(NamedTuple):
    """An alert fires when a class burned its budget `threshold` times too fast over both windows.

    The long window makes it significant, the short one ends the alarm soon after the trouble has ended.
    """

    severity: Literal["page", "ticket"]
    long: str
    short: str
    threshold: float

    def fires(self, burn_rates: Mapping[str, float]) -> bool:
        """Whether the alert fires, given burn rates by window."""
        return burn_rates[self.long] > self.threshold and burn_rates[self.short] > self.threshold


# Table 5-8 of the workbook: 2%, 5% and 10% of the 30 days' budget, spent within the long window.
RULES = (Rule("page", "1h", "5m", 14.4), Rule("page", "6h", "30m", 6.0), Rule("ticket", "3d", "6h", 1.0))


def minute_of(at: float) -> int:
    """The minute of a time in epoch seconds."""
    return int(at // MINUTE_S)


def keeps_promise(sla: SLA | None, status: OutcomeStatus, seconds: float) -> bool | None:
    """Whether a run kept its class's promise, so many seconds after its acceptance; None if it does not count.

    Failed and expired runs broke it. Cancelled ones do not count: the caller no longer wanted the answer.
    """
    if sla is None or sla.p95 is None or status == "cancelled":
        return None
    return status == "completed" and seconds <= sla.p95


def within_target(counts: Counts) -> float | None:
    """The share of runs that kept the promise; None without runs."""
    return counts.good / counts.total if counts.total else None


def burn_rate(counts: Counts) -> float:
    """How many times faster than allowed the error budget is spent: 1 is just allowed, 20 every run; 0 without runs."""
    return counts.bad / counts.total / ERROR_BUDGET if counts.total else 0.0


def budget_left(counts: Counts) -> float:
    """The share of the error budget that is left after these runs; below 0 when more was spent than there was."""
    return 1.0 - burn_rate(counts)
