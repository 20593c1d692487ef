"""The life of an attempt of a step, stage by stage.

Both engines make attempts here. This module alone decides what an attempt waits for, what is recorded and announced,
when another attempt follows, what an interruption means, and what `effect="once"` waits for.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from offramp.core import events
from offramp.core.attempts import AttemptOutcome, Completed, Failed, Interrupted, Postponed, RetryLater
from offramp.core.failure import Failure, failure_of, mark, replayable
from offramp.core.inspection import recorded_arguments
from offramp.core.journal import Entry
from offramp.core.leaving import OVER
from offramp.core.retry import counted, delay_s, retry_after_s
from offramp.core.timestamps import rfc3339
from offramp.errors import (
    CircuitOpen,
    EffectUnknown,
    EncodingError,
    ExceedsLimit,
    FirstTokenTimeout,
    ObjectsUnavailable,
    ResourceBusy,
    StepTimeout,
)
from offramp.execution.admission import admit
from offramp.execution.attempt import Attempt
from offramp.execution.endings import ExecutionOver, aborted, is_cancellation
from offramp.execution.failover import fails_over
from offramp.execution.holding import Idle
from offramp.execution.reports import Report
from offramp.execution.values import as_it_is
from offramp.ports.seams import Postpone, Wait

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.execution.attempt import Executing, Lanes
    from offramp.ports.limits import Waits
    from offramp.ports.seams import Around, Asked, Before, Code, Seams

ASK_AGAIN_S = 1.0
"""The delay before an attempt that an engine did not let wait longer is made again."""


async def make(attempt: Attempt, lanes: Lanes, seams: Seams, refusal: BaseException | None = None) -> AttemptOutcome:
    """Make one attempt and return its end: it is admitted, let in, begins, executes and is recorded.

    Args:
        attempt: the attempt.
        lanes: execute its code.
        seams: the waits before it, and the wrappers around it.
        refusal: the reason why it was not admitted, with which it fails.
    """
    scope, call = attempt.scope, attempt.call
    if not attempt.is_admitted and (seams.before or call.targets is not None or call.policy.lane == "thread"):
        return await _admitted(attempt, lanes, seams)
    try:
        await scope.gate.enter(attempt)
    except BaseException as raised:  # noqa: BLE001 - only what stops the task ends the wait
        return Interrupted(raised)
    try:
        _begin(attempt)
        if call.policy.effect == "once" or scope.suspects.watched:
            attempt.waits()
            await scope.log.durable()
        if refusal is not None:
            raise refusal
        if seams.around:
            completed = await _surrounded(attempt, lanes, seams)
        else:
            live, encoded = await lanes.run(attempt)
            completed = Completed(call.codec.decode_result(encoded, live), encoded)  # else it could not be read again
        stored = completed.encoded
        if scope.store_value is not as_it_is:
            attempt.waits()
            stored = await scope.store_value(stored, f"step {call.name!r}")
        _complete(attempt, completed.encoded, stored)
        if call.policy.effect == "once":
            await scope.log.durable()
    except BaseException as raised:  # noqa: BLE001 - looked at there
        return _not_completed(attempt, raised)
    else:
        return completed
    finally:
        scope.leave(attempt)
        if attempt.held is not None:
            attempt.held.close()


async def _admitted(attempt: Attempt, lanes: Lanes, seams: Seams) -> AttemptOutcome:
    """Make the attempt once it is admitted; until then it is not in flight."""
    attempt.is_admitted, refusal = True, None
    try:
        if attempt.call.targets is not None:
            await admit(attempt, functools.partial(_pass, seams.before) if seams.before else None)
        elif seams.before:
            await _pass(seams.before, attempt)
        if attempt.call.policy.lane == "thread" and await _wait_for_thread(attempt, lanes):
            await _pass(seams.before[-1:], attempt)
    except Postpone as postponed:
        attempt.release()
        return Postponed(postponed.until)
    except BaseException as raised:  # noqa: BLE001 - looked at there
        attempt.release()
        if _is_interrupted(attempt, raised):
            return Interrupted(raised)
        refusal = raised
    try:
        return await make(attempt, lanes, seams, refusal)
    finally:
        attempt.release()


async def _pass(
    before: Sequence[Before], attempt: Attempt, hears: Callable[[Waits], object] = lambda _answer: None
) -> None:
    """Wait for each admission, for as long as the engine lets the attempt wait; `hears` of the limits' answers."""
    scope, asked, says = attempt.scope, attempt.asked(), _Says(attempt, hears)
    attempt.waits()
    since = scope.clock.monotonic()
    try:
        async with asyncio.timeout(attempt.patience_s) as limit:
            if not attempt.stays:
                says.at_wait = functools.partial(limit.reschedule, 0.0)
            with scope.gate.queued():
                for each in before:
                    attempt.releases.append(await each.admit(asked, says))
    except TimeoutError:
        if limit.expired():
            raise Postpone(scope.clock.time() + ASK_AGAIN_S) from None
        raise
    except CircuitOpen as refused:
        if refused.retry_after is None:
            raise
        raise Postpone(scope.clock.time() + refused.retry_after) from refused  # an open breaker uses up no attempt
    if says.has_spoken:
        scope.report_wait(asked.step, None)
    if attempt.trace is not None and attempt.foretells:
        attempt.trace.queued(scope.clock.monotonic() - since)


