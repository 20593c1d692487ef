"""One attempt of a step: the context of `current_run` and `emit` while its code runs, and its view of the run.

`execution/making.py` drives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from offramp.core import events
from offramp.core.attempts import FailedAttempt
from offramp.core.failure import failure_of
from offramp.core.journal import Entry
from offramp.core.leaving import OVER
from offramp.core.limits.messages import How
from offramp.core.question import Question
from offramp.core.timestamps import rfc3339
from offramp.errors import FirstTokenTimeout, OutsideRun, StepTimeout
from offramp.execution.context import Run
from offramp.execution.endings import Watch
from offramp.execution.waiting import sleep_for
from offramp.ports.limits import Holder, Limits
from offramp.ports.seams import Asked

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.execution.first_token import First
    from offramp.execution.gate import Gate
    from offramp.execution.replay import Replay
    from offramp.execution.run_facts import RunFacts
    from offramp.execution.suspects import Suspects
    from offramp.execution.threads import Place, Threads
    from offramp.execution.values import StoreValue
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog
    from offramp.telemetry.metrics import Metrics
    from offramp.telemetry.run_trace import RunTrace, StepTrace


class Lanes(Protocol):
    """The lanes in which attempts run; see `execution.lanes`."""

    threads: Threads

    async def run(self, attempt: Attempt) -> tuple[Any, bytes]:
        """Execute it; returns its result, live and as JSON."""


class OwnHolder(Holder, Protocol):
    """The holder of one attempt."""

    def close(self) -> None:
        """The attempt is over."""


class Holders(Protocol):
    """Makes the holders of attempts; see `execution.permits`."""

    limits: Limits

    def new_id(self, run_id: str) -> str:
        """An id for a permit."""

    def credential(self, step: str, resource: str) -> str:
        """What the step calls the resource with, as it seems; empty if there is no telling."""

    def note(self, step: str, resource: str, credential: str) -> None:
        """The step calls the resource with this."""

    def holder(self, attempt: Attempt) -> OwnHolder:
        """The one of this attempt. From any thread."""


class Executing(Protocol):
    """The part of its execution that an attempt uses; see `Scope`."""

    @property
    def facts(self) -> RunFacts:
        """The facts of the run."""

    @property
    def clock(self) -> Clock:
        """The injected clock."""

    @property
    def log(self) -> RunLog:
        """The log for the events of the attempt."""

    @property
    def gate(self) -> Gate[Attempt]:
        """Lets the attempt begin; holds the state of the run, which may forbid writes for it."""

    @property
    def replay(self) -> Replay:
        """The journal of the run, the order of its results, and the steps that an earlier execution began."""

    @property
    def trace(self) -> RunTrace | None:
        """The run's spans, None without tracing."""

    @property
    def metrics(self) -> Metrics:
        """The metrics that count the attempt."""

    @property
    def store_value(self) -> StoreValue:
        """Returns the form of a result that the journal holds."""

    @property
    def record_arguments(self) -> int:
        """The size in bytes up to which the arguments of steps are recorded whole."""

    @property
    def permits(self) -> Holders | None:
        """Where its attempts get permits; None where there is no resource."""

    @property
    def suspects(self) -> Suspects:
        """The steps that may have crashed earlier processes."""

    def append(self, entry: Entry | None, event: events.Draft | None, arguments: bytes | None = None) -> None:
        """Record; raises `ExecutionOver` once the run may not be written any more."""

    def leave(self, attempt: Attempt) -> None:
        """The attempt is over."""

    async def pause(self, seconds: float) -> None:
        """Wait; the run needs no process meanwhile."""

    def foretell(self, until: float, holds: Callable[[], bool]) -> None:
        """Report that a step cannot continue before this time, in epoch seconds, while that `holds`."""

    def report_cold_start(self) -> None:
        """Report that a step waited for a process of the process lane to start; from any thread."""

    def report_wait(self, step: str, what: str | None) -> None:
        """Report what a step of this name waits for before it begins; None once it waits no longer."""


