"""Strikes the body of a run that a cancellation or deadline ends, and gives it the block in which it may clean up.

The journal records the place of the strike, so a replay is struck there too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any, Self

import msgspec

from offramp.core.ending import CLEANUP, STRUCK, EndedBy, struck
from offramp.core.journal import Entry
from offramp.core.leaving import OVER
from offramp.execution.context import Ambient, current
from offramp.execution.ending import Cleanup
from offramp.execution.scope import Scope
from offramp.execution.waiting import sleep_for

LOOK_TURNS = 100
"""Loop turns in which a replay is checked each turn; after that periodically."""
LOOK_EVERY_S = 0.05
"""The period of these checks."""


async def strike(scope: Scope, cancel: Callable[[], object]) -> None:
    """On the run's loop: record the place and cancel the body, once it has seen all earlier records.

    An open cleanup is not interrupted.
    """
    ending, clock = scope.gate.ending, scope.clock
    entry, turns = scope.replay.journal.ask(STRUCK), 0
    while not ending.strikes_next(scope.replay.journal):
        if turns < LOOK_TURNS:
            await asyncio.sleep(0)
        else:
            await sleep_for(clock, LOOK_EVERY_S)
        turns += 1
    if entry is None:
        await scope.replay.result_order.settled()
        await ending.all_closed()
        if ending.outcome is None or scope.gate.state in OVER or scope.gate.state == "detached":
            return
        status: EndedBy = "expired" if ending.outcome.status == "expired" else "cancelled"
        entry = struck(status, clock.time())
        scope.append(entry, None)
    await scope.replay.result_order.turn(scope.replay.journal.position(STRUCK))
    await ending.all_closed()
    ending.strikes(entry.started_at)
    scope.replay.result_order.branch()  # a result that comes now is given after the body has seen the strike
    cancel()
    scope.gate.observer.ending_changed()


class CleanupBlock:
    """The block of `offramp.cleanup()` in a body."""

    __slots__ = ("_cleanup", "_inside", "_scope", "_token")

    def __init__(self, scope: Scope, timeout_s: float, inside: Callable[[Cleanup], Ambient]) -> None:
        self._scope = scope
        self._inside = inside
        self._token: Token[Any] | None = None
        self._cleanup = Cleanup(timeout_s)

    async def __aenter__(self) -> Self:
        scope, cleanup = self._scope, self._cleanup
        scope.gate.require_here()
        clock, seconds = scope.clock, cleanup.timeout_s
        if scope.gate.ending.struck:
            _hold_no_cancellation()
            seconds = self._due() - clock.time()
            await scope.steps.in_order()
        cleanup.ends = clock.monotonic() + max(0.0, seconds)
        self._token = current.set(self._inside(cleanup))
        scope.gate.ending.opened(cleanup, scope.gate.observer)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        ending = self._scope.gate.ending
        if self._token is not None:
            current.reset(self._token)
        ending.closed(self._cleanup, self._scope.gate.observer)
        if not ending.cleanups and ending.strikes_next(self._scope.replay.journal):
            await asyncio.get_running_loop().create_future()  # an ending run stops here

    def _due(self) -> float:
        """A journaled point in time, in epoch seconds: a replay does not extend it."""
        scope = self._scope
        key = scope.replay.journal.key(CLEANUP)
        entry = scope.recorded(key)
        if entry is None:
            due = scope.gate.ending.due(self._cleanup.timeout_s)
            entry = Entry(key, CLEANUP, "value", msgspec.json.encode(due), started_at=scope.clock.time())
            scope.append(entry, None)
        return float(msgspec.json.decode(entry.value or b"0"))


def _hold_no_cancellation() -> None:
    """Prevent a task group or timeout inside from taking the cancellation of the run for its own."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
