"""Which steps a run's processes may have died of: their deaths are forgotten once all of these have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offramp.execution.history import History
    from offramp.ports.store import RunLog


class Suspects:
    """Of one execution.

    Args:
        history: what earlier ones left.
        log: where a run's survival is noted.

    Attributes:
        watched: whether a step is to be known on disk before it begins: should this process die, it is known of which.
    """

    def __init__(self, history: History, log: RunLog) -> None:
        self.watched = history.deaths > 0
        self._keys = {step.key for step in history.under_way}
        self._deaths = history.deaths
        self._log = log

    def ended(self, key: str) -> None:
        """A step has ended, and this process lives."""
        self._keys.discard(key)
        if self._deaths and not self._keys:
            self._deaths = 0
            self._log.survived()
