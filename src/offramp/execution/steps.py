"""How the steps of a run are executed: here, attempt by attempt, or elsewhere (`execution/durable.py`).

A `Scope` is given one of these; which steps are called, and what is recorded already, is no concern of theirs.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from offramp.core.attempts import Completed, Failed, RetryLater
from offramp.execution.attempt import Attempt, first, make

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.execution.attempt import Executing, Lanes
    from offramp.telemetry.run_trace import StepTrace


class Steps(Protocol):
    """How the steps of a run are executed, and what follows from that for its body."""

    keeps_timers: bool
    """Whether the clock remembers what it is to call, also where the process dies."""

    @property
    def repeats(self) -> bool:
        """Whether an engine executes the body again up to where it was."""

    async def execute(self, scope: Executing, call: Call) -> Any:
        """The result of a call that is not recorded; raises what the body is given for a failure."""

    async def in_order(self) -> None:
        """Return when what is recorded from now on comes after all that was recorded before."""

    def traced_wait(self, scope: Executing, what: str) -> contextlib.AbstractContextManager[object]:
        """A wait of the pipeline's own, as its trace shows it."""


class LocalSteps(Steps):
    """In the lanes of this process."""

    keeps_timers = False
    repeats = False

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes

    async def execute(self, scope: Executing, call: Call, trace: StepTrace | None = None) -> Any:
        """Attempt after attempt, until one completes or the step has failed for good."""
        if trace is None and scope.trace is not None and scope.trace.recording:
            with scope.trace.step(call) as opened:
                return await self.execute(scope, call, opened)
        number = 1
        if scope.interrupted:
            begun = await first(scope, call)
            if isinstance(begun, Failed):
                raise begun.error
            call, number = begun
        while True:
            outcome = await make(Attempt(scope, call, number, trace), self._lanes)
            if type(outcome) is Completed:
                return outcome.result
            if isinstance(outcome, RetryLater):
                await scope.pause(outcome.delay_s)
                number += 1
                continue
            try:
                raise outcome.error if isinstance(outcome, Failed) else outcome.by
            finally:
                del outcome  # its error refers to this frame: a cycle would wait for the garbage collector

    async def in_order(self) -> None:
        """Writes are made in order."""

    def traced_wait(self, scope: Executing, what: str) -> contextlib.AbstractContextManager[object]:
        """A span."""
        trace = scope.trace
        return contextlib.nullcontext() if trace is None or not trace.recording else trace.wait(what)
