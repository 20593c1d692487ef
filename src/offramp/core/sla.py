"""SLA classes and the budget that follows from class, pipeline and request."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from offramp.core.names import require_name
from offramp.errors import DeclarationError, InputError

BUDGET_DEFAULT_S = 6.0
PRIORITY_MAX = 1_000
MIN_WARM_MAX = 256
PATIENCE_DEFAULT_S = 60.0
SHARE_DEFAULT = 0.05
EARLY_DEMOTION_DEFAULT = 0.05


@dataclass(frozen=True, slots=True)
class SLA:
    """One class of service.

    Args:
        name: what requests and pipelines call it.
        p50: target in seconds for the median of a run's duration; None for no target.
        p95: the same for the 95th percentile.
        p99: the same for the 99th percentile.
        budget: seconds a run of this class may stay on the fast path; 0 sends it to the deep path at once.
        priority: the order of classes in every queue, higher first.
        concurrency: runs of this class that one gateway executes on its fast path at once; None for no limit of its
            own.
        queue_limit: runs of this class that may wait in a queue; None for no limit of its own. The longest wait grows
            with it, see `core.order.longest_wait_s`.
        patience: seconds from its acceptance after which a run that waits makes this class overdue.
        share: the part of what a queue grants that goes to this class while its oldest run is overdue.
        early_demotion: the share of the runs that would have made their budget that may be sent to the deep path
            because they are expected to miss it, at acceptance and under way together; 0 for none.
        min_warm: worker processes, and processes of each process lane, that are kept warm for this class.

    Raises:
        DeclarationError: a value is out of range.
    """

    name: str
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    budget: float = BUDGET_DEFAULT_S
    priority: int = 0
    concurrency: int | None = None
    queue_limit: int | None = None
    patience: float = PATIENCE_DEFAULT_S
    share: float = SHARE_DEFAULT
    early_demotion: float = EARLY_DEMOTION_DEFAULT
    min_warm: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require_name("SLA class", self.name)
        targets = {"p50": self.p50, "p95": self.p95, "p99": self.p99}
        for field, target in targets.items():
            if target is not None and not (_is_number(target) and target > 0):
                raise self._refusal(field, "is in seconds, above 0", target)
        declared = [(field, target) for field, target in targets.items() if target is not None]
        for (lower, smaller), (upper, larger) in itertools.pairwise(declared):
            if smaller > larger:
                raise self._refusal(lower, f"is at most {upper} ({larger:g})", smaller)
        self._require("budget", "is in seconds, 0 or more", _is_number(self.budget) and self.budget >= 0)
        self._require(
            "priority",
            f"is a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}",
            _is_whole(self.priority) and abs(self.priority) <= PRIORITY_MAX,
        )
        for field, limit in {"concurrency": self.concurrency, "queue_limit": self.queue_limit}.items():
            if limit is not None and not (_is_whole(limit) and limit > 0):
                raise self._refusal(field, "is a whole number, above 0, or None", limit)
        self._require("patience", "is in seconds, 0 or more", _is_number(self.patience) and self.patience >= 0)
        self._require("share", "is above 0 and below 1", _is_number(self.share) and 0 < self.share < 1)
        early = self.early_demotion
        self._require("early_demotion", "is from 0 to 1", _is_number(early) and 0 <= early <= 1)
        warm = self.min_warm
        rule = f"is a whole number up to {MIN_WARM_MAX}, 0 or more"
        self._require("min_warm", rule, _is_whole(warm) and 0 <= warm <= MIN_WARM_MAX)

    def _require(self, field: str, rule: str, holds: bool) -> None:  # noqa: FBT001
        if not holds:
            raise self._refusal(field, rule, getattr(self, field))

    def _refusal(self, field: str, rule: str, given: object) -> DeclarationError:
        return DeclarationError(f"SLA({self.name!r}, {field}=) {rule}, got {given!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


DEFAULT_CLASS = SLA("default")
NO_CLASSES: Mapping[str, SLA] = MappingProxyType({})


def budget_s(sla: SLA, pipeline_budget: float | None, requested: float | None, budget_max: float) -> float:
    """The run's budget in seconds: the request's, else the pipeline's, else the class's.

    Raises:
        InputError: the requested budget is negative, not finite or above `budget_max`.
    """
    if requested is None:
        return min(sla.budget if pipeline_budget is None else pipeline_budget, budget_max)
    if not (math.isfinite(requested) and 0 <= requested <= budget_max):
        message = f"budget is from 0 to {budget_max:g} seconds (OFFRAMP_MAX_BUDGET), got {requested!r}"
        raise InputError(message, [("/budget", message)])
    return requested
