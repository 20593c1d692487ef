"""Fast or deep: from what is known when a run is accepted to a decision with its reasons. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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


class Observed(NamedTuple):
    """Runs of a pipeline that ended: their own average, and its share (0 to 1) of one that includes those before."""

    pipeline: str
    share: float
    seconds: float

    def moved(self, average: float | None) -> float:
        """The average with these runs, exponentially weighted; None where there was none."""
        return self.seconds if average is None else average + self.share * (self.seconds - average)

    def and_run(self, seconds: float) -> Observed:
        """These and one more run: counted at once they move an average as far as one by one."""
        share = self.share + WEIGHT * (1 - self.share)  # 1 - (1 - WEIGHT)^n after n runs
        mean = ((1 - WEIGHT) * self.share * self.seconds + WEIGHT * seconds) / share
        return Observed(self.pipeline, share, mean)