class _Says:
    """Passes on what an attempt waits for before it begins."""

    def __init__(self, attempt: Attempt, hears: Callable[[Waits], object]) -> None:
        self._attempt = attempt
        self._hears = hears
        self._reports: dict[str, Report] = {}
        self.has_spoken = False
        self.at_wait: Callable[[], object] = lambda: None
        """Called when a wait for a permit begins."""

    def __call__(self, what: str | Wait) -> None:
        if isinstance(what, str):
            self.has_spoken = True
            self._attempt.scope.report_wait(self._attempt.call.name, what)
        elif what.answer is None:
            report = self._reports.pop(what.resource, None)
            if report is not None:
                report.put_off()
                report.end()
        else:
            report = self._reports.get(what.resource)
            if report is None:
                report = self._reports[what.resource] = Report(self._attempt, what.resource, in_flight=False)
                self.at_wait()
            report.take(what.answer)
            self._hears(what.answer)


async def _wait_for_thread(attempt: Attempt, lanes: Lanes) -> bool:
    """Returns whether the attempt gave its permits back meanwhile."""
    place = attempt.place = lanes.threads.place(attempt.call.name)
    if not place.is_given:
        attempt.waits()
        with attempt.scope.gate.queued(), Idle(attempt) as idle:
            await place.given()
        return idle.gave_back
    return False


async def _surrounded(attempt: Attempt, lanes: Lanes, seams: Seams) -> Completed:
    """The result of the code, with the seams around it; raises the failure of the attempt."""
    attempt.waits()  # a wrapper may wait before it runs the code
    aimed_at = attempt.target

    async def code(target: str | None = None) -> Completed | Failed:
        if attempt.watch is not None and attempt.watch.is_left():
            raise RuntimeError("an Around has to await run() in its own task, not in another one")
        attempt.target = target or aimed_at
        try:
            if attempt.place is not None and not attempt.place.is_given:  # the wrapper was used for another target
                await _wait_for_thread(attempt, lanes)
            live, encoded = await lanes.run(attempt)
            return Completed(attempt.call.codec.decode_result(encoded, live), encoded)
        except BaseException as raised:
            if _is_interrupted(attempt, raised):
                raise
            return Failed(_as_error(attempt, raised))

    run: Code = code
    for each in reversed(seams.around):
        run = _with(each, attempt.asked(), run)
    outcome = await run()
    if isinstance(outcome, Failed):
        raise outcome.error
    return outcome


def _with(around: Around, asked: Asked, run: Code) -> Code:
    """The code inside this wrapper, which sees the target chosen by outer ones."""

    def surrounded(target: str | None = None) -> Awaitable[Completed | Failed]:
        def inner(chosen: str | None = None) -> Awaitable[Completed | Failed]:
            return run(chosen or target)

        return around.around(asked if target is None else msgspec.structs.replace(asked, target=target), inner)

    return surrounded


def _begin(attempt: Attempt) -> None:
    clock = attempt.scope.clock
    attempt.at, attempt.began = clock.time(), clock.monotonic()
    call = attempt.call
    attempt.label = None if call.label is None else call.label()
    if attempt.trace is not None:
        attempt.trace.attempt(attempt.number, attempt.label, call.target)
    started = events.StepStarted(call.name, attempt.key, attempt.number, attempt.label, call.target)
    attempt.scope.log.append(None, events.draft(started, rfc3339(attempt.at)))


def _complete(attempt: Attempt, encoded: bytes, stored: bytes) -> None:
    """Record the result."""
    scope, name, key, number = attempt.scope, attempt.call.name, attempt.key, attempt.number
    duration_ms = round((scope.clock.monotonic() - attempt.began) * 1000, 3)
    scope.append(
        Entry(key, name, "step", stored, None, number, attempt.at, duration_ms, label=attempt.label),
        events.draft(events.StepCompleted(name, key, number, duration_ms), rfc3339(scope.clock.time())),
        recorded_arguments(attempt.call.arguments, scope.record_arguments),
    )
    scope.suspects.ended(key)
    scope.metrics.step(scope.facts.pipeline, name, "completed")
    if attempt.trace is not None:
        attempt.trace.completed(encoded)


def _not_completed(attempt: Attempt, raised: BaseException) -> AttemptOutcome:
    if _is_interrupted(attempt, raised):
        return Interrupted(raised)
    try:
        return _after_failure(attempt, _as_error(attempt, raised))
    except ExecutionOver as over:  # the run may not be written any more
        return Interrupted(over)


