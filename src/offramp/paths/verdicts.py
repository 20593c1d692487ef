"""Which runs belief takes off the fast path, within what their classes allow, and whether that was right.

The counts are by pipeline and class, and shared with all processes of the store; see `core.harm` and `core.figures`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

from offramp.core import figures
from offramp.core.belief import Belief, Estimate, Past, Progress
from offramp.core.figures import Fate, Figures
from offramp.core.harm import Harm, Verdict
from offramp.core.run import Doubt, Outcome, RunRecord
from offramp.core.sla import budget_s
from offramp.paths.learning import Learning
from offramp.paths.process import Process

CONTROLS_MAX = 10_000
"""Runs of the control group whose end a process waits for; beyond them it forgets the oldest."""
_Key = tuple[str, str]
"""Pipeline and class."""


class Verdicts:
    """The verdicts of a process; from any thread.

    Args:
        process: this process.
        learning: what is known about the durations of runs; it shares the counts.
    """

    def __init__(self, process: Process, learning: Learning) -> None:
        self._process = process
        self._learning = learning
        self._lock = learning.lock
        self._harms: dict[_Key, Harm] = {}
        self._figures: dict[_Key, Figures] = {}
        self._controls: OrderedDict[str, None] = OrderedDict()
        learning.on_learned(self._learned)

    def verdict(
        self, run_id: str, pipeline: str, sla: str, estimate: Estimate, left: float = 1.0, *, explores: bool = True
    ) -> Verdict:
        """Whether a run with this estimate stays on the fast path, leaves it, or stays as one of the control group.

        Args:
            run_id: of the run.
            pipeline: its pipeline.
            sla: its class.
            estimate: what is expected of it.
            left: the part of its budget that is left.
            explores: False for a question about a run that is not started: it counts nothing, and never explores.
        """
        clock, chance = self._process.clock, estimate.chance
        with self._lock:
            harm, _ = self._open((pipeline, sla))
            verdict = harm.verdict(chance, left, clock.random() if explores else 1.0)
            if verdict == "demote" and explores:
                harm.demoted(chance, clock.time())
            elif verdict == "control":
                self._controls[run_id] = None
                if len(self._controls) > CONTROLS_MAX:
                    self._controls.popitem(last=False)
        return verdict

    def withdraw(self, run_id: str, pipeline: str, sla: str, estimate: Estimate, verdict: Verdict) -> None:
        """Count no longer a verdict on a run that was not started, or did not leave for it."""
        with self._lock:
            self._controls.pop(run_id, None)
            if verdict == "demote":
                self._open((pipeline, sla))[0].withdraw(estimate.chance, self._process.clock.time())

    def doubt_of(self, run_id: str) -> Doubt:
        """What a demotion for another reason says about a run."""
        return "control" if run_id in self._controls else ""

    # Runs that ended.

    def wants(self, record: RunRecord) -> bool:
        """Whether the time that a run moved is wanted even if nothing is learned from it: belief had demoted it."""
        return (record.demotion is not None or record.route.by == "learned") and (
            figures.fate_of(record) in {"early", "deep"}
        )

    def counts(self, record: RunRecord) -> bool:
        """Whether a run counts when it ends, even if nothing is learned from it: most runs do not."""
        fate = figures.fate_of(record)
        return fate is not None and (
            fate != "fast" or self._learning.doubts(record.pipeline, record.sla, record.budget_s)
        )

    def ended(self, record: RunRecord, outcome: Outcome, progress: Progress | None) -> None:
        """Count a run that ended and that nothing is learned from."""
        if record.pipeline not in self._process.pipelines or record.sla not in self._process.classes:
            return  # no longer declared
        fate = figures.fate_of(record)
        if fate == "fast" and not self._learning.doubts(record.pipeline, record.sla, record.budget_s):
            return
        if fate is not None:
            self._settle(record, fate, None, made=_made(record, fate, outcome, progress))

    def _learned(self, record: RunRecord, past: Past) -> None:
        """Count a run that is about to be learned from, with what was believed about it."""
        fate = figures.fate_of(record)
        if fate is None:
            self._controls.pop(record.id, None)
            return
        belief = self._learning.belief(record.pipeline, record.sla)
        made = record.path == "fast" if fate == "fast" else past.took_s <= record.budget_s
        self._settle(record, fate, belief.chance(past.features, record.budget_s), made=made)

    def _settle(self, record: RunRecord, fate: Fate, chance: float | None, *, made: bool | None) -> None:
        now = self._process.clock.time()
        with self._lock:
            harm, counts = self._open((record.pipeline, record.sla))
            is_control = self._controls.pop(record.id, self) is None
            is_control |= record.demotion is not None and record.demotion.by == "control"
            what: Literal["stayed", "demoted", "control"] = "control" if is_control else "stayed"
            if fate != "fast":
                what = "demoted"
            harm.settle(what, now, made=made)
            if made is None:
                return
            counts.count(figures.counts_of(record, fate, chance, made=made), now)
            share = harm.report().share
        self._process.metrics.routed(record, fate, made=made, wrong_share=share)

    def _open(self, key: _Key) -> tuple[Harm, Figures]:
        with self._lock:
            if key not in self._harms:
                self._harms[key] = Harm(self._process.classes[key[1]].early_demotion)
                self._figures[key] = Figures()
                self._learning.share(*key, "harm", self._harms[key])
                self._learning.share(*key, "figures", self._figures[key])
            return self._harms[key], self._figures[key]

    # What is shown.

    def report(self) -> list[dict[str, Any]]:
        """What is believed and was decided, by pipeline and class, as documents show it."""
        declared = [(spec.name, spec.sla) for spec in self._process.pipelines.values()]
        with self._lock:
            return [self._shown(*key) for key in sorted({*declared, *self._learning.groups()})]

    def _shown(self, pipeline: str, sla: str) -> dict[str, Any]:
        declared = self._process.classes[sla]
        spec_budget = self._process.pipelines[pipeline].budget
        budget = budget_s(declared, spec_budget, None, self._process.settings.max_budget)
        harm, counts = self._open((pipeline, sla))
        summed, report = counts.sums(), harm.report()
        return {
            "pipeline": pipeline,
            "class": sla,
            "budget_s": budget,
            "early_demotion": declared.early_demotion,
            "believed": _believed(self._learning.belief(pipeline, sla), budget),
            "decided": figures.decided(summed),
            "waited_s": round(summed.get(figures.WAITED, 0.0), 3),
            "short_deep": figures.short_deep(summed),
            "wrong": {
                "share": None if report.share is None else round(report.share, 4),
                "good": round(report.made),
                "demoted": round(report.demoted),
                "wrong": round(report.wrong, 1),
                "controls": round(report.controls),
            },
            "calibration": figures.calibration(summed),
        }


def _made(record: RunRecord, fate: Fate, outcome: Outcome, progress: Progress | None) -> bool | None:
    """Whether a run made its budget, or would have; None if it is not known, as of one that failed before."""
    if fate == "fast" and record.demotion is not None:
        return False
    if progress is not None and progress.elapsed_s > record.budget_s:
        return False
    if outcome.status != "completed" or (fate != "fast" and progress is None):
        return None
    return True


def _believed(belief: Belief, budget: float) -> dict[str, Any] | None:
    """What is expected of a run of which nothing else is known."""
    estimate = belief.estimate((), budget)
    if not estimate.runs:
        return None
    return {
        "p50_ms": round(estimate.p50_s * 1000, 3),
        "p95_ms": round(estimate.p95_s * 1000, 3),
        "chance": round(estimate.chance, 4),
        "runs": estimate.runs,
    }
