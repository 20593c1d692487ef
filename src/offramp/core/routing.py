"""Fast or deep: from what is known when a run is accepted to a decision with its reasons. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.core.run import Route


@dataclass(frozen=True, slots=True)
class Features:
    """What the router knows.

    Args:
        respond_async: the client asked for an answer at once (`Prefer: respond-async`, RFC 7240).
        budget_s: the run's budget in seconds.
        sla: its class.
    """

    respond_async: bool
    budget_s: float
    sla: str


def decide(features: Features) -> Route:
    """Where the run goes; the reasons are sentences for a person."""
    if features.respond_async:
        return Route("deep", ["the client asked for respond-async"])
    if features.budget_s <= 0:
        return Route("deep", [f"no budget for the fast path (class {features.sla!r})"])
    return Route("fast", [f"a budget of {features.budget_s:g} s (class {features.sla!r})"])


WEIGHT = 0.1
"""What one run counts in the moving average of its pipeline's durations."""


class Durations:
    """How long runs of each pipeline took lately: an exponentially weighted moving average."""

    def __init__(self) -> None:
        self._average_s: dict[str, float] = {}

    def observe(self, pipeline: str, seconds: float) -> None:
        """A run of this pipeline took so long."""
        before = self._average_s.get(pipeline, seconds)
        self._average_s[pipeline] = before + WEIGHT * (seconds - before)

    def expected_s(self, pipeline: str, otherwise: float) -> float:
        """Seconds that a run of this pipeline is expected to take; `otherwise` while none was seen."""
        return self._average_s.get(pipeline, otherwise)
