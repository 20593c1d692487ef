"""The context of user code in a pipeline's body: emitted values, journaled values, sleeps and signals.

All of them are journaled, so a replay sees the same as the first execution.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from offramp.core import events
from offramp.core.failure import exception_of, failure_of
from offramp.core.journal import Entry
from offramp.core.leaving import OVER
from offramp.core.question import Question
from offramp.core.run import Path
from offramp.core.timestamps import NEVER_S, rfc3339
from offramp.core.waits import refusal
from offramp.errors import SignalTimeout
from offramp.execution.context import Run, current
from offramp.execution.driving import RunTask
from offramp.execution.ending import Cleanup
from offramp.execution.striking import CleanupBlock
from offramp.execution.waiting import Received, Taker, sleep_for

if TYPE_CHECKING:
    from offramp.execution.scope import Scope
    from offramp.ports.clock import Clock


class _Wait(NamedTuple):
    """A wait, as the event log describes it."""

    kind: Literal["sleep", "signal"]
    name: str | None
    key: str
    ask: bytes = b"null"
    schema: bytes = b"null"

    def started(self, until: str | None, at: float) -> events.Draft:
        """The event of its start; `at` in epoch seconds."""
        asked = msgspec.Raw(self.ask), msgspec.Raw(self.schema)
        return events.draft(events.WaitStarted(self.kind, self.name, self.key, until, *asked), rfc3339(at))

    def ended(self, reason: Literal["due", "received", "cancelled"], at: float) -> events.Draft:
        """The event of its end; `at` in epoch seconds."""
        return events.draft(events.WaitEnded(self.kind, self.name, self.key, reason), rfc3339(at))


class Body:
    """The context variable's value while a pipeline's own code runs."""

    __slots__ = ("scope", "within")

    def __init__(self, scope: Scope, within: Cleanup | None = None) -> None:
        self.scope = scope
        self.within = within

    @property
    def clock(self) -> Clock:
        """The injected clock."""
        return self.scope.clock

    def run(self) -> Run:
        """The view of the run from the pipeline's body, which may depend on the values it reads there."""
        scope = self.scope
        return scope.facts.view(
            step=None,
            attempt=1,
            key=None,
            path=self._path,
            remaining=self._remaining,
            cancelled=lambda: scope.gate.ending.struck,
            replaying=lambda: scope.replaying,
        )

    def _path(self) -> Path:
        path: Path = self.value("offramp.path", lambda: self.scope.facts.path)
        return path

    def _remaining(self) -> float:
        return _endless(self.value("offramp.remaining", lambda: _encodable(self.scope.facts.remaining())))

    @property
    def replaying(self) -> bool:
        """Whether the body repeats an earlier execution."""
        return self.scope.replaying

    def cleanup(self, timeout: float) -> CleanupBlock:
        """A block whose steps execute after a cancellation or a deadline."""
        return CleanupBlock(self.scope, timeout, functools.partial(Body, self.scope))

    def emit(self, encoded: bytes) -> None:
        """Emit: a replay does not emit again."""
        scope = self.scope
        key = scope.replay.journal.key("offramp.emit", encoded)
        if scope.recorded(key):
            return
        at = scope.clock.time()
        body = events.StepDelta(scope.facts.pipeline, key, 1, msgspec.Raw(encoded))
        scope.append(Entry(key, "offramp.emit", "emit", started_at=at), events.draft(body, rfc3339(at)))

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """A value computed once."""
        return self._value(self.scope.replay.journal.key(name), name, compute)

    def _value(self, key: str, name: str, compute: Callable[[], Any]) -> Any:
        scope = self.scope
        entry = scope.recorded(key)
        if entry is not None:
            return msgspec.json.decode(entry.value or b"null")
        value = compute()
        scope.append(Entry(key, name, "value", msgspec.json.encode(value), started_at=scope.clock.time()), None)
        return value

    def _due(self, key: str, name: str, seconds: float) -> float:
        """A journaled point in time, in epoch seconds: a replay does not restart the wait."""
        return _endless(self._value(key, name, lambda: _encodable(self.scope.clock.time() + seconds)))

    async def sleep(self, seconds: float) -> None:
        """Wait until a journaled time; the end of the wait is journaled too."""
        scope = self.scope
        key = scope.replay.journal.key("offramp.sleep", msgspec.json.encode(seconds))
        due = self._due(key, "offramp.sleep", seconds)
        over = f"{key}:over"
        if await scope.replayed(over) is not None:
            return
        wait = _Wait("sleep", None, key)
        with scope.steps.traced_wait(scope, "sleep"), self._waits(wait, due):
            await sleep_for(scope.clock, due - scope.clock.time())
        at = scope.clock.time()
        entry = Entry(over, "offramp.sleep", "sleep", started_at=at)
        scope.append(entry, wait.ended("due", at))
        await scope.ended(over, entry)

    async def signal(self, question: Question, timeout: float | None) -> bytes:
        """The value of the next signal that answers this question, encoded."""
        scope, name = self.scope, question.name
        key = scope.replay.journal.key("offramp.signal", msgspec.json.encode(name))
        due = None if timeout is None else self._due(f"{key}:due", "offramp.signal", timeout)
        entry = await scope.replayed(key)
        if entry is None:
            # A signal that a recorded call received does not belong to this one.
            await scope.replay.complete(f"waits for signal {name!r}", key)
            at = scope.clock.time()
            wait = _Wait("signal", name, key, question.ask, question.schema)
            scope.gate.observer.waits_for_signal()
            fits = functools.partial(self._fits, question, key)
            with scope.steps.traced_wait(scope, name), scope.gate.still(), self._waits(wait, due) as came:
                settled = scope.replay.result_order.settled
                value = await scope.waits.mailbox.take(scope.clock, name, due, Taker(fits, came, settled))
            failure = None
            if value is None:
                failure = failure_of(SignalTimeout(f"no signal {name!r} came within {timeout:g} s"))
            ended = scope.clock.time()
            duration_ms = round(max(0.0, ended - at) * 1000, 3)
            entry = Entry(key, "offramp.signal", "signal", value, failure, started_at=at, duration_ms=duration_ms)
            scope.append(entry, wait.ended("received" if failure is None else "due", ended))
            await scope.ended(key, entry)
        elif entry.value is not None:
            scope.waits.mailbox.skip(name, entry.value)
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return entry.value or b"null"

    def _fits(self, question: Question, key: str, signal: Received) -> bool:
        """Whether a signal answers the question; one that does not is noted once, and then not checked again."""
        scope, refused = self.scope, refusal(key, signal.number)
        if refused in scope.replay.refused:
            return False
        problems = question.problems(signal.value)
        if problems and scope.gate.state in {"running", "leaving"}:
            scope.replay.refused.add(refused)
            errors = [{"pointer": pointer, "message": message} for pointer, message in problems]
            body = events.SignalRefused(question.name, key, signal.number, errors)
            scope.append(None, events.draft(body, rfc3339(scope.clock.time())))
            scope.waits.look()
        return not problems

    @contextlib.contextmanager
    def _waits(self, wait: _Wait, due: float | None) -> Iterator[Callable[[], object]]:
        """A wait of the run, also in its event log: its start, and its cancellation by the pipeline."""
        scope = self.scope
        scope.replay.reached(wait.key)
        if wait.key not in scope.replay.waiting:
            until = rfc3339(due) if due is not None and due < NEVER_S else None
            scope.append(None, wait.started(until, scope.clock.time()))
        try:
            with scope.waits.to(due) as came:
                yield came
        except BaseException:
            if scope.gate.state not in OVER:  # else the run waits in another process
                scope.log.append(None, wait.ended("cancelled", scope.clock.time()))
            raise


def _encodable(seconds: float) -> float | None:
    """The number, None for infinity, which JSON lacks."""
    return seconds if math.isfinite(seconds) else None


def _endless(seconds: float | None) -> float:
    return math.inf if seconds is None else float(seconds)


def new_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """The task factory of the run loops: with a second task, a body can see in which order results come."""
    ambient = current.get()
    if isinstance(ambient, Body):
        ambient.scope.replay.result_order.branch()
        ambient.scope.gate.observer.began_task()
    return RunTask(coroutine, loop=loop, **options)
