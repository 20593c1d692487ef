"""What a step call does: find its journal entry or execute it, retry, record, announce.

One `Scope` per execution of a run. It decides whether a step may still start here, and is the only writer of the
run's journal and step events.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from offramp.core import events
from offramp.core.failure import Failure, exception_of, failure_of, mark
from offramp.core.journal import Entry, Journal
from offramp.core.retry import delay_s, retry_after_s
from offramp.core.timestamps import rfc3339
from offramp.errors import EffectUnknown, EncodingError, LeaseLost, ObjectsUnavailable, StepTimeout
from offramp.execution.attempt import Again, Attempt, RunFacts
from offramp.execution.history import History
from offramp.execution.suspects import Suspects
from offramp.execution.tenure import Tenure
from offramp.execution.turns import SETTLE_TURNS, Turnstile
from offramp.execution.values import Kept, as_it_is
from offramp.execution.waiting import Mailbox, Waits, sleep_for
from offramp.ports.store import Parked
from offramp.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from offramp.core.spec import StepSpec
    from offramp.execution.lanes import Lanes
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog
    from offramp.telemetry.run_trace import RunTrace, StepTrace

REPLAY_TURNS = 100
"""Loop turns without progress after which a replay stands still, unless the body has waits of its own."""
DIVERGENCE_GRACE_S = 5.0
"""What a body with waits of its own gets before a replay that stands still counts as divergence."""
TIMEOUT_GRACE_S = 60.0
"""The same where it stands still at a step that was begun before: `asyncio.timeout` around it may end it again."""

State = Literal["open", "stopping", "detached", "closed"]


class Handoff(BaseException):
    """Control flow: this execution is over here, the run goes on elsewhere or has ended.

    A BaseException, so that `except Exception` in a pipeline cannot eat it.
    """


class Scope:
    """The journal side of one executing run."""

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
    ) -> None:
        self.facts = facts
        self.kept = kept
        self.trace = trace
        self._traced = None if trace is None or not trace.recording else trace
        self.journal = Journal(history.entries)
        self.log = log
        self.clock = clock
        self._lanes = lanes
        self._tenure = tenure or Tenure()
        self._metrics = metrics
        self.mailbox = Mailbox(history.signals)
        self.diverged: str | None = None
        self._interrupted = dict(history.interrupted)
        self.suspects = Suspects(history, log)
        self.waiting = set(history.waiting)
        """The keys of waits that the event log knows as begun."""
        self.turnstile = Turnstile(self.journal.replayable)
        self._replays = self.journal.replayable > 0
        self._waits = Waits()
        self._moves = 0
        self._lock = threading.Lock()
        self.state: State = "open"
        self.in_flight: dict[str, Attempt] = {}
        self.parked = 0
        self.rest: Parked | None = None
        """Until when the run was found to wait, and how many signals it had seen, if it was ended for that."""
        self.on_change: Callable[[], object] = lambda: None
        self.on_rest: Callable[[], object] | None = None
        self.on_signal_wait: Callable[[], object] = lambda: None

    # The journal.

    def recorded(self, key: str) -> Entry | None:
        """The entry of a call that cannot wait for its turn in the replay."""
        entry = self.journal.ask(key)
        if entry is not None:
            self.turnstile.skip(self.journal.position(key))
        return entry

    async def replayed(self, key: str) -> Entry | None:
        """The entry of a call, when it is its turn; None when it has not finished before."""
        entry = self.journal.ask(key)
        if entry is not None:
            await self.turn(key)
        return entry

    async def turn(self, key: str) -> None:
        """Wait until the body may be given the entry of this call, be it recorded just now or by an earlier execution.

        Called last: nothing of the run waits or is in flight for the call any more.
        """
        if await self.turnstile.turn(self.journal.position(key)):
            self._resting()
        if self.state == "detached":  # the body goes on elsewhere: here it sees nothing more, until it is thrown away
            await asyncio.get_running_loop().create_future()

    def append(self, entry: Entry | None, event: events.Draft | None) -> None:
        """Record, unless this execution is over: then nothing may be written for the run any more."""
        if self.state == "closed":
            raise Handoff
        self._moves += 1
        if entry is not None:
            self.journal.add(entry)
        self.log.append(entry, event)

    # Step calls.

    async def step(self, spec: StepSpec, key: str, encoded: bytes, arguments: tuple[Any, ...]) -> Any:
        """The result of a step call, from the journal or by executing it."""
        entry = await self.replayed(key)
        if entry is None:
            if self._replays or self.diverged is not None:
                # One that was begun before is no sign of other code by itself: a timeout in the body may strike again.
                grace_s = TIMEOUT_GRACE_S if key in self._interrupted else DIVERGENCE_GRACE_S
                await self.all_replayed(f"step {spec.name!r}", spec.name, grace_s)
            try:
                if self._traced is None:
                    result = await self._execute(spec, key, encoded, arguments, None)
                else:
                    with self._traced.step(spec, key, encoded) as trace:
                        result = await self._execute(spec, key, encoded, arguments, trace)
            except Exception:
                await self.turn(key)
                raise
            await self.turn(key)
            return result
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return spec.signature.decode_result(entry.value or b"null")

    async def all_replayed(self, what: str, name: str | None = None, grace_s: float = DIVERGENCE_GRACE_S) -> None:
        """Wait until the body has asked for all that is recorded and seen it, before anything new (`what`) is executed.

        In unchanged code every recorded call depends on recorded results only, so it is asked for without any new step.
        And what is asked for now may be given up, as in the first execution, once the body sees what is recorded.
        """
        if self.diverged is not None:
            raise Handoff
        if not self._replays:
            return
        clock, journal = self.clock, self.journal
        turns, before, ends = 0, self._progress, math.inf
        while journal.missing:
            if turns < REPLAY_TURNS:
                await asyncio.sleep(0)
                turns += 1
            elif clock.monotonic() < ends:
                ends = min(ends, clock.monotonic() + grace_s)
                await sleep_for(clock, DIVERGENCE_GRACE_S / 100)
            else:
                missed = journal.unasked()[0].name
                other = "other arguments" if missed == name else repr(missed)
                self.diverged = f"the pipeline calls {what} where the journal has {other}"
            if self.diverged is not None:
                raise Handoff
            if self._progress != before:
                turns, before, ends = 0, self._progress, math.inf
        await self.turnstile.settled()
        self._replays = False

    @property
    def _progress(self) -> tuple[int, int]:
        """Changes while a replay goes on."""
        return self.journal.missing, self.turnstile.passed

    async def _execute(
        self, spec: StepSpec, key: str, encoded: bytes, arguments: tuple[Any, ...], trace: StepTrace | None
    ) -> Any:
        spec, number = await self.first_attempt(spec, key)
        while True:
            result = await self.attempt(Attempt(self, spec, key, number, trace), encoded, arguments)
            if not isinstance(result, Again):
                return result
            with self.waits(self.clock.time() + result.delay_s):
                await sleep_for(self.clock, result.delay_s)
            number += 1

    async def attempt(self, attempt: Attempt, encoded: bytes, arguments: tuple[Any, ...]) -> Any:
        """Execute a step once: its result, `Again` if it is to be tried once more, or what it raised for good."""
        spec, key, number, trace = attempt.spec, attempt.key, attempt.number, attempt.trace
        await self._enter(attempt)
        at, started = self.clock.time(), self.clock.monotonic()
        try:
            if trace is not None:
                trace.attempt(number)
            attempt.announce(events.StepStarted(spec.name, key, number), at)
            if spec.effect == "once" or self.suspects.watched:
                await self.log.durable()
            live, value = await self._lanes.run(attempt, encoded, arguments)
            result = spec.signature.decode_result(value, live)  # what cannot be read again has failed
            kept = await self.kept(value, f"step {spec.name!r}")
            duration_ms = round((self.clock.monotonic() - started) * 1000, 3)
            self.append(
                Entry(key, spec.name, "step", kept, None, number, at, duration_ms),
                events.draft(events.StepCompleted(spec.name, key, number, duration_ms), rfc3339(self.clock.time())),
            )
            self.suspects.ended(key)
            self._metrics.step(self.facts.pipeline, spec.name, "completed")
            if trace is not None:
                trace.completed(value)
            if spec.effect == "once":
                await self.log.durable()
        except Exception as error:
            wait = self._after_failure(attempt, error, at, round((self.clock.monotonic() - started) * 1000, 3))
            if wait is None:
                raise
            return Again(wait, error)
        else:
            return result
        finally:
            self._leave(attempt)

    def _after_failure(self, attempt: Attempt, error: Exception, at: float, duration_ms: float) -> float | None:
        """Announce a retry and return its delay in seconds, or record the failure and return None."""
        spec, key, number = attempt.spec, attempt.key, attempt.number
        now = self.clock.time()
        failure = failure_of(error, spec.name, number)
        if isinstance(error, StepTimeout):
            self._metrics.timed_out(self.facts.pipeline, spec.name)
        is_final = isinstance(error, (EncodingError, ObjectsUnavailable))  # another try would end the same
        wait = None if is_final else delay_s(spec.retry, number, error, self.clock.random(), retry_after_s(error, now))
        if wait is not None:
            body: events.Body = events.StepRetrying(spec.name, key, number, failure.public(), round(wait * 1000, 3))
            self.append(None, events.draft(body, rfc3339(now)))
            self._metrics.retrying(self.facts.pipeline, spec.name)
            if attempt.trace is not None:
                attempt.trace.retrying(number, failure, wait)
            return wait
        self._fail(attempt.spec, key, number, error, at, duration_ms)
        return None

    def _fail(self, spec: StepSpec, key: str, number: int, error: Exception, at: float, duration_ms: float) -> None:
        """Record that a step has failed for good."""
        mark(error, spec.name, number)
        failure = failure_of(error)
        body = events.StepFailed(spec.name, key, number, duration_ms, failure.public())
        entry = Entry(key, spec.name, "step", None, failure, number, at, duration_ms)
        self.append(entry, events.draft(body, rfc3339(self.clock.time())))
        self.suspects.ended(key)
        self._metrics.step(self.facts.pipeline, spec.name, "failed")

    async def first_attempt(self, spec: StepSpec, key: str) -> tuple[StepSpec, int]:
        """How to go on with a step that an earlier execution began: interruption is not an attempt (D3)."""
        before = self._interrupted.pop(key, None)
        if before is None:
            return spec, 1
        if before.status == "retrying":
            due = before.changed_epoch() + before.delay_ms / 1000
            with self.waits(due):
                await sleep_for(self.clock, due - self.clock.time())
            return spec, before.attempts + 1
        if spec.effect == "once" and spec.on_unknown is None:
            unknown = EffectUnknown(
                f"step {spec.name!r} is effect='once' and was interrupted: find out whether its effect happened, "
                f"by its idempotency key {self.facts.idempotency_key(key)!r}, or declare on_unknown="
            )
            self._fail(spec, key, before.attempts, unknown, self.clock.time(), 0.0)
            raise unknown
        failure = Failure(events.INTERRUPTED, "the process that executed this ended", spec.name, before.attempts)
        body = events.StepRetrying(spec.name, key, before.attempts, failure.public(), 0.0)
        self.append(None, events.draft(body, rfc3339(self.clock.time())))
        return spec.on_unknown or spec, before.attempts

    # Who may start a step, and when this execution ends. Called from the run loop and from the control loop.

    async def _enter(self, attempt: Attempt) -> None:
        if not self._tenure.holds(self.clock.monotonic()):
            await self._still_ours()
        with self._lock:
            if self.state == "open":
                self.in_flight[attempt.key] = attempt
                return
            if self.state == "closed" or self.facts.cancelled:
                raise Handoff
            self.parked += 1
        self.on_change()
        await asyncio.get_running_loop().create_future()  # until the handoff cancels it

    async def _still_ours(self) -> None:
        """This process was silent for longer than its lease: another one may have finished the step meanwhile (D2)."""
        try:
            await self.log.durable()
        except LeaseLost:
            raise Handoff from None

    def _leave(self, attempt: Attempt) -> None:
        attempt.live = False
        with self._lock:
            self.in_flight.pop(attempt.key, None)
        if self.state != "open":
            self.on_change()
        elif not self.in_flight:
            self._resting()

    # Waiting, which needs no process.

    @contextlib.contextmanager
    def waits(self, due: float | None) -> Iterator[Callable[[], object]]:
        """A wait of this run that ends at the latest at `due`, in epoch seconds; None for no end."""
        with self._waits.until(due) as came:
            self._resting()
            yield came
        self._resting()  # others may still wait, and now nothing else keeps the run from being parked

    def traced_wait(self, what: str) -> contextlib.AbstractContextManager[object]:
        """A wait of the pipeline's own, as its trace shows it."""
        return contextlib.nullcontext() if self._traced is None else self._traced.wait(what)

    def _resting(self) -> None:
        self._moves += 1
        if self.in_flight or self._waits.earliest() is None:
            return
        if self.state == "stopping":
            self.on_change()
        elif self.on_rest is not None:
            self.on_rest()

    def waits_until(self) -> float | None:
        """Until when, in epoch seconds, the run seems to do nothing but wait; None if it does something. A snapshot."""
        with self._lock:
            busy = self.in_flight or self.parked or self.turnstile.waiting
            return None if busy else self._waits.earliest()

    def close_at_rest(self, state: State, beyond: float, then: Callable[[], object]) -> None:
        """On the run's loop: end this execution if, in this state, the run only waits until after `beyond`.

        What the body was given last has a few turns of the loop to reach whoever waits for it: a run that goes on in
        another branch than those that wait is not at rest, although no step of it is in flight yet.

        Args:
            state: the execution's, from now until it is ended.
            beyond: epoch seconds.
            then: called if it was ended so; `rest` says what to park.
        """

        def look(moves: int | None) -> None:
            until = self.waits_until()
            if until is None or until <= beyond or self.state != state:
                return
            if moves != self._moves:
                self.turnstile.turns.after(SETTLE_TURNS, functools.partial(look, self._moves))
                return
            with self._lock:
                if self.state != state:
                    return
                # Whoever waits has not been given any of the signals seen: both change on this loop only.
                self.state, self.rest = "closed", Parked(until, self.mailbox.seen)
            then()

        look(None)

    def stop_at_boundary(self) -> list[str]:
        """Let no further step start; returns the keys of those in flight."""
        with self._lock:
            if self.state == "open":
                self.state = "stopping"
            return list(self.in_flight)

    def close_if_idle(self) -> None:
        """End this execution unless a step is in flight."""
        with self._lock:
            if not self.in_flight:
                self.state = "closed"

    def close(self) -> None:
        """End this execution: nothing is written for the run any more, not even by what still runs."""
        with self._lock:
            self.state = "closed"