class Attempt:
    """An executing attempt; `live` turns False when it is over, and it can emit no more."""

    __slots__ = (
        "at",
        "began",
        "call",
        "cleans_up",
        "earlier",
        "first",
        "foretells",
        "held",
        "is_admitted",
        "key",
        "label",
        "limit",
        "live",
        "number",
        "patience_s",
        "place",
        "queues",
        "releases",
        "reported",
        "scope",
        "stays",
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
        """The place of its thread, if its step needs one."""
        self.cleans_up = False
        """Whether it belongs to a cleanup, which continues although its run is cancelled."""
        self.watch: Watch | None = None
        """The watch of its task, once it has waited."""
        self.trace = trace
        self.label: str | None = None
        """What tells the call apart, once the attempt has begun."""
        self.at = self.began = 0.0
        """The time of its start, in epoch seconds and on the monotonic clock."""
        self.earlier: tuple[FailedAttempt, ...] = ()
        """The failed attempts of the same call."""
        self.target: str | None = None
        """The target that its code should use, chosen by a seam."""
        self.first: First | None = None
        """What watches for its first token, if its step expects anything of that."""
        self.limit: asyncio.Timeout | None = None
        """What bounds its code, if anything does."""
        self.foretells = True
        """Whether its waits foretell when the run can continue: not if a failover asks several targets at once."""
        self.queues = True
        """Whether its requests may wait for permits."""
        self.patience_s: float | None = None
        """How long it may wait for admission; None without limit."""
        self.stays = True
        """Whether it may wait for a permit; if not, it is put off as soon as it would."""
        self.is_admitted = False
        """Whether it has been admitted."""
        self.releases: list[Callable[[], object]] = []
        """Callbacks that each release one of its admissions."""
        self.reported = 0
        """How many events its waits before it began have made, in this process."""
        self.held: OwnHolder | None = None
        """Its holder, once it was asked for."""

    @property
    def is_over(self) -> bool:
        """Whether its code may make no call any more. A second execution is not live before it wins, nor queues."""
        return not self.live and self.queues

    @property
    def holder(self) -> Holder | None:
        """Asks for permits in its name, from any thread; None where there is no resource."""
        if self.held is None and self.scope.permits is not None:
            return self.scope.permits.holder(self)
        return self.held

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of its run."""
        return self.scope.replay.result_order.turns.loop

    def following(self, error: Exception) -> Attempt:
        """The attempt after this one, which failed with this error."""
        failure = failure_of(error)
        made = Attempt(self.scope, self.call, self.number + 1, self.trace)
        failed = FailedAttempt(self.number, failure.code, failure.message, target=self.call.target)
        made.earlier = (*self.earlier, failed)
        return made

    def anew(self) -> Attempt:
        """A copy of this attempt, not begun."""
        made = Attempt(self.scope, self.call, self.number, self.trace)
        made.earlier, made.reported = self.earlier, self.reported
        return made

    def release(self) -> None:
        """Release its admissions."""
        if self.place is not None:
            self.place.leave()
        while self.releases:
            self.releases.pop()()

    def asked(self) -> Asked:
        """The attempt as the seams see it."""
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
            self.target,
            call.policy.uses,
            facts.sla,
            facts.tenant,
            facts.priority,
        )

    def waits(self) -> Watch:
        """Mark that it waits now, and so may be cancelled from here on."""
        if self.watch is None:
            self.watch = Watch(self.loop)
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
        """False: a step that executes is new."""
        return False

    def _is_cancelled(self) -> bool:
        if self.place is not None and self.place.is_held:
            return True  # it has timed out, or no caller waits for it any more
        return self.scope.facts.cancelled and not (self.cleans_up and self.scope.gate.state not in OVER)

    def emit(self, encoded: bytes) -> None:
        """A delta of this attempt; dropped when the attempt has timed out or its run has ended."""
        if self.first is not None:
            self.first_token()
        if self.live and self.scope.gate.state not in OVER:
            body = events.StepDelta(self.call.name, self.key, self.number, msgspec.Raw(encoded))
            self.announce(body, self.scope.clock.time())

    def first_token(self) -> None:
        """Note that the first byte of an answer has come, or the first emit; from any thread, any number of times."""
        if self.first is not None and not self.first.came:
            self.first.token()

    @property
    def slow_after_s(self) -> float | None:
        """Seconds after which the first token of a request of its code counts as slow; None for the resource's own."""
        first = self.call.policy.first
        late = () if first is None else tuple(each for each in (first.slow_after, first.within) if each is not None)
        return min(late, default=None)

    @property
    def cut(self) -> How:
        """How a call of its code counts that is cancelled now."""
        if self.first is not None and self.first.is_late:
            return "slow"
        return "failed" if self.limit is not None and self.limit.expired() else "cancelled"

    def is_slow(self, after_s: float) -> None:
        """Note that its first token has not come within this time; on its loop."""
        if self.trace is not None:
            self.trace.slow(self.number, after_s)

    def announce(self, body: events.Body, at: float) -> None:
        """Append an event of this attempt; `at` in epoch seconds."""
        self.scope.log.append(None, events.draft(body, rfc3339(at)))

    def timed_out(self) -> StepTimeout:
        """The error of an attempt that reached its timeout, or that of its first token."""
        if self.first is not None and self.first.is_late and self.call.policy.first is not None:
            within = self.call.policy.first.within or 0.0
            return FirstTokenTimeout(f"step {self.call.target!r} emitted nothing within {within:g} s (first_token)")
        return StepTimeout(f"step {self.call.name!r} took longer than its timeout of {self.call.policy.timeout:g} s")

    def value(self, _name: str, compute: Callable[[], Any]) -> Any:
        """Call it: inside a step, only the result is journaled."""
        return compute()

    async def sleep(self, seconds: float) -> None:
        """A plain wait, by the injected clock."""
        scope = self.scope
        if self.may_last(seconds):
            scope.foretell(scope.clock.time() + seconds, lambda: self.live)
        await sleep_for(scope.clock, seconds)

    def may_last(self, seconds: float) -> bool:
        """Whether its own timeouts leave it so much time from now on."""
        policy = self.call.policy
        within = None if policy.first is None or self.first is None or self.first.came else policy.first.within
        ends = min((each for each in (policy.timeout, within) if each is not None), default=None)
        return ends is None or self.scope.clock.monotonic() + seconds < self.began + ends

    async def signal(self, question: Question, timeout: float | None) -> bytes:
        """Refuse: signals work in bodies only."""
        raise OutsideRun(f"signal({question.name!r}) works in the pipeline's body, not inside step {self.call.name!r}")

    def cleanup(self, _timeout: float) -> AbstractAsyncContextManager[object]:
        """Refuse: a step cleans up after itself."""
        raise OutsideRun(
            f"cleanup() works in the pipeline's body, not inside step {self.call.name!r}: use try and finally here"
        )
