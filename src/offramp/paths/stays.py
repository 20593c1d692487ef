"""How long the runs on the fast path of a process are expected to stay there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from offramp.core.routing import Stay
from offramp.paths.live import LiveRun, LiveRuns
from offramp.paths.process import Process

LOOK_S_PER_RUN = 1e-4
"""Seconds for each run until all are looked through again: that takes a few percent of the time."""


class Stays:
    """The runs on the fast path, looked through from time to time while they are asked for.

    Args:
        process: this process.
        live: its runs.
    """

    def __init__(self, process: Process, live: LiveRuns) -> None:
        self._process = process
        self._live = live
        self._until = -math.inf
        self._order: list[LiveRun] = []
        """The runs that stay, the one that leaves first for another last."""
        self._leaving: dict[str, LiveRun] = {}
        self._giving_way: set[str] = set()
        self._leaves_at: dict[str, float] = {}
        """When the first run of each tenant is expected to leave, on the monotonic clock."""

    def staying(self) -> int:
        """How many have a place and are not about to leave."""
        self._look()
        for run in [run for run in self._leaving.values() if self._live.get(run.record.id) is not run]:
            del self._leaving[run.record.id]
        return max(0, self._live.count("fast") - len(self._leaving))

    def leaver(self) -> Stay | None:
        """Of the lowest class, the run that is expected to stay longest."""
        self._look()
        while self._order:
            run = self._order[-1]
            if self._live.get(run.record.id) is run and self._stays(run):
                return Stay(run.record.id, self._rest_s(run), run.record.priority)
            self._leaving[run.record.id] = self._order.pop()
        return None

    @contextlib.contextmanager
    def gives_way(self, run_id: str) -> Iterator[None]:
        """A run will leave for another one, which begins meanwhile."""
        self._giving_way.add(run_id)
        try:
            yield
        finally:
            self._giving_way.discard(run_id)

    def leaves_in_s(self, tenant: str | None = None) -> float | None:
        """When the first run, of a tenant or of all, is expected to leave; None without one."""
        self._look()
        all_at = self._leaves_at
        at = min(all_at.values(), default=None) if tenant is None else all_at.get(tenant)
        return None if at is None else max(0.0, at - self._process.clock.monotonic())

    def _stays(self, run: LiveRun) -> bool:
        return run.record.path == "fast" and run.state == "running" and run.record.id not in self._giving_way

    def _look(self) -> None:
        now = self._process.clock.monotonic()
        if now < self._until:
            return
        runs = [run for run in self._live.all() if run.began_on == "fast"]
        self._until = now + len(runs) * LOOK_S_PER_RUN
        self._leaving = {run.record.id: run for run in runs if not self._stays(run)}
        self._leaves_at = {}
        order: list[tuple[int, float, int, LiveRun]] = []
        for run in runs:
            record, rest_s = run.record, self._rest_s(run)
            if record.id not in self._leaving:
                order.append((-record.priority, rest_s, len(order), run))
            if record.path == "fast":
                # At its end, and at the latest with its budget.
                left_s = max(0.0, record.budget_s - run.waited_s - (now - run.began))
                at = now + min(left_s, rest_s or left_s)
                self._leaves_at[record.tenant] = min(at, self._leaves_at.get(record.tenant, at))
        self._order = [item[-1] for item in sorted(order)]

    def _rest_s(self, run: LiveRun) -> float:
        """What is left of the time that such runs take."""
        record, elapsed_s = run.record, self._process.clock.monotonic() - run.began
        return max(0.0, self._live.learning.expected_s(record.pipeline, record.sla, record.budget_s) - elapsed_s)
