"""Fast or deep: from the facts known at acceptance to a decision with its reasons. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from offramp.core.run import Route


@dataclass(frozen=True, slots=True)
class Stay:
    """A run on the fast path, and for how many seconds it is expected to stay there."""

    run_id: str
    rest_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a process's fast path.

    Args:
        held: runs that have a place on it, or are about to leave one.
        most: the limit; up to twice as many are held while those above `most` leave.
        staying: the held runs that are not about to leave.
        longest: the one that is expected to stay longest; looked up only when the path is full.
        share_is_taken: this request's tenant has its share of the path.
    """

    held: int
    most: int
    staying: int = 0
    longest: Stay | None = None
    share_is_taken: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that a decision rests on; gathered before it.

    Args:
        respond_async: the client asked for an answer at once (`Prefer: respond-async`, RFC 7240).
        budget_s: the run's budget in seconds.
        sla: its class.
        expected_s: seconds that runs of its pipeline take.
        load: of the fast path.
    """

    respond_async: bool
    budget_s: float
    sla: str
    expected_s: float
    load: Load


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a run goes, and why.

    Args:
        path: or `refused`: the request is not taken.
        reasons: sentences for a person.
        predicted_ms: the expected duration of the run, if that decided.
        displaces: id of the run that has to leave the fast path for it.
    """

    path: Literal["fast", "deep", "refused"]
    reasons: list[str]
    predicted_ms: float | None = None
    displaces: str | None = None

    def route(self) -> Route:
        """The recorded form.

        Raises:
            ValueError: the request was refused.
        """
        if self.path == "refused":
            raise ValueError("a refused request has no route")
        return Route(self.path, self.reasons, self.predicted_ms)


def decide(facts: Facts) -> Decision:
    """Where the run goes."""
    if facts.respond_async:
        return Decision("deep", ["the client asked for respond-async"])
    if facts.budget_s <= 0:
        return Decision("deep", [f"no budget for the fast path (class {facts.sla!r})"])
    reasons = [f"a budget of {facts.budget_s:g} s (class {facts.sla!r})"]
    load = facts.load
    if load.share_is_taken:
        return Decision("refused", [SHARE_IS_TAKEN])
    if load.held < load.most:
        return Decision("fast", reasons)
    if load.held < 2 * load.most:
        if load.staying < load.most:
            return Decision("fast", reasons)
        if load.longest is not None and load.longest.rest_s > facts.expected_s:
            return Decision("fast", reasons, displaces=load.longest.run_id)
    full = f"the fast path is full ({load.most} runs, OFFRAMP_FAST_RUNS) and this run is expected to take longest"
    return Decision("deep", [*reasons, full], round(facts.expected_s * 1000, 3))


SHARE_IS_TAKEN = (
    "your runs have your share of this gateway's fast path (OFFRAMP_TENANT_SHARE): try again when one has ended, or "
    "with Prefer: respond-async"
)
