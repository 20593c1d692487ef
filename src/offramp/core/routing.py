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
