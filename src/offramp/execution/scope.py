"""What a step call does: find its journal entry or execute it, retry, record, announce.

One `Scope` per execution of a run. It decides whether a step may still start here, and is the only writer of the
run's journal and step events. User code reaches it through `context.current`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from offramp.core import events
from offramp.core.failure import Failure, exception_of, failure_of, mark
from offramp.core.journal import Entry, Journal
from offramp.core.retry import delay_s, retry_after_s
from offramp.core.timestamps import rfc3339
from offramp.errors import EffectUnknown, EncodingError
from offramp.execution.attempt import Attempt, RunFacts
from offramp.execution.context import Run
from offramp.execution.replay import ReplayOrder

if TYPE_CHECKING:
    from offramp.core.spec import StepSpec
    from offramp.execution.lanes import Lanes
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog

State = Literal["open", "stopping", "closed"]


class Handoff(BaseException):
    """Control flow: this execution is over here, the run goes on elsewhere or has ended.

    A BaseException, so that `except Exception` in a pipeline cannot eat it.
    """


class Scope:
    """The journal side of one executing run; also what `context.current` holds in the pipeline's body."""

    def __init__(
        self,
        facts: RunFacts,
        journal: Journal,
        log: RunLog,
        lanes: Lanes,
        clock: Clock,
        interrupted: dict[str, events.StepState],
    ) -> None:
        self.facts = facts
        self.journal = journal
        self.log = log
        self.clock = clock
        self._lanes = lanes
        self._interrupted = interrupted
        self._order = ReplayOrder(journal.replayable)
        self._lock = threading.Lock()
        self.state: State = "open"
        self.in_flight: dict[str, Attempt] = {}
        self.parked = 0
        self.on_change: Callable[[], object] | None = None

    # What user code reaches in the pipeline's body (see context.Ambient).

    def run(self) -> Run:
        """The view of the run from the pipeline's body."""
        return self.facts.view(None, 1, None)

    def emit(self, encoded: bytes) -> None:
        """Emit from the body: journaled, so that a replay does not emit again."""
        key = self.journal.key("offramp.emit", encoded)
        if self._recorded(key):
            return
        at = self.clock.time()
        body = events.StepDelta(self.facts.pipeline, key, 1, msgspec.Raw(encoded))
        self._append(Entry(key, "offramp.emit", "emit", started_at=at), events.draft(body, rfc3339(at)))

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """A value computed once and journaled."""
        key = self.journal.key(name)
        entry = self._recorded(key)
        if entry is not None:
            return msgspec.json.decode(entry.value or b"null")
        value = compute()
        encoded = msgspec.json.encode(value)
        self._append(Entry(key, name, "value", encoded, started_at=self.clock.time()), None)
        return value

    async def sleep(self, seconds: float) -> None:
        """Wait until a journaled time, so that a restart does not begin the wait anew; its end is journaled too."""
        key = self.journal.key("offramp.sleep", msgspec.json.encode(seconds))
        entry = self._recorded(key)
        if entry is None:
            at = self.clock.time()
            entry = Entry(key, "offramp.sleep", "sleep", msgspec.json.encode(at + seconds), started_at=at)
            self._append(entry, None)
        over = f"{key}:over"
        if self.journal.ask(over) is not None:
            await self._order.turn(self.journal.position(over))
            return
        wake_at: float = msgspec.json.decode(entry.value or b"0")
        await sleep_for(self.clock, wake_at - self.clock.time())
        self._append(Entry(over, "offramp.sleep", "sleep", started_at=self.clock.time()), None)

    def _recorded(self, key: str) -> Entry | None:
        entry = self.journal.ask(key)
        if entry is not None:
            self._order.skip(self.journal.position(key))
        return entry

    def _append(self, entry: Entry | None, event: events.Draft | None) -> None:
        """Record, unless this execution is over: then nothing may be written for the run any more."""
        if self.state == "closed":
            raise Handoff
        if entry is not None:
            self.journal.add(entry)
        self.log.append(entry, event)

    # Step calls.

    async def step(self, spec: StepSpec, key: str, encoded: bytes, arguments: tuple[Any, ...]) -> Any:
        """The result of a step call, from the journal or by executing it."""
        entry = self.journal.ask(key)
        if entry is None:
            return await self._execute(spec, key, encoded, arguments)
        await self._order.turn(self.journal.position(key))
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return spec.signature.decode_result(entry.value or b"null")

    async def _execute(self, spec: StepSpec, key: str, encoded: bytes, arguments: tuple[Any, ...]) -> Any:
        number = await self._first_attempt(spec, key)
        while True:
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
                self._append(
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
            else:
                return result
            finally:
                self._leave(attempt)
            await sleep_for(self.clock, wait)
            number += 1

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
            self._append(None, events.draft(body, rfc3339(now)))
            return wait
        self._fail(attempt.spec, key, number, error, at, duration_ms)
        return None

    def _fail(self, spec: StepSpec, key: str, number: int, error: Exception, at: float, duration_ms: float) -> None:
        """Record that a step has failed for good."""
        mark(error, spec.name, number)
        failure = failure_of(error)
        body = events.StepFailed(spec.name, key, number, duration_ms, failure.public())
        entry = Entry(key, spec.name, "step", None, failure, number, at, duration_ms)
        self._append(entry, events.draft(body, rfc3339(self.clock.time())))

    async def _first_attempt(self, spec: StepSpec, key: str) -> int:
        """Where to go on with a step that an earlier execution began: interruption is not an attempt (D3)."""
        before = self._interrupted.pop(key, None)
        if before is None:
            return 1
        if before.status == "retrying":
            await sleep_for(self.clock, before.delay_ms / 1000 - (self.clock.time() - before.changed_epoch()))
            return before.attempts + 1
        if spec.effect == "once":
            unknown = EffectUnknown(
                f"step {spec.name!r} is effect='once' and was interrupted: find out whether its effect happened, "
                f"by its idempotency key {self.facts.idempotency_key(key)!r}"
            )
            self._fail(spec, key, before.attempts, unknown, self.clock.time(), 0.0)
            raise unknown
        text = "the process that executed this attempt ended"
        failure = Failure(events.INTERRUPTED, text, spec.name, before.attempts)
        body = events.StepRetrying(spec.name, key, before.attempts, failure.public(), 0.0)
        self._append(None, events.draft(body, rfc3339(self.clock.time())))
        return before.attempts

    # Who may start a step, and when this execution ends. Called from the run loop and from the control loop.

    async def _enter(self, attempt: Attempt) -> None:
        with self._lock:
            if self.state == "open":
                self.in_flight[attempt.key] = attempt
                return
            if self.state == "closed" or self.facts.cancelled:
                raise Handoff
            self.parked += 1
        self._changed()
        await asyncio.get_running_loop().create_future()  # until the handoff cancels it

    def _leave(self, attempt: Attempt) -> None:
        attempt.live = False
        with self._lock:
            self.in_flight.pop(attempt.key, None)
            stopping = self.state != "open"
        if stopping:
            self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

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


async def sleep_for(clock: Clock, seconds: float) -> None:
    """Wait by the clock that was injected, on the running loop."""
    if seconds <= 0:
        return
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    timer = clock.call_at(clock.monotonic() + seconds, lambda: loop.call_soon_threadsafe(_set, future))
    try:
        await future
    finally:
        timer.cancel()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
