"""How a cancellation or a deadline reaches the body of a run, and what the run may do afterwards.

It strikes at a place that the journal holds, so that a replay is struck there too. Afterwards steps start in
`offramp.cleanup()` alone; the paths end the run when `until` says that its time is over.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from offramp.core.ending import CLEANUP, CLEANUP_S_MAX, STRUCK, EndedBy, struck
from offramp.core.journal import Entry
from offramp.core.run import Outcome
from offramp.errors import Divergence
from offramp.execution.context import Ambient, current
from offramp.execution.waiting import sleep_for

if TYPE_CHECKING:
    from offramp.execution.scope import Scope
    from offramp.ports.clock import Clock

log = logging.getLogger("offramp")

STRIKE_S_MAX = 60.0
"""What the replay of a run that is to end gets to reach the place where it is struck; then it ends there and then."""
LOOK_TURNS = 100
"""Loop turns that such a replay is looked at in each of them; then now and then."""
LOOK_EVERY_S = 0.05


class Ending:
    """Whether one executing run is to end from outside, and until when it is left alone; of one `Scope`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.outcome: Outcome | None = None
        """What it is to end with."""
        self.struck = False
        """Whether its body was told."""
        self.late: set[str] = set()
        """Keys of the calls that the body made after that."""
        self.on_change: Callable[[], object] = lambda: None
        """Called when `until` has another answer."""
        self.cleanups: list[Cleanup] = []
        """Those that are open."""
        self._closed: asyncio.Future[None] | None = None
        self._since = 0.0
        self._patience_s = 0.0
        self._struck_at = math.inf

    def begin(self, outcome: Outcome, *, replays: bool) -> None:
        """The run is to end so; from any thread."""
        now = self._clock.monotonic()
        self._since, self._patience_s = now, STRIKE_S_MAX if replays else 0.0
        for cleanup in list(self.cleanups):
            cleanup.ends = now + cleanup.timeout_s
        self.outcome = outcome

    def until(self, grace_s: float) -> float:
        """Until when, on the monotonic clock, the run is left alone; `inf` while it need not end."""
        if self.outcome is None:
            return math.inf
        cleanups = list(self.cleanups)
        if cleanups:
            return max(cleanup.ends for cleanup in cleanups)
        return self._since + (grace_s if self.struck else max(grace_s, self._patience_s))

    def within(self) -> Cleanup | None:
        """The open cleanup that the running code belongs to, as long as its time lasts."""
        cleanup: Cleanup | None = getattr(current.get(), "within", None)
        is_open = cleanup is not None and cleanup in self.cleanups
        return cleanup if is_open and cleanup is not None and cleanup.ends > self._clock.monotonic() else None

    def due(self, timeout_s: float) -> float:
        """When a cleanup that begins now has to end, in epoch seconds."""
        return min(self._clock.time() + timeout_s, self._struck_at + CLEANUP_S_MAX)

    def opened(self, cleanup: Cleanup) -> None:
        """A cleanup began."""
        self.cleanups.append(cleanup)
        if self.outcome is not None:
            self.on_change()

    def closed(self, cleanup: Cleanup) -> None:
        """A cleanup ended."""
        self.cleanups.remove(cleanup)
        if self.outcome is not None:
            self._since = self._clock.monotonic()
            self.on_change()
        if not self.cleanups and self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    async def strike(self, scope: Scope, cancel: Callable[[], object]) -> None:
        """On the run's loop: note the place and cancel the body, once it has seen what was recorded before.

        A cleanup that is open is not interrupted.
        """
        entry, turns = scope.journal.ask(STRUCK), 0
        while not self.strikes_next(scope):
            if turns < LOOK_TURNS:
                await asyncio.sleep(0)
            else:
                await sleep_for(self._clock, LOOK_EVERY_S)
            turns += 1
        if entry is None:
            await scope.turnstile.settled()
            await self._all_closed()
            if self.outcome is None or scope.state in {"closed", "detached"}:
                return
            status: EndedBy = "expired" if self.outcome.status == "expired" else "cancelled"
            entry = struck(status, self._clock.time())
            scope.append(entry, None)
        await scope.turnstile.turn(scope.journal.position(STRUCK))
        await self._all_closed()
        self._struck_at, self._since, self.struck = entry.started_at, self._clock.monotonic(), True
        scope.turnstile.branch()  # a result that comes now is given when the body has seen this
        cancel()
        self.on_change()

    async def _all_closed(self) -> None:
        while self.cleanups:
            self._closed = asyncio.get_running_loop().create_future()
            await self._closed

    def strikes_next(self, scope: Scope) -> bool:
        """Whether the body has asked for all that is recorded before the place where it is struck."""
        return self.outcome is not None and not self.struck and scope.journal.asked_before(STRUCK)


class Cleanup:
    """What `offramp.cleanup()` gives in a body; `ends` is on the monotonic clock."""

    __slots__ = ("_inside", "_scope", "_token", "ends", "timeout_s")

    def __init__(self, scope: Scope, timeout_s: float, inside: Callable[[Cleanup], Ambient]) -> None:
        self._scope = scope
        self._inside = inside
        self._token: Token[Any] | None = None
        self.timeout_s = timeout_s
        self.ends = math.inf

    async def __aenter__(self) -> Self:
        scope = self._scope
        scope.require_here()
        clock, seconds = scope.clock, self.timeout_s
        if scope.ending.struck:
            _hold_no_cancellation()
            seconds = self._due() - clock.time()
            await scope.recorded_in_order()
        self.ends = clock.monotonic() + max(0.0, seconds)
        self._token = current.set(self._inside(self))
        scope.ending.opened(self)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        ending = self._scope.ending
        if self._token is not None:
            current.reset(self._token)
        ending.closed(self)
        if not ending.cleanups and ending.strikes_next(self._scope):
            await asyncio.get_running_loop().create_future()  # a run that is to end goes no further than here

    def _due(self) -> float:
        """A journaled point in time, in epoch seconds: a restart gives no more time."""
        scope = self._scope
        key = scope.journal.key(CLEANUP)
        entry = scope.recorded(key)
        if entry is None:
            due = scope.ending.due(self.timeout_s)
            entry = Entry(key, CLEANUP, "value", msgspec.json.encode(due), started_at=scope.clock.time())
            scope.append(entry, None)
        return float(msgspec.json.decode(entry.value or b"0"))


def tell_of_failure(run_id: str, outcome: Outcome, error: BaseException) -> None:
    """A line about a body that was to end and raised something of its own, which its outcome does not show."""
    what = "no longer fits its journal" if isinstance(error, Divergence) else f"raised {type(error).__name__}"
    log.warning("%s: its body %s after it was %s; it may not have cleaned up", run_id, what, outcome.status)


def _hold_no_cancellation() -> None:
    """A task group or timeout inside is not to take the cancellation of the run for one of its own."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
