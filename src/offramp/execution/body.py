"""What user code reaches in a pipeline's body: emitted values, journaled values, sleeps and signals.

All of it is journaled, so that a replay sees what the first execution saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from offramp.core import events
from offramp.core.failure import exception_of, failure_of
from offramp.core.journal import Entry
from offramp.core.timestamps import rfc3339
from offramp.errors import SignalTimeout
from offramp.execution.context import Run, current
from offramp.execution.waiting import sleep_for

if TYPE_CHECKING:
    from offramp.execution.scope import Scope
    from offramp.ports.clock import Clock


class Body:
    """The context variable's value while a pipeline's own code runs."""

    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    @property
    def clock(self) -> Clock:
        """The injected clock."""
        return self.scope.clock

    def run(self) -> Run:
        """The view of the run from the pipeline's body."""
        return self.scope.facts.view(None, 1, None)

    def emit(self, encoded: bytes) -> None:
        """Emit: a replay does not emit again."""
        scope = self.scope
        key = scope.journal.key("offramp.emit", encoded)
        if scope.recorded(key):
            return
        at = scope.clock.time()
        body = events.StepDelta(scope.facts.pipeline, key, 1, msgspec.Raw(encoded))
        scope.append(Entry(key, "offramp.emit", "emit", started_at=at), events.draft(body, rfc3339(at)))

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """A value computed once."""
        return self._value(self.scope.journal.key(name), name, compute)

    def _value(self, key: str, name: str, compute: Callable[[], Any]) -> Any:
        scope = self.scope
        entry = scope.recorded(key)
        if entry is not None:
            return msgspec.json.decode(entry.value or b"null")
        value = compute()
        scope.append(Entry(key, name, "value", msgspec.json.encode(value), started_at=scope.clock.time()), None)
        return value

    def _due(self, key: str, name: str, seconds: float) -> float:
        """A journaled point in time, in epoch seconds: a restart does not begin the wait anew."""
        return float(self._value(key, name, lambda: self.scope.clock.time() + seconds))

    async def sleep(self, seconds: float) -> None:
        """Wait until a journaled time; the end of the wait is journaled too."""
        scope = self.scope
        key = scope.journal.key("offramp.sleep", msgspec.json.encode(seconds))
        due = self._due(key, "offramp.sleep", seconds)
        over = f"{key}:over"
        if await scope.replayed(over) is not None:
            return
        with scope.waits(due):
            await sleep_for(scope.clock, due - scope.clock.time())
        scope.append(Entry(over, "offramp.sleep", "sleep", started_at=scope.clock.time()), None)
        await scope.turn(over)

    async def signal(self, name: str, timeout: float | None) -> bytes:
        """The value of the next signal of this name, encoded."""
        scope = self.scope
        key = scope.journal.key("offramp.signal", msgspec.json.encode(name))
        due = None if timeout is None else self._due(f"{key}:due", "offramp.signal", timeout)
        entry = await scope.replayed(key)
        if entry is None:
            await scope.all_replayed(f"signal {name!r}")  # a signal that a recorded call had is not this one's
            at = scope.clock.time()
            scope.on_signal_wait()
            with scope.waits(due) as came:
                value = await scope.mailbox.take(scope.clock, name, due, came, scope.turnstile.settled)
            failure = None
            if value is None:
                failure = failure_of(SignalTimeout(f"no signal {name!r} came within {timeout:g} s"))
            entry = Entry(key, "offramp.signal", "signal", value, failure, started_at=at)
            scope.append(entry, None)
            await scope.turn(key)
        elif entry.value is not None:
            scope.mailbox.skip(name, entry.value)
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return entry.value or b"null"


def new_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """The task factory of the run loops: with a second task, a body can see in which order results come."""
    ambient = current.get()
    if isinstance(ambient, Body):
        ambient.scope.turnstile.branch()
    return asyncio.Task(coroutine, loop=loop, **options)
