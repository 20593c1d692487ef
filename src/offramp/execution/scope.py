"""What a step call does: find its journal entry or execute it, retry, record, announce.

One `Scope` per execution of a run. It decides whether a step may still start here, and is the only writer of the
run's journal and step events.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from offramp.core import events
from offramp.core.divergence import differs
from offramp.core.failure import Failure, exception_of, failure_of, mark, replayable
from offramp.core.journal import Entry, Journal
from offramp.core.leaving import OVER
from offramp.core.retry import delay_s, retry_after_s
from offramp.core.timestamps import rfc3339
from offramp.errors import EffectUnknown, EncodingError, ObjectsUnavailable, StepTimeout
from offramp.execution.attempt import Again, Attempt
from offramp.execution.endings import aborted, is_cancellation
from offramp.execution.gate import Handoff
from offramp.execution.history import History
from offramp.execution.observer import SILENT, Observer
from offramp.execution.recording import Recording
from offramp.execution.run_facts import RunFacts
from offramp.execution.suspects import Suspects
from offramp.execution.tenure import Tenure
from offramp.execution.timers import Timers, without_dues
from offramp.execution.values import Kept, as_it_is
from offramp.execution.waiting import Mailbox, sleep_for
from offramp.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from offramp.core.call import Call
    from offramp.execution.lanes import Lanes
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog
    from offramp.telemetry.run_trace import RunTrace, StepTrace

DIVERGENCE_GRACE_S = 5.0
"""What a body with waits of its own gets before a replay that stands still counts as divergence."""
TIMEOUT_GRACE_S = 60.0
"""The same where a timer may still end the step: its firing waits for its turn, or was not recorded, as in journals
from before timers were."""


class Scope(Recording):
    """The journal side of one executing run."""

    home = ""
    """The package of the pipeline."""

    def __init__(
        self,
        facts: RunFacts,
        log: RunLog,
        lanes: Lanes,
        clock: Clock,
        history: History,
        metrics: Metrics,
        *,
        tenure: Tenure | None = None,
        trace: RunTrace | None = None,
        kept: Kept = as_it_is,
        observer: Observer = SILENT,
    ) -> None:
        self.kept = kept
        self.trace = trace
        self._traced = None if trace is None or not trace.recording else trace
        entries, dues = without_dues(history.entries)
        journal = Journal(entries, itertools.chain(history.interrupted, history.elsewhere))
        super().__init__(facts, log, clock, tenure, Mailbox(history.signals), journal, observer)
        self._lanes = lanes
        self._metrics = metrics
        self._interrupted = dict(history.interrupted)
        self.suspects = Suspects(history, log)
        self.waiting = set(history.waiting)
        """The keys of waits that the event log knows as begun."""
        self._replays = self.journal.replayable > 0
        self._reached_before = set(self._interrupted) | self.waiting
        self.began_before = bool(self._reached_before or self._replays or history.resumed)
        """Whether an earlier execution may have called the body."""
        self._dues = dues
        self._began = min((entry.started_at for entry in history.entries if entry.started_at), default=None)
        self._timers: Timers | None = None

    @property
    def replaying(self) -> bool:
        """Whether the body does again what an earlier execution is known to have done."""
        return self.turnstile.replays or bool(self._reached_before)

    def reached(self, key: str) -> None:
        """The body made a call that is not recorded: one that an earlier execution had begun, or a new one."""
        if key in self._reached_before:
            self._reached_before.remove(key)
        else:
            self._reached_before.clear()

    async def recorded_in_order(self) -> None:
        """Return when what is recorded from now on comes after all that was recorded before."""

    # The journal.

    def recorded(self, key: str) -> Entry | None:
        """The entry of a call that cannot wait for its turn in the replay."""
        entry = self.journal.ask(key)
        if entry is not None:
            self.turnstile.skip(self.journal.position(key))
            self.timers.saw(entry)
        return entry

    async def replayed(self, key: str) -> Entry | None:
        """The entry of a call, when it is its turn; None when it has not finished before."""
        entry = self.journal.ask(key)
        if self.ending.struck:
            self.ending.late.add(key)
        if entry is not None:
            await self.turn(key)
            self.timers.saw(entry)
        return entry

    @property
    def timers(self) -> Timers:
        """Those that the body sets; made where one is."""
        if self._timers is None:
            self._timers = Timers(self, self._dues, self._began, self.home, DIVERGENCE_GRACE_S)
        return self._timers

    def _moved(self) -> None:
        if self._timers is not None and self.state in {"leaving", "given_back"}:
            self._timers.note_all()
        if self._timers is not None and self.state in OVER and self._timers.close():
            self._timers = None  # a cycle would wait for the garbage collector

    # Step calls.

    async def step(self, call: Call) -> Any:
        """The result of a step call, from the journal or by executing it."""
        # A call of a run that replays nothing, as most are, is spared every coroutine that it does not need.
        key = call.key
        entry = await self.replayed(key) if self._replays or self.ending.struck else None
        if entry is None:
            if self.ending.struck and self.ending.within() is None:
                raise Handoff
            if self._replays or self.diverged is not None:
                may_end = self.turnstile.fires or (key in self._interrupted and self.timers.pending)
                grace_s = TIMEOUT_GRACE_S if may_end else DIVERGENCE_GRACE_S
                await self.all_replayed(f"calls step {call.name!r}", key, grace_s)
                if self.timers.release():
                    await asyncio.sleep(0)  # a timer that is overdue gives up what it is around before that begins
            if self._reached_before:
                self.reached(key)
            if self.state != "running" or self.ending.outcome is not None:
                await self.held_up()
            try:
                if self._traced is None:
                    result = await self._execute(call, None)
                else:
                    with self._traced.step(call) as trace:
                        result = await self._execute(call, trace)
            except Exception:
                await self.turn(key)
                raise
            if not self.is_given_at_once(key):
                await self.turn(key)
            return result
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return call.codec.decode_result(entry.value or b"null")

    async def all_replayed(self, what: str, key: str | None = None, grace_s: float = DIVERGENCE_GRACE_S) -> None:
        """Wait until the body has asked for all that is recorded and seen it, before anything new is executed.

        `what` the pipeline does, and the `key` of the call, are told where it never asks for the rest.
        In unchanged code every recorded call depends on recorded results only, so it is asked for without any new step.
        And what is asked for now may be given up, as in the first execution, once the body sees what is recorded.
        """
        if self.diverged is not None:
            raise Handoff
        if not self._replays:
            return
        if not await self.caught_up(grace_s) and self.diverged is None:
            self.diverged = differs(self.journal.unasked()[0], what, key)
        if self.diverged is not None:
            raise Handoff
        self._replays = False

    async def _execute(self, call: Call, trace: StepTrace | None) -> Any:
        number = 1
        if self._interrupted:
            call, number = await self.first_attempt(call)
        while True:
            result = await self.attempt(Attempt(self, call, number, trace))
            if not isinstance(result, Again):
                return result
            with self.waits(self.clock.time() + result.delay_s):
                await sleep_for(self.clock, result.delay_s)
            number += 1

    async def attempt(self, attempt: Attempt) -> Any:
        """Execute a step once: its result, or `Again` if it is to be tried once more.

        Raises:
            Exception: what the body is given for what the step raised for good.
        """
        if attempt.call.policy.lane == "thread" and attempt.place is None:
            return await self._in_thread(attempt)
        call, key, number, trace = attempt.call, attempt.key, attempt.number, attempt.trace
        await self._enter(attempt)
        at, started = self.clock.time(), self.clock.monotonic()
        try:
            if trace is not None:
                trace.attempt(number)
            attempt.announce(events.StepStarted(call.name, key, number), at)
            if call.policy.effect == "once" or self.suspects.watched:
                attempt.waits()
                await self.log.durable()
            live, value = await self._lanes.run(attempt)
            result = call.codec.decode_result(value, live)  # what cannot be read again has failed
            kept = value
            if self.kept is not as_it_is:
                attempt.waits()
                kept = await self.kept(value, f"step {call.name!r}")
            duration_ms = round((self.clock.monotonic() - started) * 1000, 3)
            self.append(
                Entry(key, call.name, "step", kept, None, number, at, duration_ms),
                events.draft(events.StepCompleted(call.name, key, number, duration_ms), rfc3339(self.clock.time())),
            )
            self.suspects.ended(key)
            self._metrics.step(self.facts.pipeline, call.name, "completed")
            if trace is not None:
                trace.completed(value)
            if call.policy.effect == "once":
                await self.log.durable()
        except BaseException as raised:
            if self._is_ended_from_outside(attempt, raised):
                raise
            error = raised if isinstance(raised, Exception) else aborted(raised, f"step {call.name!r}")
            failed = self._after_failure(attempt, error, at, round((self.clock.monotonic() - started) * 1000, 3))
            if failed is raised:
                raise
        else:
            return result
        finally:
            self._leave(attempt)
        if isinstance(failed, Again):
            return failed
        raise failed  # here, where what it stands for is not its context

    async def _in_thread(self, attempt: Attempt) -> Any:
        """The same once there is a thread for it; until then it is not in flight."""
        place = attempt.place = self._lanes.threads.place(attempt.call.name)
        try:
            if not place.is_given:
                await self._queue(place)
            return await self.attempt(attempt)
        finally:
            place.leave()

    def _is_ended_from_outside(self, attempt: Attempt, raised: BaseException) -> bool:
        """Whether a step has not failed by this, but was stopped."""
        watch = attempt.watch
        if watch is not None and watch.is_left():
            return True
        if isinstance(raised, Exception):
            return False
        if isinstance(raised, Handoff) or self.state in OVER:
            return True
        is_run_cancelled = self.facts.cancelled and not attempt.cleans_up
        return is_cancellation(raised) and (is_run_cancelled or (watch is not None and watch.asked()))

    def _after_failure(self, attempt: Attempt, error: Exception, at: float, duration_ms: float) -> Again | Exception:
        """Announce a retry, or record the failure and return what the body is given."""
        call, key, number = attempt.call, attempt.key, attempt.number
        now = self.clock.time()
        mark(error, call.name, number)
        if isinstance(error, StepTimeout):
            self._metrics.timed_out(self.facts.pipeline, call.name)
        is_final = isinstance(error, (EncodingError, ObjectsUnavailable))  # another try would end the same
        retry = call.policy.retry
        wait = None if is_final else delay_s(retry, number, error, self.clock.random(), retry_after_s(error, now))
        if wait is not None:
            failure = failure_of(error)
            body: events.Body = events.StepRetrying(call.name, key, number, failure.public(), round(wait * 1000, 3))
            self.append(None, events.draft(body, rfc3339(now)))
            self._metrics.retrying(self.facts.pipeline, call.name)
            if attempt.trace is not None:
                attempt.trace.retrying(number, failure, wait)
            return Again(wait, error)
        return self._fail(call, number, error, at, duration_ms)

    def _fail(self, call: Call, number: int, error: Exception, at: float, duration_ms: float) -> Exception:
        """Record that a step has failed for good; what the body is given for it, now as in a replay."""
        key = call.key
        mark(error, call.name, number)
        failure, given = replayable(error)
        body = events.StepFailed(call.name, key, number, duration_ms, failure.public())
        entry = Entry(key, call.name, "step", None, failure, number, at, duration_ms)
        self.append(entry, events.draft(body, rfc3339(self.clock.time())))
        self.suspects.ended(key)
        self._metrics.step(self.facts.pipeline, call.name, "failed")
        return given

    async def first_attempt(self, call: Call) -> tuple[Call, int]:
        """How to go on with a step that an earlier execution began: interruption is not an attempt (D3)."""
        before = self._interrupted.pop(call.key, None)
        if before is None:
            return call, 1
        if before.status == "retrying":
            due = before.changed_epoch() + before.delay_ms / 1000
            with self.waits(due):
                await sleep_for(self.clock, due - self.clock.time())
            return call, before.attempts + 1
        if call.policy.effect == "once" and call.decider is None:
            unknown = EffectUnknown(
                f"step {call.name!r} is effect='once' and was interrupted: find out whether its effect happened, "
                f"by its idempotency key {self.facts.idempotency_key(call.key)!r}, or declare on_unknown="
            )
            raise self._fail(call, before.attempts, unknown, self.clock.time(), 0.0)
        failure = Failure(events.INTERRUPTED, "the process that executed this ended", call.name, before.attempts)
        body = events.StepRetrying(call.name, call.key, before.attempts, failure.public(), 0.0)
        self.append(None, events.draft(body, rfc3339(self.clock.time())))
        return call if call.decider is None else call.decider(), before.attempts

    def traced_wait(self, what: str) -> contextlib.AbstractContextManager[object]:
        """A wait of the pipeline's own, as its trace shows it."""
        return contextlib.nullcontext() if self._traced is None else self._traced.wait(what)
