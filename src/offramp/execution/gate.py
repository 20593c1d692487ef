"""The activity of one executing run in this process: its state, its steps in flight and its waits.

Called from the run's loop and from the control loop; knows nothing of journals.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from offramp.core.leaving import OVER, Move, State, after, may_begin
from offramp.errors import LeaseLost
from offramp.execution.ending import Ending
from offramp.execution.endings import ExecutionOver
from offramp.execution.lease_window import LeaseWindow
from offramp.execution.observer import SILENT, Observer
from offramp.execution.turns import SETTLE_TURNS, ResultOrder
from offramp.execution.waiting import Mailbox, Waits
from offramp.ports.store import Parked

if TYPE_CHECKING:
    from offramp.core.run import Outcome
    from offramp.execution.attempt import Attempt
    from offramp.execution.run_facts import RunFacts
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog


class Gate:
    """The steps in flight and the waits of one executing run, and whether more may begin."""

    def __init__(
        self,
        facts: RunFacts,
        log: RunLog,
        clock: Clock,
        lease_window: LeaseWindow | None,
        mailbox: Mailbox,
        result_order: ResultOrder,
        observer: Observer,
    ) -> None:
        self.facts = facts
        self.log = log
        self.clock = clock
        self.mailbox = mailbox
        self.result_order = result_order
        self.observer = observer
        self._lease_window = lease_window or LeaseWindow()
        self._waits = Waits()
        self._stirs = 0
        self._lock = threading.Lock()
        self.state: State = "running"
        """Read by any code; changed by `move` alone."""
        self.ending = Ending(clock)
        self.in_flight: dict[str, Attempt] = {}
        self.parked = 0
        """Steps that wait for a thread, or came after the last permitted start."""
        self.rest: Parked | None = None
        """For a run that was given back at rest: the end of its wait, and how many signals it has seen."""

    def let_go(self) -> None:
        """Drop the observer: it refers to this, and a cycle waits for the garbage collector."""
        self.observer = SILENT

    def move(self, move: Move, rest: Parked | None = None) -> bool:
        """Change the state, from any thread; False if a race is lost, or if the move is not allowed now.

        Args:
            move: the move.
            rest: the rest of a run that is given back at rest.
        """
        with self._lock:
            is_to_end = self.ending.outcome is not None
            to = after(self.state, move, is_in_flight=bool(self.in_flight), is_to_end=is_to_end)
            if to is None:
                return False
            self.state = to
            if rest is not None:
                self.rest = rest
        self._moved()
        self.observer.changed()
        return True

    def _moved(self) -> None:
        """React to a changed state; from any thread."""

    def end_from_outside(self, outcome: Outcome, *, replays: bool) -> bool:
        """Let steps begin only in a cleanup: the run ends with this. False if it ends already. From any thread."""
        with self._lock:
            if self.state == "ended" or self.ending.outcome is not None:
                return False
            self.facts.cancelled = True
            self.ending.begin(outcome, replays=replays)
            return True

    async def enter(self, attempt: Attempt) -> None:
        """Let an attempt begin, if it may: from here on it is in flight, until it leaves."""
        if not self._lease_window.holds(self.clock.monotonic()):
            await self._still_ours()
        while True:
            if self.ending.cleanups:
                attempt.cleans_up = self.ending.within() is not None
            with self._lock:
                if self._may_begin(cleans_up=attempt.cleans_up) == "now":
                    self.in_flight[attempt.key] = attempt
                    return
            await self.held_up(attempt.release)

    def _may_begin(self, *, cleans_up: bool) -> Literal["now", "elsewhere", "never"]:
        ending = self.ending
        is_to_end = ending.outcome is not None
        return may_begin(self.state, is_to_end=is_to_end, is_struck=ending.struck, cleans_up=cleans_up)

    async def held_up(self, release: Callable[[], object] = lambda: None) -> None:
        """Return at once if a step may start here; else wait until the body is cancelled, as the run leaves or ends.

        Args:
            release: releases the admissions of the step, for others to use meanwhile.

        Raises:
            ExecutionOver: the body was cancelled.
        """
        cleans_up = self.ending.within() is not None
        with self._lock:
            begins = self._may_begin(cleans_up=cleans_up)
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
            yield
        finally:
            with self._lock:
                self.parked -= 1

    async def _still_ours(self) -> None:
        """Check the lease after a silence longer than it: another process may have finished the step meanwhile (D2)."""
        try:
            await self.log.durable()
        except LeaseLost:
            raise ExecutionOver from None

    def leave(self, attempt: Attempt) -> None:
        """Note that an attempt is over."""
        attempt.live = False
        with self._lock:
            self.in_flight.pop(attempt.key, None)
        if self.state != "running" or self.ending.outcome is not None:
            self.observer.changed()
        elif not self.in_flight:
            self._resting()

    # Waits, which need no process.

    @contextlib.contextmanager
    def waits(self, due: float | None) -> Iterator[Callable[[], object]]:
        """Note a wait of this run that ends at the latest at `due`, in epoch seconds; None for no end."""
        with self._waits.until(due) as came:
            self._resting()
            yield came
        self._resting()  # others may still wait, and nothing else may prevent parking now

    def begin_wait(self, due: float, *, bounds: bool) -> object:
        """The same until `end_wait`; one that `bounds` ends other waits, and does not count as a wait by itself."""
        self._stirs += 1
        return self._waits.begin(due, bounds=bounds)

    def end_wait(self, mark: object) -> None:
        """Of `begin_wait`."""
        self._stirs += 1
        self._waits.end(mark)

    @property
    def is_open(self) -> bool:
        """Whether any step may begin."""
        return self.state == "running" and self.ending.outcome is None

    def look_at_rest(self) -> None:
        """Check, after a change of the run, whether it only waits now."""
        self._resting()

    def _resting(self) -> None:
        self._stirs += 1
        if self.in_flight or not self._waits.due:
            return
        if self.state == "leaving":
            self.observer.changed()
        else:
            self.observer.rests()

    def waits_until(self) -> float | None:
        """The time, in epoch seconds, until which the run seems only to wait; None if it is active. A snapshot."""
        with self._lock:
            busy = self.in_flight or self.parked or self.result_order.waiting
            return None if busy else self._waits.earliest()

    def move_at_rest(self, move: Move, beyond: float, then: Callable[[], object] | None = None) -> None:
        """On the run's loop: make this move if the run only waits until after `beyond`.

        The last result given to the body has a few turns of the loop to reach its branch: a run that continues in a
        branch beside the waiting ones is not at rest, although no step of it is in flight yet.

        Args:
            move: `park`, or `give_back` of a run that leaves.
            beyond: epoch seconds.
            then: called if the move was made; `rest` says how to park the run.
        """

        def look(stirs: int | None) -> None:
            until = self.waits_until()
            if until is None or until <= beyond:
                return
            if stirs != self._stirs:
                self.result_order.turns.after(SETTLE_TURNS, functools.partial(look, self._stirs))
                return
            # No wait has received any of the seen signals: both change on this loop only.
            if self.move(move, Parked(until, self.mailbox.seen)) and then is not None:
                then()

        look(None)
