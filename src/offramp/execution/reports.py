"""Says what a wait for a permit means for its run: its event, its span, the log, and a demotion that it foretells.

On the run's loop; a wait that ends at once, as most, costs nothing here.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from offramp.core import events
from offramp.core.events import SAID_AFTER_S, SAID_TIMES_MAX
from offramp.core.leaving import OVER
from offramp.ports.commit import call_threadsafe
from offramp.ports.seams import Wait

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt
    from offramp.ports.clock import Timer
    from offramp.ports.limits import Waits


class Report:
    """One wait.

    Args:
        attempt: waits for it.
        resource: whose permit is waited for.
        in_flight: whether a request of the attempt's code waits, and not the attempt before it begins.
    """

    __slots__ = (
        "_attempt",
        "_began",
        "_began_ns",
        "_first",
        "_has_waited",
        "_in_flight",
        "_is_over",
        "_last",
        "_reported",
        "_resource",
        "_still",
        "_timer",
        "_times",
    )

    def __init__(self, attempt: Attempt, resource: str, *, in_flight: bool) -> None:
        self._attempt = attempt
        self._resource = resource
        self._in_flight = in_flight
        self._first: Waits | None = None
        self._last: Waits | None = None
        self._reported = ""
        """The reason that was said last."""
        self._times = 0
        self._has_waited = False
        self._is_over = False
        self._timer: Timer | None = None
        self._still: contextlib.AbstractContextManager[None] | None = None
        self._began = 0.0
        self._began_ns = 0

    def waits(self, answer: Waits) -> None:
        """It waits, or waits for something else, or longer, than it seemed. From any thread."""
        self._has_waited = True
        call_threadsafe(self._attempt.loop, self.take, answer)

    def over(self) -> None:
        """It waits no longer. From any thread; nothing happens if it has never waited."""
        if self._has_waited:
            call_threadsafe(self._attempt.loop, self.end)

    def take(self, answer: Waits) -> None:
        """The same as `waits`, on the run's loop."""
        if self._is_over:
            return
        self._last = answer
        if self._first is None:
            self._begin(answer)
        elif self._reported and answer.reason != self._reported:
            self._say()
        self._foretell(answer)

    def _begin(self, answer: Waits) -> None:
        scope = self._attempt.scope
        self._first = answer
        self._began, self._began_ns = scope.clock.monotonic(), time.time_ns()
        if self._in_flight:
            self._still = scope.gate.still(self._attempt.key)
            self._still.__enter__()
        loop = self._attempt.loop
        self._timer = scope.clock.call_at(self._began + SAID_AFTER_S, lambda: call_threadsafe(loop, self._say))

    def _foretell(self, answer: Waits) -> None:
        """Have the run leave the fast path now, if this wait alone takes longer than the rest of its budget."""
        scope, expected_s = self._attempt.scope, answer.expected_s
        if not self._attempt.foretells:
            return
        if self._in_flight and expected_s is not None and not self._attempt.may_last(expected_s):
            return  # its timeout ends the wait, maybe within the budget
        if expected_s is not None and scope.facts.path == "fast" and expected_s > scope.facts.remaining():
            scope.foretell(scope.clock.time() + expected_s, lambda: not self._is_over)

    def put_off(self) -> None:
        """The wait is over in this process; one for a breaker lasts until its next try, and is reported now."""
        last = self._last
        if last is not None and last.reason == "breaker" and (last.expected_s or 0.0) >= SAID_AFTER_S:
            self._say()

    def _say(self) -> None:
        attempt, last = self._attempt, self._last
        scope = attempt.scope
        if self._is_over or last is None or self._times >= SAID_TIMES_MAX:
            return
        if scope.gate.state in OVER or not (attempt.live if self._in_flight else scope.gate.is_open):
            return
        if not self._in_flight:
            if attempt.reported >= SAID_TIMES_MAX * max(1, len(attempt.call.policy.uses)):
                return
            attempt.reported += 1
        self._reported = last.reason
        self._times += 1
        expected_ms = None if last.expected_s is None else round(last.expected_s * 1000, 3)
        call = attempt.call
        body = events.StepWaiting(call.name, attempt.key, self._resource, last.reason, last.ahead, expected_ms)
        attempt.announce(body, scope.clock.time())
        if not self._in_flight:
            scope.report_wait(call.name, str(Wait(self._resource, last)))

    def end(self) -> None:
        """The same as `over`, on the run's loop."""
        first, scope = self._first, self._attempt.scope
        if self._is_over:
            return
        self._is_over = True
        if first is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._still is not None:
            self._still.__exit__(None, None, None)
        if self._times and not self._in_flight:
            scope.report_wait(self._attempt.call.name, None)
        trace = self._attempt.trace
        if trace is not None:
            trace.waited(self._resource, first, scope.clock.monotonic() - self._began, self._began_ns)
