"""The facts for the routing of a request: gathered here, judged by `core.routing.decide`. Changes nothing."""

from __future__ import annotations

from offramp.core.routing import Facts, Load, Stay
from offramp.paths.live import LiveRun, LiveRuns
from offramp.paths.process import Process
from offramp.paths.submission import Submission


class Admission:
    """Gathers facts about the fast path of a process."""

    def __init__(self, process: Process, live: LiveRuns) -> None:
        self._process = process
        self._live = live

    def facts(self, submission: Submission, sla: str, budget_s: float) -> Facts:
        """The present facts about a request with this class and budget."""
        expected_s = self._live.stats.expected_s(submission.pipeline, budget_s)
        load = self._load(submission.tenant)
        own_budget = submission.budget is not None
        return Facts(sla, budget_s, expected_s, load, respond_async=submission.respond_async, own_budget=own_budget)

    def _load(self, tenant: str) -> Load:
        held, most = self._live.count("fast"), self._process.settings.fast_runs
        share_is_taken = self._live.fast_refusal(tenant) == "share"
        if held < most or share_is_taken:
            return Load(held, most, share_is_taken=share_is_taken)
        staying = [run for run in self._live.all() if run.record.path == "fast" and run.state == "running"]
        longest = max((Stay(run.record.id, self._rest_s(run)) for run in staying), key=_rest_s, default=None)
        return Load(held, most, len(staying), longest)

    def _rest_s(self, run: LiveRun) -> float:
        elapsed = self._process.clock.monotonic() - run.began
        return max(0.0, self._live.stats.expected_s(run.record.pipeline, run.record.budget_s) - elapsed)


def _rest_s(stay: Stay) -> float:
    return stay.rest_s