def _is_interrupted(attempt: Attempt, raised: BaseException) -> bool:
    """Whether this error means that the attempt was stopped from outside and did not fail."""
    watch, scope = attempt.watch, attempt.scope
    if watch is not None and watch.is_left():
        return True
    if isinstance(raised, Exception):
        return False
    if isinstance(raised, ExecutionOver) or scope.gate.state in OVER:
        return True
    is_run_cancelled = scope.facts.cancelled and not attempt.cleans_up
    return is_cancellation(raised) and (is_run_cancelled or (watch is not None and watch.asked()))


def _as_error(attempt: Attempt, raised: BaseException) -> Exception:
    return raised if isinstance(raised, Exception) else aborted(raised, f"step {attempt.call.name!r}")


def _after_failure(attempt: Attempt, error: Exception) -> RetryLater | Failed:
    """Announce a retry, or record the failure."""
    scope, call, number = attempt.scope, attempt.call, attempt.number
    duration_ms = round((scope.clock.monotonic() - attempt.began) * 1000, 3)
    now = scope.clock.time()
    mark(error, call.name, number)
    if isinstance(error, StepTimeout) and not isinstance(error, FirstTokenTimeout):
        scope.metrics.timed_out(scope.facts.pipeline, call.name)
    wait_s = _delay_s(attempt, error, now)
    if wait_s is None:
        return fail(scope, call, number, error, attempt.at, duration_ms)
    failure = failure_of(error, function=call.function)
    delay_ms = round(wait_s * 1000, 3)
    body = events.StepRetrying(call.name, call.key, number, failure.public(), delay_ms, call.target)
    scope.append(None, events.draft(body, rfc3339(now)))
    scope.metrics.retrying(scope.facts.pipeline, call.name)
    if attempt.trace is not None:
        attempt.trace.retrying(number, failure, wait_s)
    return RetryLater(error, wait_s)


def _delay_s(attempt: Attempt, error: Exception, now: float) -> float | None:
    """Seconds until another attempt, None if the step has failed for good."""
    call, clock = attempt.call, attempt.scope.clock
    if call.targets is not None:
        return 0.0 if fails_over(attempt, error) else None
    if _is_final(error):
        return None
    made = counted(attempt.number, (each.code for each in attempt.earlier), error)
    return delay_s(call.policy.retry, made, error, clock.random(), retry_after_s(error, now))


def _is_final(error: Exception) -> bool:
    """Whether another attempt would end the same."""
    if isinstance(error, ResourceBusy):
        return error.retry_after is None
    return isinstance(error, (EncodingError, ExceedsLimit, ObjectsUnavailable))


def fail(scope: Executing, call: Call, number: int, error: Exception, at: float, duration_ms: float) -> Failed:
    """Record that a step has failed for good."""
    mark(error, call.name, number)
    failure, given = replayable(error, call.function)
    body = events.StepFailed(call.name, call.key, number, duration_ms, failure.public())
    entry = Entry(call.key, call.name, "step", None, failure, number, at, duration_ms)
    arguments = recorded_arguments(call.arguments, scope.record_arguments)
    scope.append(entry, events.draft(body, rfc3339(scope.clock.time())), arguments)
    scope.suspects.ended(call.key)
    scope.metrics.step(scope.facts.pipeline, call.name, "failed")
    return Failed(given)


async def first(scope: Executing, call: Call) -> Attempt | Failed:
    """The next attempt of a step that an earlier execution may have begun.

    An interruption is not an attempt (D3). Whether the effect of an interrupted `once` happened is unknown: without a
    decider the step has failed.
    """
    before = scope.replay.interrupted.pop(call.key, None)
    if before is None or not (before.starts or call.policy.effect == "once"):
        return Attempt(scope, call, 1, None)
    if before.status == "retrying":
        await scope.pause(before.changed_epoch() + before.delay_ms / 1000 - scope.clock.time())
        attempt = Attempt(scope, call, before.attempts + 1, None)
        attempt.earlier = tuple(before.failed)
        return attempt
    if call.policy.effect == "once" and call.decider is None:
        unknown = EffectUnknown(
            f"step {call.name!r} is effect='once' and was interrupted: find out whether its effect happened, "
            f"by its idempotency key {scope.facts.idempotency_key(call.key)!r}, and retry the run from this step if it "
            "did not; or declare on_unknown="
        )
        return fail(scope, call, before.attempts, unknown, scope.clock.time(), 0.0)
    if before.starts:
        failure = Failure(events.INTERRUPTED, "the process that executed this ended", call.name, before.attempts)
        body = events.StepRetrying(call.name, call.key, before.attempts, failure.public(), 0.0, before.target)
        scope.append(None, events.draft(body, rfc3339(scope.clock.time())))
    attempt = Attempt(scope, call if call.decider is None else call.decider(), before.attempts, None)
    attempt.earlier = tuple(before.failed)
    return attempt
