"""SLA classes and the budget that follows from class, pipeline and request."""

from __future__ import annotations

import math
from dataclasses import dataclass

from offramp.core.names import require_name
from offramp.errors import DeclarationError, InputError

BUDGET_DEFAULT_S = 6.0
BUDGET_MAX_DEFAULT_S = 60.0
PRIORITY_MAX = 1_000


@dataclass(frozen=True, slots=True)
class SLA:
    """One class of service.

    Args:
        name: what requests and pipelines call it.
        p95: target in seconds for the 95th percentile of a run's duration; None for no target.
        budget: seconds a run of this class may stay on the fast path; 0 sends it to the deep path at once.
        priority: order in which queued deep runs are taken, higher first.

    Raises:
        DeclarationError: a value is out of range.
    """

    name: str
    p95: float | None = None
    budget: float = BUDGET_DEFAULT_S
    priority: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require_name("SLA class", self.name)
        if not (isinstance(self.budget, (int, float)) and math.isfinite(self.budget) and self.budget >= 0):
            raise DeclarationError(f"SLA({self.name!r}, budget=) is in seconds, 0 or more, got {self.budget!r}")
        p95 = self.p95
        if p95 is not None and not (isinstance(p95, (int, float)) and math.isfinite(p95) and p95 > 0):
            raise DeclarationError(f"SLA({self.name!r}, p95=) is in seconds, above 0, got {p95!r}")
        if not isinstance(self.priority, int) or abs(self.priority) > PRIORITY_MAX:
            raise DeclarationError(
                f"SLA({self.name!r}, priority=) is a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}, "
                f"got {self.priority!r}"
            )


DEFAULT_CLASS = SLA("default")


def budget_s(
    sla: SLA, pipeline_budget: float | None, requested: float | None, wait: float | None, budget_max: float
) -> float:
    """The run's budget in seconds: the request's, else the pipeline's, else the class's; `wait` only lowers it.

    Raises:
        InputError: the requested budget is negative, not finite or above `budget_max`.
    """
    if requested is not None and not (math.isfinite(requested) and 0 <= requested <= budget_max):
        message = f"budget is from 0 to {budget_max:g} seconds (OFFRAMP_MAX_BUDGET), got {requested!r}"
        raise InputError(message, [("/budget", message)])
    declared = sla.budget if pipeline_budget is None else pipeline_budget
    chosen = min(declared, budget_max) if requested is None else requested
    return chosen if wait is None else min(chosen, wait)
