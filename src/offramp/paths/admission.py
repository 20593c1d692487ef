"""Who may be on the fast path: no tenant has more than its share, and of a full one the longest runs go deep."""

from __future__ import annotations

from offramp.core.run import Route, RunRecord
from offramp.errors import TenantBusy
from offramp.paths.demote import OffRamp
from offramp.paths.live import LiveRun, LiveRuns
from offramp.paths.process import Process


class Admission:
    """Keeps the fast runs of a process within `fast_runs`."""

    def __init__(self, process: Process, live: LiveRuns, off_ramp: OffRamp) -> None:
        self._process = process
        self._live = live
        self._off_ramp = off_ramp

    def require_share(self, tenant: str) -> None:
        """Refuse a tenant that has its share of the fast path.

        Raises:
            TenantBusy: it has.
        """
        if self._live.fast_refusal(tenant) == "share":
            raise TenantBusy(
                "your runs have your share of this gateway's fast path (OFFRAMP_TENANT_SHARE): try again when one has "
                "ended, or with Prefer: respond-async"
            )

    def route(self, record: RunRecord) -> Route:
        """The route of a run that was to go fast: as it is, or deep when there is no room and it is the longest."""
        bound = self._process.settings.fast_runs
        if self._live.count("fast") < bound:
            return record.route
        durations = self._live.durations
        staying = [run for run in self._live.all() if run.record.path == "fast" and not run.leaving]
        if len(staying) < bound and self._live.count("fast") < 2 * bound:
            return record.route
        longest = max(staying, key=self._remaining_s, default=None)
        mine = durations.expected_s(record.pipeline, record.budget_s)
        if longest is not None and self._live.count("fast") < 2 * bound and self._remaining_s(longest) > mine:
            self._process.control.spawn(self._off_ramp.demote(longest, "overload"))
            return record.route
        reason = f"the fast path is full ({bound} runs, OFFRAMP_FAST_RUNS) and this run is expected to take longest"
        return Route("deep", [*record.route.reasons, reason], round(mine * 1000, 3))

    def _remaining_s(self, run: LiveRun) -> float:
        elapsed = self._process.clock.monotonic() - run.began
        return max(0.0, self._live.durations.expected_s(run.record.pipeline, run.record.budget_s) - elapsed)
