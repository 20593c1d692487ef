"""One attempt of a step: what `current_run` and `emit` reach while the step's own code runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from offramp.core import events
from offramp.core.leaving import OVER
from offramp.core.timestamps import rfc3339
from offramp.errors import OutsideRun, StepTimeout
from offramp.execution.context import Run
from offramp.execution.endings import Watch
from offramp.execution.waiting import sleep_for

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.core.leaving import State
    from offramp.execution.run_facts import RunFacts
    from offramp.execution.threads import Place
    from offramp.execution.turns import Turnstile
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog
    from offramp.telemetry.run_trace import StepTrace


class Again(NamedTuple):
    """An attempt failed, and another is to follow after so many seconds."""

    delay_s: float
    error: Exception


class Executing(Protocol):
    """The execution that an attempt belongs to, as far as the attempt reaches it; see `Scope`."""

    @property
    def facts(self) -> RunFacts:
        """What is known of the run."""

    @property
    def clock(self) -> Clock:
        """The injected clock."""

    @property
    def log(self) -> RunLog:
        """Where the events of the attempt go."""

    @property
    def turnstile(self) -> Turnstile:
        """It knows the loop that the run is on."""

    @property
    def state(self) -> State:
        """Of the run here: in some, nothing may be written for it any more."""


class Attempt:
    """An attempt that is executing; `live` turns False when it is over, and then it can emit no more."""

    __slots__ = ("call", "cleans_up", "key", "live", "number", "place", "scope", "trace", "watch")

    def __init__(self, scope: Executing, call: Call, number: int, trace: StepTrace | None) -> None:
        self.scope = scope
        self.call = call
        self.key = call.key
        self.number = number
        self.live = True
        self.place: Place | None = None
        """The thread that it was given, where its step needs one."""
        self.cleans_up = False
        """Whether it belongs to a cleanup, which goes on though its run is cancelled."""
        self.watch: Watch | None = None
        """Of its task, once it has waited for something."""
        self.trace = trace

    def waits(self) -> Watch:
        """It is about to wait, and so may be cancelled from here on."""
        if self.watch is None:
            self.watch = Watch(self.scope.turnstile.turns.loop)
        return self.watch

    @property
    def clock(self) -> Clock:
        """The injected clock."""
        return self.scope.clock

    def run(self) -> Run:
        """The view of the run from inside the step."""
        return self.scope.facts.view(self.call.name, self.number, self.key, cancelled=self._is_cancelled)

    @property
    def replaying(self) -> bool:
        """A step that executes is new."""
        return False

    def _is_cancelled(self) -> bool:
        if self.place is not None and self.place.is_held:
            return True  # it has timed out, or is not waited for any more
        return self.scope.facts.cancelled and not (self.cleans_up and self.scope.state not in OVER)

    def emit(self, encoded: bytes) -> None:
        """A delta of this attempt; dropped when the attempt has timed out or its run has ended."""
        if self.live and self.scope.state not in OVER:
            body = events.StepDelta(self.call.name, self.key, self.number, msgspec.Raw(encoded))
            self.announce(body, self.scope.clock.time())

    def announce(self, body: events.Body, at: float) -> None:
        """Append an event of this attempt; `at` in epoch seconds."""
        self.scope.log.append(None, events.draft(body, rfc3339(at)))

    def timed_out(self) -> StepTimeout:
        """The error of an attempt that reached its timeout."""
        return StepTimeout(f"step {self.call.name!r} took longer than its timeout of {self.call.policy.timeout:g} s")

    def value(self, _name: str, compute: Callable[[], Any]) -> Any:
        """Inside a step nothing is journaled but its result."""
        return compute()

    async def sleep(self, seconds: float) -> None:
        """A plain wait, by the injected clock."""
        await sleep_for(self.scope.clock, seconds)

    async def signal(self, name: str, timeout: float | None) -> bytes:
        """Signals are waited for in the pipeline's body."""
        raise OutsideRun(f"signal({name!r}) works in the pipeline's body, not inside step {self.call.name!r}")

    def cleanup(self, _timeout: float) -> AbstractAsyncContextManager[object]:
        """A step cleans up after itself."""
        raise OutsideRun(
            f"cleanup() works in the pipeline's body, not inside step {self.call.name!r}: use try and finally here"
        )
