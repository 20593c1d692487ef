"""The steps that may have crashed a run's processes: the deaths are cleared once all of these have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offramp.execution.history import History
    from offramp.ports.store import RunLog


class Suspects:
    """The suspects of one execution.

    Args:
        history: the history of earlier executions.
        log: records the survival of the run.

    Attributes:
        watched: whether each step must be on disk before it begins, to identify the culprit if the process dies.
    """

    def __init__(self, history: History, log: RunLog) -> None:
        self.watched = history.deaths > 0
        self._keys = {step.key for step in history.under_way}
        self._deaths = history.deaths
        self._log = log

    def ended(self, key: str) -> None:
        """Note that a step has ended and this process lives."""
        self._keys.discard(key)
        if self._deaths and not self._keys:
            self._deaths = 0
            self._log.survived()
