"""One attempt of a step: its life, stage by stage, and what `current_run` and `emit` reach while its code runs.

Both engines make attempts here: what is recorded and announced, when another try follows, what an interruption means
and what `effect="once"` waits for are decided in this module alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from offramp.core import events
from offramp.core.attempts import AttemptOutcome, Completed, Failed, Interrupted, RetryLater
from offramp.core.failure import Failure, failure_of, mark, replayable
from offramp.core.journal import Entry
from offramp.core.leaving import OVER
from offramp.core.retry import delay_s, retry_after_s
from offramp.core.timestamps import rfc3339
from offramp.errors import EffectUnknown, EncodingError, ObjectsUnavailable, OutsideRun, StepTimeout
from offramp.execution.context import Run
from offramp.execution.endings import Handoff, Watch, aborted, is_cancellation
from offramp.execution.values import as_it_is
from offramp.execution.waiting import sleep_for

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.core.journal import Journal
    from offramp.core.leaving import State
    from offramp.execution.run_facts import RunFacts
    from offramp.execution.suspects import Suspects
    from offramp.execution.threads import Place, Threads
    from offramp.execution.turns import Turnstile
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
    def turnstile(self) -> Turnstile:
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


class Attempt:
    """An attempt that is executing; `live` turns False when it is over, and then it can emit no more."""

    __slots__ = ("at", "began", "call", "cleans_up", "key", "live", "number", "place", "scope", "trace", "watch")

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


async def make(attempt: Attempt, lanes: Lanes) -> AttemptOutcome:
    """The life of one attempt: it waits for a thread, is let in, begins, executes and is recorded; what came of it."""
    scope, call = attempt.scope, attempt.call
    if call.policy.lane == "thread" and attempt.place is None:
        return await _admitted(attempt, lanes)
    try:
        await scope.enter(attempt)
    except BaseException as raised:  # noqa: BLE001 - only what stops the task ends the wait
        return Interrupted(raised)
    try:
        _begin(attempt)
        if call.policy.effect == "once" or scope.suspects.watched:
            attempt.waits()
            await scope.log.durable()
        live, encoded = await lanes.run(attempt)
        completed = Completed(call.codec.decode_result(encoded, live), encoded)  # what cannot be read again has failed
        kept = encoded
        if scope.kept is not as_it_is:
            attempt.waits()
            kept = await scope.kept(encoded, f"step {call.name!r}")
        _complete(attempt, encoded, kept)
        if call.policy.effect == "once":
            await scope.log.durable()
    except BaseException as raised:  # noqa: BLE001 - looked at there
        return _not_completed(attempt, raised)
    else:
        return completed
    finally:
        scope.leave(attempt)


async def _admitted(attempt: Attempt, lanes: Lanes) -> AttemptOutcome:
    """Make the attempt once there is a thread for it; until then it is not in flight."""
    place = attempt.place = lanes.threads.place(attempt.call.name)
    try:
        if not place.is_given:
            with attempt.scope.queued():
                await place.given()
        return await make(attempt, lanes)
    except BaseException as raised:  # noqa: BLE001 - only what stops the task ends the wait
        return Interrupted(raised)
    finally:
        place.leave()


def _begin(attempt: Attempt) -> None:
    clock = attempt.scope.clock
    attempt.at, attempt.began = clock.time(), clock.monotonic()
    if attempt.trace is not None:
        attempt.trace.attempt(attempt.number)
    started = events.StepStarted(attempt.call.name, attempt.key, attempt.number)
    attempt.scope.log.append(None, events.draft(started, rfc3339(attempt.at)))


def _complete(attempt: Attempt, encoded: bytes, kept: bytes) -> None:
    """Record the result."""
    scope, name, key, number = attempt.scope, attempt.call.name, attempt.key, attempt.number
    duration_ms = round((scope.clock.monotonic() - attempt.began) * 1000, 3)
    scope.append(
        Entry(key, name, "step", kept, None, number, attempt.at, duration_ms),
        events.draft(events.StepCompleted(name, key, number, duration_ms), rfc3339(scope.clock.time())),
    )
    scope.suspects.ended(key)
    scope.metrics.step(scope.facts.pipeline, name, "completed")
    if attempt.trace is not None:
        attempt.trace.completed(encoded)


def _not_completed(attempt: Attempt, raised: BaseException) -> AttemptOutcome:
    if _is_interrupted(attempt, raised):
        return Interrupted(raised)
    error = raised if isinstance(raised, Exception) else aborted(raised, f"step {attempt.call.name!r}")
    try:
        return _after_failure(attempt, error)
    except Handoff as over:  # nothing is written for the run any more
        return Interrupted(over)


def _is_interrupted(attempt: Attempt, raised: BaseException) -> bool:
    """Whether an attempt has not failed by this, but was stopped from outside."""
    watch, scope = attempt.watch, attempt.scope
    if watch is not None and watch.is_left():
        return True
    if isinstance(raised, Exception):
        return False
    if isinstance(raised, Handoff) or scope.state in OVER:
        return True
    is_run_cancelled = scope.facts.cancelled and not attempt.cleans_up
    return is_cancellation(raised) and (is_run_cancelled or (watch is not None and watch.asked()))


def _after_failure(attempt: Attempt, error: Exception) -> RetryLater | Failed:
    """Announce a retry, or record the failure."""
    scope, call, number = attempt.scope, attempt.call, attempt.number
    duration_ms = round((scope.clock.monotonic() - attempt.began) * 1000, 3)
    now = scope.clock.time()
    mark(error, call.name, number)
    if isinstance(error, StepTimeout):
        scope.metrics.timed_out(scope.facts.pipeline, call.name)
    is_final = isinstance(error, (EncodingError, ObjectsUnavailable))  # another try would end the same
    retry = call.policy.retry
    wait_s = None if is_final else delay_s(retry, number, error, scope.clock.random(), retry_after_s(error, now))
    if wait_s is None:
        return fail(scope, call, number, error, attempt.at, duration_ms)
    failure = failure_of(error)
    body = events.StepRetrying(call.name, call.key, number, failure.public(), round(wait_s * 1000, 3))
    scope.append(None, events.draft(body, rfc3339(now)))
    scope.metrics.retrying(scope.facts.pipeline, call.name)
    if attempt.trace is not None:
        attempt.trace.retrying(number, failure, wait_s)
    return RetryLater(error, wait_s)


def fail(scope: Executing, call: Call, number: int, error: Exception, at: float, duration_ms: float) -> Failed:
    """Record that a step has failed for good."""
    mark(error, call.name, number)
    failure, given = replayable(error)
    body = events.StepFailed(call.name, call.key, number, duration_ms, failure.public())
    entry = Entry(call.key, call.name, "step", None, failure, number, at, duration_ms)
    scope.append(entry, events.draft(body, rfc3339(scope.clock.time())))
    scope.suspects.ended(call.key)
    scope.metrics.step(scope.facts.pipeline, call.name, "failed")
    return Failed(given)


async def first(scope: Executing, call: Call) -> tuple[Call, int] | Failed:
    """Which code the next attempt executes, and its number, where an earlier execution may have begun the step.

    An interruption is no attempt (D3). Whether an interrupted `once` happened is unknown: without a decider the step
    has failed.
    """
    before = scope.interrupted.pop(call.key, None)
    if before is None:
        return call, 1
    if before.status == "retrying":
        await scope.pause(before.changed_epoch() + before.delay_ms / 1000 - scope.clock.time())
        return call, before.attempts + 1
    if call.policy.effect == "once" and call.decider is None:
        unknown = EffectUnknown(
            f"step {call.name!r} is effect='once' and was interrupted: find out whether its effect happened, "
            f"by its idempotency key {scope.facts.idempotency_key(call.key)!r}, or declare on_unknown="
        )
        return fail(scope, call, before.attempts, unknown, scope.clock.time(), 0.0)
    failure = Failure(events.INTERRUPTED, "the process that executed this ended", call.name, before.attempts)
    body = events.StepRetrying(call.name, call.key, before.attempts, failure.public(), 0.0)
    scope.append(None, events.draft(body, rfc3339(scope.clock.time())))
    return call if call.decider is None else call.decider(), before.attempts
