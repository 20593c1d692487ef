"""The recent duration of runs of each pipeline, in all processes: an exponentially weighted moving average."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from offramp.core.routing import Observed


class Durations:
    """Durations that this process observed, and the averages of all processes. Usable from any thread."""

    def __init__(self) -> None:
        self._average_s: dict[str, float] = {}
        self._unshared: dict[str, Observed] = {}
        self._lock = threading.Lock()

    def observe(self, pipeline: str, seconds: float) -> None:
        """Note the duration of a run of this pipeline."""
        nothing = Observed(pipeline, 0.0, 0.0)
        with self._lock:
            self._average_s[pipeline] = nothing.and_run(seconds).moved(self._average_s.get(pipeline))
            self._unshared[pipeline] = self._unshared.get(pipeline, nothing).and_run(seconds)

    def expected_s(self, pipeline: str, otherwise: float) -> float:
        """Seconds that a run of this pipeline is expected to take; `otherwise` before the first one."""
        return self._average_s.get(pipeline, otherwise)

    def take_observed(self) -> list[Observed]:
        """The observations since the last call."""
        with self._lock:
            unshared, self._unshared = self._unshared, {}
        return list(unshared.values())

    def learned(self, average_s: Mapping[str, float]) -> None:
        """Take over the averages of all processes, which include the reported observations."""
        with self._lock:
            for pipeline, average in average_s.items():
                unshared = self._unshared.get(pipeline)
                self._average_s[pipeline] = average if unshared is None else unshared.moved(average)
