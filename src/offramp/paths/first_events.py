"""The time until a reader can see a run's first event, measured where events become visible."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from offramp.core.run import RunRecord
from offramp.ports.clock import Clock
from offramp.ports.store import Batch
from offramp.telemetry.metrics import Metrics


class FirstEvents:
    """Waits for the first event of each run that begins here; `run.accepted` does not count, it precedes all work."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self.expected: dict[str, Callable[[float, int], object]] = {}
        """What counts the first event of a run."""

    def of_new(self, record: RunRecord) -> None:
        """Expect the first event of a new run, or of its first step; another process may be quicker."""

        def measure(now: float, first: int) -> None:
            if first <= 2:
                self._metrics.first_event(record, now - record.created_at)

        self.expected[record.id] = measure

    def of_demoted(self, record: RunRecord) -> None:
        """Expect the first event of a demoted run that resumes here for the first time."""
        demotion = record.demotion
        if demotion is not None:
            self.expected[record.id] = lambda now, _: self._metrics.went_on(demotion.reason, now - demotion.at)

    def forget(self, run_id: str) -> None:
        """Expect no more events of this run from this process."""
        self.expected.pop(run_id, None)

    def seen(self, batches: Sequence[Batch]) -> None:
        """Measure the events that became visible; called on the store's thread."""
        if not self.expected:
            return
        for batch in batches:
            if batch.run_id in self.expected and batch.first + len(batch.frames) > 2:
                measure = self.expected.pop(batch.run_id, None)
                if measure is not None:
                    measure(self._clock.time(), batch.first)
