"""Who may start a step of one executing run, what it waits for, and when this execution ends.

Called from the run's loop and from the control loop; knows nothing of journals.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from offramp.errors import LeaseLost
from offramp.execution.ending import Ending
from offramp.execution.tenure import Tenure
from offramp.execution.turns import SETTLE_TURNS, Turnstile
from offramp.execution.waiting import Mailbox, Waits
from offramp.ports.store import Parked

if TYPE_CHECKING:
    from offramp.core.run import Outcome
    from offramp.execution.attempt import Attempt
    from offramp.execution.run_facts import RunFacts
    from offramp.execution.threads import Place
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog

State = Literal["open", "ending", "stopping", "detached", "closed"]
"""Of an execution: `ending` when the run is to end from outside, `stopping` when it is to go on elsewhere."""


class Handoff(BaseException):
    """Control flow: this execution is over here, the run goes on elsewhere or has ended.

    A BaseException, so that `except Exception` in a pipeline cannot eat it.
    """


def _nothing() -> None:
    """Before anything is to be called back, and after."""


class Gate:
    """The steps in flight and the waits of one executing run, and whether more may begin."""

    def __init__(
        self,
        facts: RunFacts,
        log: RunLog,
        clock: Clock,
        tenure: Tenure | None,
        mailbox: Mailbox,
        turnstile: Turnstile,
    ) -> None:
        self.facts = facts
        self.log = log
        self.clock = clock
        self.mailbox = mailbox
        self.turnstile = turnstile
        self._tenure = tenure or Tenure()
        self._waits = Waits()
        self._moves = 0
        self._lock = threading.Lock()
        self.state: State = "open"
        self.ending = Ending(clock)
        self.in_flight: dict[str, Attempt] = {}
        self.parked = 0
        """Steps that wait for a thread, or came when none was to begin any more."""
        self.rest: Parked | None = None
        """Until when the run was found to wait, and how many signals it had seen, if it was ended for that."""
        self.on_change: Callable[[], object] = _nothing
        self.on_rest: Callable[[], object] | None = None
        self.on_signal_wait: Callable[[], object] = _nothing

    def let_go(self) -> None:
        """Call nothing back any more: such calls refer to this, and a cycle waits for the garbage collector."""
        self.on_change = self.on_signal_wait = self.ending.on_change = _nothing
        self.on_rest = None

    async def _enter(self, attempt: Attempt) -> None:
        if not self._tenure.holds(self.clock.monotonic()):
            await self._still_ours()
        while True:
            if self.ending.cleanups:
                attempt.cleans_up = self.ending.within() is not None
            with self._lock:
                if self.state == "open" or (self.state == "ending" and attempt.cleans_up):
                    self.in_flight[attempt.key] = attempt
                    return
            await self.held_up(attempt.place)

    async def held_up(self, place: Place | None = None) -> None:
        """Return at once if a step may start here; else wait until the body is told that the run ends or goes on.

        Args:
            place: the thread that the step was given; others can use it meanwhile.

        Raises:
            Handoff: it was told.
        """
        cleans_up = self.ending.within() is not None
        with self._lock:
            if self.state == "open" or (self.state == "ending" and cleans_up):
                return
            is_thrown_away = self.state == "closed" or (self.state == "detached" and self.facts.cancelled)
            if is_thrown_away or (self.ending.struck and not cleans_up):
                raise Handoff
            self.parked += 1
        if place is not None:
            place.leave()
        self.on_change()
        try:
            await asyncio.get_running_loop().create_future()  # until the handoff, or the end, cancels it
        finally:
            self.parked -= 1

    def require_here(self) -> None:
        """Pass where the run executes.

        Raises:
            Handoff: it goes on elsewhere, or has ended.
        """
        if self.state in {"closed", "detached"}:
            raise Handoff

    async def _queue(self, place: Place) -> None:
        """Wait for a thread. Nothing has begun: a handoff takes the step along like one that comes later."""
        with self._lock:
            self.parked += 1
        if self.state != "open":
            self.on_change()
        try:
            await place.given()
        finally:
            with self._lock:
                self.parked -= 1

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

    def begin_wait(self, due: float, *, bounds: bool) -> object:
        """The same until `end_wait`; one that `bounds` ends other waits, and is none by itself."""
        self._moves += 1
        return self._waits.begin(due, bounds=bounds)

    def end_wait(self, mark: object) -> None:
        """Of `begin_wait`."""
        self._moves += 1
        self._waits.end(mark)

    @property
    def leaves(self) -> bool:
        """Whether this execution is about to end, and the run goes on elsewhere."""
        return self.state == "stopping"

    def look_at_rest(self) -> None:
        """Something of the run has changed: does it do nothing but wait now?"""
        self._resting()

    def _resting(self) -> None:
        self._moves += 1
        if self.in_flight or not self._waits.due:
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
            self._leaving()
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
            if self.state in {"open", "ending"}:
                self.state = "stopping"
            in_flight = list(self.in_flight)
        if self.leaves:
            self._leaving()
        return in_flight

    def _leaving(self) -> None:
        """This execution is about to end, and the run goes on elsewhere. From any thread."""

    def end_from_outside(self, outcome: Outcome, *, replays: bool) -> None:
        """Let no step start but in a cleanup: the run is to end so. From any thread."""
        with self._lock:
            self.facts.cancelled = True
            self.ending.begin(outcome, replays=replays)
            if self.state == "open":
                self.state = "ending"

    def close_if_idle(self) -> None:
        """End this execution unless a step is in flight."""
        with self._lock:
            if not self.in_flight:
                self.state = "closed"

    def close(self) -> None:
        """End this execution: nothing is written for the run any more, not even by what still runs."""
        with self._lock:
            self.state = "closed"
