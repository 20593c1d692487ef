"""The forced end of a run, by a cancellation or a deadline, and the time that the run has for it.

Once its body is struck, steps start only in `offramp.cleanup()`; the paths end the run at the time of `until`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from offramp.core.ending import CLEANUP_S_MAX, STRUCK
from offramp.core.journal import Journal
from offramp.core.run import Outcome
from offramp.errors import Divergence
from offramp.execution.context import current

if TYPE_CHECKING:
    from offramp.execution.observer import Observer
    from offramp.ports.clock import Clock

logger = logging.getLogger("offramp")

STRIKE_S_MAX = 60.0
"""The time for the replay of an ending run to reach the place where its body is struck; then the run ends anyway."""


class Cleanup:
    """The time of one `offramp.cleanup()`; `ends` is on the monotonic clock."""

    __slots__ = ("ends", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.ends = math.inf


class Ending:
    """The request to end one executing run, and the time until which the run may continue; of one `Scope`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.outcome: Outcome | None = None
        """The outcome that the run has to end with; None without one."""
        self.struck = False
        """Whether its body was cancelled to end it."""
        self.late: set[str] = set()
        """Keys of the calls that the body made after that."""
        self.cleanups: list[Cleanup] = []
        """The open ones."""
        self._closed: asyncio.Future[None] | None = None
        self._since = 0.0
        self._patience_s = 0.0
        self._struck_at = math.inf

    def begin(self, outcome: Outcome, *, replays: bool) -> None:
        """Request the end of the run with this outcome; from any thread."""
        now = self._clock.monotonic()
        self._since, self._patience_s = now, STRIKE_S_MAX if replays else 0.0
        for cleanup in list(self.cleanups):
            cleanup.ends = now + cleanup.timeout_s
        self.outcome = outcome

    def until(self, grace_s: float) -> float:
        """The time on the monotonic clock until which the run may continue; `inf` if it need not end."""
        if self.outcome is None:
            return math.inf
        cleanups = list(self.cleanups)
        if cleanups:
            return max(cleanup.ends for cleanup in cleanups)
        return self._since + (grace_s if self.struck else max(grace_s, self._patience_s))

    def within(self) -> Cleanup | None:
        """The open cleanup of the running code, while its time lasts."""
        cleanup: Cleanup | None = getattr(current.get(), "within", None)
        is_open = cleanup is not None and cleanup in self.cleanups
        return cleanup if is_open and cleanup is not None and cleanup.ends > self._clock.monotonic() else None

    def due(self, timeout_s: float) -> float:
        """The latest end of a cleanup that begins now, in epoch seconds."""
        return min(self._clock.time() + timeout_s, self._struck_at + CLEANUP_S_MAX)

    def opened(self, cleanup: Cleanup, observer: Observer) -> None:
        """Note the start of a cleanup; the observer is notified if `until` changes."""
        self.cleanups.append(cleanup)
        if self.outcome is not None:
            observer.ending_changed()

    def closed(self, cleanup: Cleanup, observer: Observer) -> None:
        """Note the end of a cleanup; the observer is notified if `until` changes."""
        self.cleanups.remove(cleanup)
        if self.outcome is not None:
            self._since = self._clock.monotonic()
            observer.ending_changed()
        if not self.cleanups and self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def strikes(self, at: float) -> None:
        """Note that the body is struck; `at` in epoch seconds, in a replay the time of the first execution."""
        self._struck_at, self._since, self.struck = at, self._clock.monotonic(), True

    async def all_closed(self) -> None:
        """Return when no cleanup is open."""
        while self.cleanups:
            self._closed = asyncio.get_running_loop().create_future()
            await self._closed

    def strikes_next(self, journal: Journal) -> bool:
        """Whether the body has asked for everything recorded before the place where it is struck."""
        return self.outcome is not None and not self.struck and journal.asked_before(STRUCK)


def log_failure(run_id: str, outcome: Outcome, error: BaseException) -> None:
    """Log an exception that an ending body raised itself, as the outcome does not show it."""
    what = "no longer fits its journal" if isinstance(error, Divergence) else f"raised {type(error).__name__}"
    logger.warning("%s: its body %s after it was %s; it may not have cleaned up", run_id, what, outcome.status)
