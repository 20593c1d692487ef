"""The load of the fast path, for the routing of a request; `core.routing` judges it. Changes nothing."""

from __future__ import annotations

from offramp.core.routing import Facts, Load, Stay
from offramp.paths.live import LiveRun, LiveRuns
from offramp.paths.process import Process
from offramp.paths.submission import Submission


class Admission:
    """Looks at the fast path of a process."""

    def __init__(self, process: Process, live: LiveRuns) -> None:
        self._process = process
        self._live = live

    def load(self, submission: Submission, facts: Facts) -> Load:
        """The present load, for a request of which this is known."""
        held, most = self._live.count("fast"), self._process.settings.fast_runs
        share_is_taken = self._live.fast_refusal(submission.tenant) == "share"
        if held < most or share_is_taken:
            return Load(held, most, share_is_taken=share_is_taken)
        staying = [run for run in self._live.all() if run.record.path == "fast" and run.state == "running"]
        longest = max((Stay(run.record.id, self._rest_s(run)) for run in staying), key=_rest_s, default=None)
        expected_s = self._live.learning.expected_s(submission.pipeline, facts.sla, facts.budget_s)
        return Load(held, most, len(staying), expected_s, longest)

    def _rest_s(self, run: LiveRun) -> float:
        elapsed = self._process.clock.monotonic() - run.began
        record = run.record
        return max(0.0, self._live.learning.expected_s(record.pipeline, record.sla, record.budget_s) - elapsed)


def _rest_s(stay: Stay) -> float:
    return stay.rest_s
