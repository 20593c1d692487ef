"""What a step call does: find its journal entry or execute it, retry, record, announce.

One `Scope` per execution of a run. It decides whether a step may still start here, and is the only writer of the
run's journal and step events.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from offramp.core import events
from offramp.core.failure import Failure, exception_of, failure_of, mark
from offramp.core.journal import Entry, Journal
from offramp.core.retry import delay_s, retry_after_s
from offramp.core.timestamps import rfc3339
from offramp.errors import EffectUnknown, EncodingError, LeaseLost
from offramp.execution.attempt import Attempt, RunFacts
from offramp.execution.replay import ReplayOrder
from offramp.execution.tenure import Tenure
from offramp.execution.waiting import Mailbox, Waits, sleep_for
from offramp.ports.store import Parked

if TYPE_CHECKING:
    from offramp.core.spec import StepSpec
    from offramp.execution.lanes import Lanes
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog

REPLAY_TURNS = 100
"""Loop turns without progress after which a replay stands still, unless the body has waits of its own."""
DIVERGENCE_GRACE_S = 5.0
"""What a body with waits of its own gets before a replay that stands still counts as divergence."""
TIMEOUT_GRACE_S = 60.0
"""The same where it stands still at a step that was begun before: `asyncio.timeout` around it may end it again."""

State = Literal["open", "stopping", "closed"]


class History(NamedTuple):
    """What earlier executions of a run left: finished steps, steps they began and did not finish, signals received."""

    entries: Sequence[Entry] = ()
    interrupted: Mapping[str, events.StepState] = {}
    signals: Sequence[tuple[str, bytes]] = ()


class Again(NamedTuple):
    """An attempt failed, and another is to follow after so many seconds."""

    delay_s: float
    error: Exception


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
        tenure: Tenure | None = None,
    ) -> None:
        self.facts = facts
        self.journal = Journal(history.entries)
        self.log = log
        self.clock = clock
        self._lanes = lanes
        self._tenure = tenure or Tenure()
        self.mailbox = Mailbox(history.signals)
        self.diverged: str | None = None
        self._interrupted = dict(history.interrupted)
        self._order = ReplayOrder(self.journal.replayable)
        self._waits = Waits()
        self._lock = threading.Lock()
        self.state: State = "open"
        self.in_flight: dict[str, Attempt] = {}
        self.parked = 0
        self.on_change: Callable[[], object] | None = None
        self.on_rest: Callable[[], object] | None = None
        self.on_signal_wait: Callable[[], object] = lambda: None

    # The journal.

    def recorded(self, key: str) -> Entry | None:
        """The entry of a call that cannot wait for its turn in the replay."""
        entry = self.journal.ask(key)
        if entry is not None:
            self._order.skip(self.journal.position(key))
        return entry

    async def replayed(self, key: str) -> Entry | None:
        """The entry of a call, when it is its turn; None when it has not finished before."""
        entry = self.journal.ask(key)
        if entry is not None:
            await self._order.turn(self.journal.position(key))
        return entry

    def append(self, entry: Entry | None, event: events.Draft | None) -> None:
        """Record, unless this execution is over: then nothing may be written for the run any more."""
        if self.state == "closed":
            raise Handoff
        if entry is not None:
            self.journal.add(entry)
        self.log.append(entry, event)

    # Step calls.

    async def step(self, spec: StepSpec, key: str, encoded: bytes, arguments: tuple[Any, ...]) -> Any:
        """The result of a step call, from the journal or by executing it."""
        entry = await self.replayed(key)
        if entry is None:
            # One that was begun before is no sign of other code by itself: a timeout in the body may strike again.
            grace_s = TIMEOUT_GRACE_S if key in self._interrupted else DIVERGENCE_GRACE_S
            await self.all_replayed(f"step {spec.name!r}", spec.name, grace_s)
            return await self._execute(spec, key, encoded, arguments)
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return spec.signature.decode_result(entry.value or b"null")

    async def all_replayed(self, what: str, name: str | None = None, grace_s: float = DIVERGENCE_GRACE_S) -> None:
        """Wait until the replay has asked for all that is recorded, before anything new (`what`) is executed.

        In unchanged code every recorded call depends on recorded results only, so it is asked for without any new step.
        """
        if self.diverged is not None:
            raise Handoff
        clock, journal = self.clock, self.journal
        turns, missing = 0, journal.missing
        while missing and turns < REPLAY_TURNS:
            await asyncio.sleep(0)
            turns = turns + 1 if journal.missing == missing else 0
            missing = journal.missing
        ends = clock.monotonic() + grace_s
        while journal.missing:
            if self.diverged is not None or clock.monotonic() >= ends:
                missed = journal.unasked()[0].name
                other = "other arguments" if missed == name else repr(missed)
                self.diverged = f"the pipeline calls {what} where the journal has {other}"
                raise Handoff
            await sleep_for(clock, DIVERGENCE_GRACE_S / 100)

    async def _execute(self, spec: StepSpec, key: str, encoded: bytes, arguments: tuple[Any, ...]) -> Any:
        spec, number = await self.first_attempt(spec, key)
        while True:
            result = await self.attempt(spec, key, number, encoded, arguments)
            if not isinstance(result, Again):
                return result
            with self.waits(self.clock.time() + result.delay_s):
                await sleep_for(self.clock, result.delay_s)
            number += 1

    async def attempt(self, spec: StepSpec, key: str, number: int, encoded: bytes, arguments: tuple[Any, ...]) -> Any:
        """Execute a step once: its result, `Again` if it is to be tried once more, or what it raised for good."""
        attempt = Attempt(self, spec, key, number)
        await self._enter(attempt)
        at = self.clock.time()
        started = self.clock.monotonic()
        try:
            attempt.announce(events.StepStarted(spec.name, key, number), at)
            if spec.effect == "once":
                await self.log.durable()
            live, value = await self._lanes.run(attempt, encoded, arguments)
            result = spec.signature.decode_result(value, live)  # what cannot be read again has failed
            duration_ms = round((self.clock.monotonic() - started) * 1000, 3)
            self.append(
                Entry(key, spec.name, "step", value, None, number, at, duration_ms),
                events.draft(events.StepCompleted(spec.name, key, number, duration_ms), rfc3339(self.clock.time())),
            )
            if spec.effect == "once":
                await self.log.durable()
        except Exception as error:
            duration_ms = round((self.clock.monotonic() - started) * 1000, 3)
            wait = self._after_failure(attempt, error, at, duration_ms)
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
        asked = retry_after_s(error, now)
        wait = None
        if not isinstance(error, EncodingError):  # another try would return the same type
            wait = delay_s(spec.retry, number, error, self.clock.random(), asked)
        if wait is not None:
            body: events.Body = events.StepRetrying(spec.name, key, number, failure.public(), round(wait * 1000, 3))
            self.append(None, events.draft(body, rfc3339(now)))
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
        text = "the process that executed this attempt ended"
        failure = Failure(events.INTERRUPTED, text, spec.name, before.attempts)
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
        self._changed()
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
            self._changed()
        elif not self.in_flight:
            self._resting()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    # Waiting, which needs no process.

    @contextlib.contextmanager
    def waits(self, due: float | None) -> Iterator[Callable[[], object]]:
        """A wait of this run that ends at the latest at `due`, in epoch seconds; None for no end."""
        with self._waits.until(due) as came:
            self._resting()
            yield came
        self._resting()  # others may still wait, and now nothing else keeps the run from being parked

    def _resting(self) -> None:
        if self.on_rest is not None and not self.in_flight and self._waits.earliest() is not None:
            self.on_rest()

    def parks(self) -> Parked | None:
        """Until when the run does nothing but wait, and the signals it knew before it was looked at; else None.

        The signals are counted first: one that comes meanwhile is then one too many for the store, which queues the
        run instead of parking it.
        """
        seen = self.mailbox.seen
        with self._lock:
            until = None if self.in_flight or self.parked else self._waits.earliest()
        return None if until is None else Parked(until, seen)

    def close_if_resting(self, beyond: float) -> Parked | None:
        """End this execution if the run only waits, until after `beyond` in epoch seconds; else None."""
        seen = self.mailbox.seen
        with self._lock:
            until = self._waits.earliest()
            if self.state != "open" or self.in_flight or until is None or until <= beyond:
                return None
            self.state = "closed"
            return Parked(until, seen)

    def stop_at_boundary(self) -> list[str]:
        """Let no further step start; returns the keys of those in flight."""
        with self._lock:
            if self.state == "open":
                self.state = "stopping"
            return list(self.in_flight)

    def close_if_idle(self) -> bool:
        """End this execution unless a step is in flight."""
        with self._lock:
            if not self.in_flight:
                self.state = "closed"
            return self.state == "closed"

    def close(self) -> None:
        """End this execution: nothing is written for the run any more, not even by what still runs."""
        with self._lock:
            self.state = "closed"
