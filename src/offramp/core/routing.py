"""Fast or deep: from what is known of a request to a decision with its reasons. Pure.

Asked in this order: the client's preference, the class, the user's rules, the user's classifier, what was learned, the
load. The first that answers decides, but only the load knows whether the fast path has room.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from offramp.core.belief import Estimate
from offramp.core.harm import CHANCE_MAX, Verdict
from offramp.core.run import By, Path, Route, Seen

REASON_LENGTH_MAX = 300
"""Characters of a reason that a user's rule or classifier gives; the rest is cut."""


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """A request for a run, as the rules and the classifier of an app get it.

    Args:
        pipeline: its name.
        input: the pipeline's arguments by parameter name, validated and typed as the pipeline gets them.
        session_id: the conversation that the run belongs to, if any.
        metadata: what the client stored with the run.
        sla: the name of its class.
        budget_s: seconds that it may take on the fast path.
        tenant: its owner; empty without keys.
        known_runs: ended runs that the learned estimate would rest on if it decided; 0 if it may not.
    """

    pipeline: str
    input: dict[str, Any]
    session_id: str | None
    metadata: dict[str, str]
    sla: str
    budget_s: float
    tenant: str
    known_runs: int = 0


class Unusable(ValueError):
    """A user's function returned what no decision can use; the message names no value."""


class Answer(msgspec.Struct, frozen=True):
    """The answer of a user's rule or classifier, with the expected duration if it gave one."""

    path: Path
    reason: str
    expected_s: float | None = None


class Stay(msgspec.Struct, frozen=True):
    """A run on the fast path, for how many seconds it is expected to stay there, and the priority of its class."""

    run_id: str
    rest_s: float
    priority: int = 0


class Load(msgspec.Struct, frozen=True):
    """The load of a process's fast path.

    Args:
        held: runs that have a place on it, or are about to leave one.
        most: the limit; up to twice as many are held while those above `most` leave.
        staying: the held runs that are not about to leave.
        expected_s: seconds that the new run is expected to stay.
        leaver: of the lowest class on it, the run that is expected to stay longest; looked up only when it is full.
        share_is_taken: this request's tenant has its share of the path.
        priority: of the new run's class.
        of_class: runs of that class that have a place.
        concurrency: the limit of that class.
        ahead: requests that wait for a place and go before the new one.
    """

    held: int
    most: int
    staying: int = 0
    expected_s: float = 0.0
    leaver: Stay | None = None
    share_is_taken: bool = False
    priority: int = 0
    of_class: int = 0
    concurrency: int | None = None
    ahead: int = 0

    @property
    def class_is_full(self) -> bool:
        """Whether the class has as many runs on the path as it may."""
        return self.concurrency is not None and self.of_class >= self.concurrency


class Facts(msgspec.Struct, frozen=True):
    """The facts that a decision rests on; gathered before it.

    Args:
        sla: the class of the run.
        budget_s: its budget in seconds.
        respond_async: the client asked for an answer at once (`Prefer: respond-async`, RFC 7240).
        own_budget: the request names its budget.
        rule: the answer of the first of the app's rules that gave one.
        classifier: the answer of the app's classifier.
        estimate: what was learned from earlier runs.
        verdict: whether that sends the run deep; None where it gives no cause to ask, `stay` until it is asked.
        seen: what the run is compared by, beside its input.
    """

    sla: str
    budget_s: float
    respond_async: bool = False
    own_budget: bool = False
    rule: Answer | None = None
    classifier: Answer | None = None
    estimate: Estimate | None = None
    verdict: Verdict | None = None
    seen: Seen | None = None


class Decision(msgspec.Struct, frozen=True):
    """Where a run goes, and why.

    Args:
        path: or `refused`: the request is not taken.
        reasons: sentences for a person.
        by: what decided.
        predicted: its expected duration in seconds, median and 95th percentile, as far as they are known.
        confidence: how many runs the prediction rests on.
        displaces: id of the run that has to leave the fast path for it.
        gave_way: the reason for that.
    """

    path: Literal["fast", "deep", "refused"]
    reasons: list[str]
    by: By
    predicted: tuple[float, float | None] | None = None
    confidence: int = 0
    displaces: str | None = None
    gave_way: str = ""

    def route(self) -> Route:
        """The recorded form.

        Raises:
            ValueError: the request was refused.
        """
        if self.path == "refused":
            raise ValueError("a refused request has no route")
        p50_s, p95_s = self.predicted or (None, None)
        return Route(self.path, self.reasons, _ms(p50_s), self.by, _ms(p95_s), self.confidence)


def decide(facts: Facts, load: Load) -> Decision:
    """Where the run goes."""
    decision = asked(facts) or answered(facts) or learned(facts)
    return placed(decision, load) if decision.path == "fast" else decision


def asked(facts: Facts) -> Decision | None:
    """What the client's preference or the class decides; None if neither does."""
    if facts.respond_async:
        return Decision("deep", ["the client asked for respond-async"], "preference")
    if facts.own_budget:
        path: Path = "fast" if facts.budget_s > 0 else "deep"
        return Decision(path, [f"the client asked for a budget of {facts.budget_s:g} s"], "preference")
    if facts.budget_s <= 0:
        return Decision("deep", [f"no budget for the fast path (class {facts.sla!r})"], "class")
    return None


