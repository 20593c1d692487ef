"""One attempt of a step: what `current_run` and `emit` reach while its code runs, and what it reaches of its run.

Its life is in `execution/making.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from offramp.core import events
from offramp.core.attempts import FailedAttempt
from offramp.core.failure import failure_of
from offramp.core.journal import Entry
from offramp.core.leaving import OVER
from offramp.core.timestamps import rfc3339
from offramp.errors import OutsideRun, StepTimeout
from offramp.execution.context import Run
from offramp.execution.endings import Watch
from offramp.execution.waiting import sleep_for
from offramp.ports.seams import Asked

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.core.journal import Journal
    from offramp.core.leaving import State
    from offramp.execution.run_facts import RunFacts
    from offramp.execution.suspects import Suspects
    from offramp.execution.threads import Place, Threads
    from offramp.execution.turns import ResultOrder
    from offramp.execution.values import Kept
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog
    from offramp.telemetry.metrics import Metrics
    from offramp.telemetry.run_trace import RunTrace, StepTrace


class Lanes(Protocol):
    """Where an attempt's code runs; see `execution.lanes`."""

    threads: Threads

    async def run(self, attempt: Attempt) -> tuple[Any, bytes]:
        """Its result, and that as JSON."""


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
    def result_order(self) -> ResultOrder:
        """It knows the loop that the run is on."""

    @property
    def state(self) -> State:
        """Of the run here: in some, nothing may be written for it any more."""

    @property
    def journal(self) -> Journal:
        """What is recorded."""

    @property
    def trace(self) -> RunTrace | None:
        """The run's spans, where it is traced."""

    @property
    def metrics(self) -> Metrics:
        """Where the attempt counts."""

    @property
    def kept(self) -> Kept:
        """What the journal holds of a result."""

    @property
    def suspects(self) -> Suspects:
        """The steps that earlier processes may have died of."""

    @property
    def interrupted(self) -> dict[str, events.StepState]:
        """Steps that an earlier execution began and did not end, by key."""

    def append(self, entry: Entry | None, event: events.Draft | None) -> None:
        """Record; raises `Handoff` once nothing may be written any more."""

    async def enter(self, attempt: Attempt) -> None:
        """Let it begin; from then on it is in flight."""

    def leave(self, attempt: Attempt) -> None:
        """It is over."""

    def queued(self) -> AbstractContextManager[None]:
        """While the attempt waits to be let in."""

    async def pause(self, seconds: float) -> None:
        """A wait of the run, which needs no process."""

    def says(self, step: str, what: str | None) -> None:
        """A step of this name waits for this before it begins; None: for nothing more."""


class Attempt:
    """An attempt that is executing; `live` turns False when it is over, and then it can emit no more."""

    __slots__ = (
        "at",
        "began",
        "call",
        "cleans_up",
        "earlier",
        "is_admitted",
        "key",
        "live",
        "number",
        "patience_s",
        "place",
        "releases",
        "scope",
        "target",
        "trace",
        "watch",
    )

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
        self.at = self.began = 0.0
        """When it began, in epoch seconds and on the monotonic clock."""
        self.earlier: tuple[FailedAttempt, ...] = ()
        """The attempts of the same call that failed."""
        self.target: str | None = None
        """What its code is to use; chosen by what is around it."""
        self.patience_s: float | None = None
        """How long it may wait to be admitted; None for any time."""
        self.is_admitted = False
        """Whether it has what it waits for before it begins."""
        self.releases: list[Callable[[], object]] = []
        """Each gives back something that it was admitted with."""

    def following(self, error: Exception) -> Attempt:
        """The attempt after this one, which failed with the error."""
        failure = failure_of(error)
        made = Attempt(self.scope, self.call, self.number + 1, self.trace)
        made.earlier = (*self.earlier, FailedAttempt(self.number, failure.code, failure.message))
        return made

    def anew(self) -> Attempt:
        """The same attempt, which has not begun."""
        made = Attempt(self.scope, self.call, self.number, self.trace)
        made.earlier = self.earlier
        return made

    def release(self) -> None:
        """Give back what it was admitted with."""
        if self.place is not None:
            self.place.leave()
        while self.releases:
            self.releases.pop()()

    def asked(self) -> Asked:
        """As the seams see it."""
        facts, call = self.scope.facts, self.call
        return Asked(
            facts.run_id,
            facts.pipeline,
            facts.session_id,
            facts.path,
            call.name,
            call.kind,
            call.key,
            self.number,
            self.earlier,
        )

    def waits(self) -> Watch:
        """It is about to wait, and so may be cancelled from here on."""
        if self.watch is None:
            self.watch = Watch(self.scope.result_order.turns.loop)
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
