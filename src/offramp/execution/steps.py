"""Executes the steps of a run: attempt by attempt in this process, or elsewhere (`execution/engine_bodies.py`).

A `Scope` has one of these; it alone knows which steps are called, and which calls are recorded already.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from offramp.core.attempts import AttemptOutcome, Completed, Failed, Postponed, RetryLater
from offramp.execution.attempt import Attempt
from offramp.execution.making import first, make
from offramp.ports.seams import NO_SEAMS, Seams

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.execution.attempt import Executing, Holders, Lanes
    from offramp.execution.permits import Permits
    from offramp.telemetry.run_trace import StepTrace

POSTPONED_S_MIN = 0.05
"""The least wait after `Postpone`: a seam that asks for a time in the past must not hold the run's loop."""


class Steps(Protocol):
    """The execution of the steps of a run, and its consequences for the body."""

    keeps_timers: bool
    """Whether the timers of the clock survive the death of the process."""
    permits: Holders | None
    """Where attempts get permits; None where there is no resource, and where none is made."""

    @property
    def repeats(self) -> bool:
        """Whether an engine repeats the body up to its last position."""

    async def execute(self, scope: Executing, call: Call) -> Any:
        """The result of a call that is not recorded; raises the exception that the body sees for a failure."""

    async def in_order(self) -> None:
        """Return when all later records are sure to follow all earlier ones."""

    def traced_wait(self, scope: Executing, what: str) -> contextlib.AbstractContextManager[object]:
        """A wait of the pipeline itself, in its trace."""


class LocalSteps(Steps):
    """Executes steps in the lanes of this process."""

    keeps_timers = False
    repeats = False

    def __init__(self, lanes: Lanes, seams: Seams = NO_SEAMS, permits: Permits | None = None) -> None:
        self._lanes = lanes
        self._seams = seams
        self.permits = permits
        self._for_users = seams if permits is None else Seams((*seams.before, permits), seams.around)
        """For steps that use resources: last, so that no permit is kept while another wait goes on."""

    async def execute(self, scope: Executing, call: Call, trace: StepTrace | None = None) -> Any:
        """Make attempts until one completes or the step has failed for good."""
        if trace is None and scope.trace is not None and scope.trace.recording:
            with scope.trace.step(call) as opened:
                return await self.execute(scope, call, opened)
        attempt = Attempt(scope, call, 1, trace)
        if scope.replay.interrupted:
            begun = await first(scope, call)
            if isinstance(begun, Failed):
                raise begun.error
            attempt, attempt.trace = begun, trace
        while True:
            seams = self._for_users if attempt.call.policy.uses or attempt.call.targets else self._seams
            outcome = await make(attempt, self._lanes, seams)
            if type(outcome) is Completed:
                return outcome.result
            if isinstance(outcome, RetryLater):
                await scope.pause(outcome.delay_s)
                attempt = attempt.following(outcome.error)
                continue
            if isinstance(outcome, Postponed):
                await scope.pause(max(POSTPONED_S_MIN, outcome.until - scope.clock.time()))
                attempt = attempt.anew()
                continue
            try:
                raise outcome.error if isinstance(outcome, Failed) else outcome.by
            finally:
                del outcome  # its error refers to this frame: a cycle would wait for the garbage collector

    async def attempt(self, attempt: Attempt) -> AttemptOutcome:
        """Make one attempt; an engine decides when another follows."""
        seams = self._for_users if attempt.call.policy.uses or attempt.call.targets else self._seams
        return await make(attempt, self._lanes, seams)

    async def in_order(self) -> None:
        """Return at once: this process writes in order."""

    def traced_wait(self, scope: Executing, what: str) -> contextlib.AbstractContextManager[object]:
        """A span."""
        trace = scope.trace
        return contextlib.nullcontext() if trace is None or not trace.recording else trace.wait(what)