def answered(facts: Facts) -> Decision | None:
    """What the user's rules or classifier decide; None if they do not."""
    answer = facts.rule or facts.classifier
    if answer is None:
        return None
    by: By = "classifier" if facts.rule is None else "rule"
    predicted = None if answer.expected_s is None else (answer.expected_s, None)
    return Decision(answer.path, [answer.reason], by, predicted)


def learned(facts: Facts) -> Decision:
    """What earlier runs decide; without any, or a verdict on them, the run goes fast."""
    estimate, budget = facts.estimate, [f"a budget of {facts.budget_s:g} s (class {facts.sla!r})"]
    if estimate is None:
        return Decision("fast", budget, "default")
    predicted = estimate.p50_s, estimate.p95_s
    if facts.verdict is None:
        return Decision("fast", budget, "default", predicted, estimate.runs)
    path: Path = "deep" if facts.verdict == "demote" else "fast"
    reasons = list(estimate.reasons)
    if facts.verdict == "control":
        reasons.append(CONTROL)
    elif facts.verdict == "stay" and estimate.chance < CHANCE_MAX:
        reasons.append(STAYS)
    return Decision(path, reasons, "learned", predicted, estimate.runs)


def placed(wanted: Decision, load: Load) -> Decision:
    """The decision for the fast path as far as the load allows it."""
    if load.share_is_taken:
        return Decision("refused", [SHARE_IS_TAKEN], "load")
    if load.class_is_full:
        runs = "1 run" if load.of_class == 1 else f"{load.of_class} runs"
        full = f"its class has {runs} on this gateway's fast path, its concurrency"
    else:
        if load.held + load.ahead < load.most:
            return wanted
        if load.held < 2 * load.most:
            if load.staying + load.ahead < load.most:
                return wanted
            if load.leaver is not None and not load.ahead and _gives_way(load.leaver, load):
                is_lower = load.leaver.priority < load.priority
                return replace(wanted, displaces=load.leaver.run_id, gave_way=GAVE_WAY_UP if is_lower else GAVE_WAY)
        rank = _rank(load, is_predicted=wanted.predicted is not None)
        full = f"the fast path is full ({load.most} runs, OFFRAMP_FAST_RUNS){rank}"
    return Decision("deep", [*wanted.reasons, full], "load", wanted.predicted, wanted.confidence)


def _gives_way(leaver: Stay, load: Load) -> bool:
    """Whether a run goes deep for the new one: of a lower class always, of the same one if it stays longer."""
    if leaver.priority != load.priority:
        return leaver.priority < load.priority
    return leaver.rest_s > load.expected_s


def _rank(load: Load, *, is_predicted: bool) -> str:
    if load.leaver is not None and load.leaver.priority > load.priority:
        return " and its runs are of higher classes"
    if load.ahead:
        return " and requests wait for it"
    return " and this run is expected to take longest" if is_predicted else ""


def answer_of(returned: Any, source: str, budget_s: float | None = None) -> Answer | None:
    """What a user's function answered; None if it leaves the decision to others.

    Args:
        returned: `"fast"`, `"deep"`, a pair of one of these and a reason, expected seconds, or None.
        source: the function, as reasons name it.
        budget_s: the budget of the run; None for a function that may not answer with seconds.

    Raises:
        Unusable: it is none of these.
    """
    if returned is None:
        return None
    if budget_s is not None and not isinstance(returned, bool) and isinstance(returned, numbers.Real):
        seconds = float(returned)
        if 0 <= seconds < math.inf:
            return _expecting(seconds, budget_s, source)
    path, reason = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, "")
    if not (isinstance(path, str) and isinstance(reason, str) and path in ("fast", "deep")):
        kind = type(returned).__name__
        seconds_too = "" if budget_s is None else "seconds from 0 on, "
        raise Unusable(f"{source} has to return 'fast', 'deep', (path, reason), {seconds_too}or None, got {kind}")
    # Half of a surrogate pair cannot be stored or sent.
    reason = reason[:REASON_LENGTH_MAX].strip().encode("utf-8", "replace").decode()
    return Answer("fast" if path == "fast" else "deep", reason or f"{source} says {path}")


def _expecting(seconds: float, budget_s: float, source: str) -> Answer:
    if seconds > budget_s:
        return Answer("deep", f"{source} expects {seconds:.3g} s, above the budget of {budget_s:g} s", seconds)
    return Answer("fast", f"{source} expects {seconds:.3g} s, within the budget of {budget_s:g} s", seconds)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


CONTROL = "it is one of the few that go on, to see whether the others would have missed their budget"
STAYS = (
    "it goes fast all the same: too few runs have ended to act on that, or more would be taken off wrongly than its "
    "class allows (early_demotion)"
)
GAVE_WAY = (
    "the fast path was full (OFFRAMP_FAST_RUNS), and this run gave way to one that was expected to take less time"
)
GAVE_WAY_UP = "the fast path was full (OFFRAMP_FAST_RUNS), and this run gave way to one of a higher class"
SHARE_IS_TAKEN = (
    "your runs have your share of this gateway's fast path (OFFRAMP_TENANT_SHARE): try again when one has ended, or "
    "with Prefer: respond-async"
)
