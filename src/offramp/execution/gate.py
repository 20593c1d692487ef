"""Whether a step of one executing run may start, and which are in flight: the state of the run in this process.

Called from the run's loop and from the control loop; knows nothing of journals or waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from offramp.core.leaving import OVER, Move, State, after, may_begin
from offramp.errors import LeaseLost
from offramp.execution.ending import Ending
from offramp.execution.endings import ExecutionOver
from offramp.execution.lease_window import LeaseWindow
from offramp.execution.observer import SILENT, Observer
from offramp.execution.stills import Stills

if TYPE_CHECKING:
    from offramp.core.critical import Interval
    from offramp.core.run import Outcome
    from offramp.execution.run_facts import RunFacts
    from offramp.ports.clock import Clock
    from offramp.ports.store import Parked, RunLog


class Entrant(Protocol):
    """The part of an attempt that the gate uses."""

    cleans_up: bool
    live: bool

    @property
    def key(self) -> str:
        """The key of its call."""

    def release(self) -> None:
        """Release its admissions."""


T = TypeVar("T")
E = TypeVar("E", bound=Entrant)


class Gate(Generic[E]):
    """The state of one executing run and its steps in flight, both under one lock."""

    def __init__(
        self,
        facts: RunFacts,
        log: RunLog,
        clock: Clock,
        lease_window: LeaseWindow | None = None,
        observer: Observer = SILENT,
    ) -> None:
        self._facts = facts
        self._log = log
        self._clock = clock
        self._lease_window = lease_window or LeaseWindow()
        self._lock = threading.Lock()
        self.observer = observer
        self.state: State = "running"
        """Read by any code; changed by `move` alone."""
        self.ending = Ending(clock)
        self.in_flight: dict[str, E] = {}
        self.parked = 0
        """Steps that wait for a thread, or came after the last permitted start."""
        self.rest: Parked | None = None
        """For a run that was given back at rest: the end of its wait, and how many signals it has seen."""
        self._stills: Stills | None = None

    def still(self, within: str = "") -> AbstractContextManager[None]:
        """Marks a wait for others: for permits, a thread or a signal; of a request `within` the step with this key."""
        if self._stills is None:
            self._stills = Stills(self._clock)
        return self._stills.during(within)

    def stills(self, now: float) -> Sequence[Interval]:
        """When the run waited for others, up to now on the monotonic clock."""
        return () if self._stills is None else self._stills.until(now)

    def stills_within(self, now: float) -> Mapping[str, Sequence[Interval]]:
        """When its steps in flight waited for others, by their keys."""
        return {} if self._stills is None else self._stills.within(now)

    def let_go(self) -> None:
        """Drop the observer: it refers to this, and a cycle waits for the garbage collector."""
        self.observer = SILENT

    def move(self, move: Move, rest: Parked | None = None, then: Callable[[], object] = lambda: None) -> bool:
        """Change the state, from any thread; False if a race is lost, or if the move is not allowed now.

        Args:
            move: the move.
            rest: the rest of a run that is given back at rest.
            then: called if the move is made, before the observer is notified.
        """
        with self._lock:
            is_to_end = self.ending.outcome is not None
            to = after(self.state, move, is_in_flight=bool(self.in_flight), is_to_end=is_to_end)
            if to is None:
                return False
            self.state = to
            if rest is not None:
                self.rest = rest
        then()
        self.observer.changed()
        return True

    def end_from_outside(self, outcome: Outcome, *, replays: bool) -> bool:
        """Let steps begin only in a cleanup: the run ends with this. False if it ends already. From any thread."""
        with self._lock:
            if self.state == "ended" or self.ending.outcome is not None:
                return False
            self._facts.cancelled = True
            self.ending.begin(outcome, replays=replays)
            return True

    async def enter(self, attempt: E) -> None:
        """Let an attempt begin, if it may: from here on it is in flight, until it leaves."""
        if not self._lease_window.holds(self._clock.monotonic()):
            await self._still_ours()
        ending = self.ending
        while True:
            if ending.cleanups:
                attempt.cleans_up = ending.within() is not None
            with self._lock:
                is_to_end = ending.outcome is not None
                cleans_up = attempt.cleans_up
                begins = may_begin(self.state, is_to_end=is_to_end, is_struck=ending.struck, cleans_up=cleans_up)
                if begins == "now":
                    self.in_flight[attempt.key] = attempt
                    return
            await self.held_up(attempt.release)

    async def held_up(self, release: Callable[[], object] = lambda: None) -> None:
        """Return at once if a step may start here; else wait until the body is cancelled, as the run leaves or ends.

        Args:
            release: releases the admissions of the step, for others to use meanwhile.

        Raises:
            ExecutionOver: the body was cancelled.
        """
        ending = self.ending
        cleans_up = ending.within() is not None
        with self._lock:
            is_to_end = ending.outcome is not None
            begins = may_begin(self.state, is_to_end=is_to_end, is_struck=ending.struck, cleans_up=cleans_up)
            if begins == "now":
                return
            if begins == "never":
                raise ExecutionOver
            self.parked += 1
        release()
        self.observer.changed()
        try:
            await asyncio.get_running_loop().create_future()  # until the handoff, or the end of the run, cancels it
        finally:
            self.parked -= 1

    def require_here(self) -> None:
        """Return if the run executes in this process.

        Raises:
            ExecutionOver: it continues in another process, or has ended.
        """
        if self.state in OVER or self.state == "detached":
            raise ExecutionOver

    @contextlib.contextmanager
    def queued(self) -> Iterator[None]:
        """Marks a step as waiting to begin. It is not in flight: a leaving run takes it along like any later step."""
        with self._lock:
            self.parked += 1
        if not self.is_open:
            self.observer.changed()
        try:
            with self.still():
                yield
        finally:
            with self._lock:
                self.parked -= 1

    async def _still_ours(self) -> None:
        """Check the lease after a silence longer than it: another process may have finished the step meanwhile (D2)."""
        try:
            await self._log.durable()
        except LeaseLost:
            raise ExecutionOver from None

    def leave(self, attempt: E) -> bool:
        """Note that an attempt is over; returns whether the run, which stays, has no other in flight."""
        attempt.live = False
        with self._lock:
            self.in_flight.pop(attempt.key, None)
        if self.state == "running" and self.ending.outcome is None:
            return not self.in_flight
        self.observer.changed()
        return False

    @property
    def is_open(self) -> bool:
        """Whether any step may begin."""
        return self.state == "running" and self.ending.outcome is None

    def if_idle(self, read: Callable[[], T]) -> T | None:
        """The result of `read`, called while no step is in flight or about to be; None otherwise. Under the lock."""
        with self._lock:
            return None if self.in_flight or self.parked else read()
