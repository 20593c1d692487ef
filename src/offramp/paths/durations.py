"""How long runs of each pipeline took lately, in all processes: an exponentially weighted moving average."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from offramp.core.routing import Observed


class Durations:
    """What this process observed, and what it learned from the others. From any thread."""

    def __init__(self) -> None:
        self._average_s: dict[str, float] = {}
        self._untold: dict[str, Observed] = {}
        self._lock = threading.Lock()

    def observe(self, pipeline: str, seconds: float) -> None:
        """A run of this pipeline took so long."""
        nothing = Observed(pipeline, 0.0, 0.0)
        with self._lock:
            self._average_s[pipeline] = nothing.and_run(seconds).moved(self._average_s.get(pipeline))
            self._untold[pipeline] = self._untold.get(pipeline, nothing).and_run(seconds)

    def expected_s(self, pipeline: str, otherwise: float) -> float:
        """Seconds that a run of this pipeline is expected to take; `otherwise` while none was seen."""
        return self._average_s.get(pipeline, otherwise)

    def tell(self) -> list[Observed]:
        """What was observed since this was called before."""
        with self._lock:
            untold, self._untold = self._untold, {}
        return list(untold.values())

    def learned(self, average_s: Mapping[str, float]) -> None:
        """The averages of all processes, which have what was told here."""
        with self._lock:
            for pipeline, average in average_s.items():
                untold = self._untold.get(pipeline)
                self._average_s[pipeline] = average if untold is None else untold.moved(average)
