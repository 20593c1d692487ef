"""How long, and in which rhythm, a client tries again. Decides; waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from offramp.client.effects import Pause, Retrying
from offramp.errors import OfframpError, RunUnfinished

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 5.0
JITTER = 0.5
"""The share that is drawn: of a backoff less, of a wait that the gateway asked for more. Clients that lost the same
gateway then do not return together."""


@dataclass
class Patience:
    """The failures in a row of one call, or of one stream since it last got on.

    Args:
        most_s: how long it may go on without getting on.
        now: a monotonic clock, in seconds.
        draw: a random number from 0 to 1.
        until: when the caller stops waiting, on that clock.
    """

    most_s: float
    now: Callable[[], float]
    draw: Callable[[], float]
    until: float = inf
    failures: int = 0
    since: float = inf
    run_id: str | None = None
    after: int = 0
    answered: bool = False

    def got_on(self) -> None:
        """Forget the failures so far."""
        self.failures, self.since = 0, inf

    def pause(self, error: OfframpError, at_least_s: float = 0.0) -> Pause:
        """The pause before the next attempt.

        Args:
            error: what failed.
            at_least_s: how long the gateway asked to wait.

        Raises:
            RunUnfinished: the caller waits for a result, and the pause would outlast that.
            OfframpError: `error`, as the pause would outlast the patience.
        """
        now = self.now()
        self.since = min(self.since, now)
        self.failures += 1
        drawn = self.draw()
        delay_s = max(backoff_s(self.failures, drawn), at_least_s * (1.0 + JITTER * drawn))
        if now + delay_s > self.until and self.answered:
            raise unfinished(self.run_id) from error
        if now + delay_s > min(self.until, self.since + self.most_s):
            if self.failures > 1:
                error.add_note(f"gave up after {self.failures} attempts in {now - self.since:.1f} s")
            raise error
        return Pause(Retrying(error, self.failures, delay_s, self.run_id, self.after, self.answered))


def backoff_s(failures: int, drawn: float) -> float:
    """Seconds before the next attempt, after so many failures in a row; `drawn` is from 0 to 1."""
    grown = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 32))
    return grown * (1.0 - JITTER * drawn)


def unfinished(run_id: str | None) -> RunUnfinished:
    """The error for a result that did not come within `wait`."""
    return RunUnfinished(f"{run_id or 'the run'} has not ended within `wait`; it continues, so ask again")
