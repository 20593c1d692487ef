"""The answers to probes of a process that takes deep runs. Asks neither store nor engine; usable from any thread."""

from __future__ import annotations

from collections.abc import Callable

from offramp.execution.loops import LoopThread
from offramp.ports.engine import Joined


class Readiness:
    """The readiness of one process.

    Args:
        engine: its part of the engine.
        control: the loop on which no user code runs.
        is_stopping: whether it accepts no more work.
        shortage: why plain steps lack threads here, None while they do not.
        trouble: why the store takes no writes, None while it does.
    """

    def __init__(
        self,
        engine: Joined,
        control: LoopThread,
        is_stopping: Callable[[], bool],
        shortage: Callable[[], str | None],
        trouble: Callable[[], str | None],
    ) -> None:
        self._engine = engine
        self._control = control
        self._is_stopping = is_stopping
        self._shortage = shortage
        self._trouble = trouble

    def takes_runs(self) -> tuple[bool, str]:
        """Whether this process itself takes deep runs, and otherwise the reason."""
        if self._is_stopping():
            return False, "stopping"
        trouble = self.trouble()
        if trouble is not None:
            return False, trouble
        if not self._engine.takes():
            return False, "takes no runs: it has not joined the engine yet, or its lease ran out (is the store there?)"
        return self.has_threads()

    def trouble(self) -> str | None:
        """Why the store takes no writes, None while it does."""
        return self._trouble()

    def has_threads(self) -> tuple[bool, str]:
        """Whether plain steps get their threads, and otherwise the reason."""
        shortage = self._shortage()
        return (True, "ready") if shortage is None else (False, shortage)

    def answers(self, within_s: float) -> bool:
        """Whether the control loop answers within so many seconds; waits up to that long."""
        return self._control.answers(within_s)
