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
from offramp.execution.tenure import Tenure
from offramp.execution.turns import SETTLE_TURNS, Turnstile
from offramp.execution.waiting import Mailbox, Waits
from offramp.ports.store import Parked

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt, RunFacts
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog

State = Literal["open", "stopping", "detached", "closed"]


class Handoff(BaseException):
    """Control flow: this execution is over here, the run goes on elsewhere or has ended.

    A BaseException, so that `except Exception` in a pipeline cannot eat it.
    """


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
        self.in_flight: dict[str, Attempt] = {}
        self.parked = 0
        self.rest: Parked | None = None
        """Until when the run was found to wait, and how many signals it had seen, if it was ended for that."""
        self.on_change: Callable[[], object] = lambda: None
        self.on_rest: Callable[[], object] | None = None
        self.on_signal_wait: Callable[[], object] = lambda: None

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
        return self.state == "stopping" and not self.facts.cancelled

    def look_at_rest(self) -> None:
        """Something of the run has changed: does it do nothing but wait now?"""
        self._resting()

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
            if self.state == "open":
                self.state = "stopping"
            in_flight = list(self.in_flight)
        if self.leaves:
            self._leaving()
        return in_flight

    def _leaving(self) -> None:
        """This execution is about to end, and the run goes on elsewhere. From any thread."""

    def close_if_idle(self) -> None:
        """End this execution unless a step is in flight."""
        with self._lock:
            if not self.in_flight:
                self.state = "closed"

    def close(self) -> None:
        """End this execution: nothing is written for the run any more, not even by what still runs."""
        with self._lock:
            self.state = "closed"
