"""What the body of one executing run waits for, and whether the run is at rest.

While a run only waits here, it can be parked: it is executed again once one of its waits can end.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from offramp.execution.turns import SETTLE_TURNS
from offramp.ports.commit import call_threadsafe
from offramp.ports.store import Parked

if TYPE_CHECKING:
    from offramp.execution.gate import Gate
    from offramp.execution.turns import ResultOrder
    from offramp.execution.waiting import Mailbox


class Waits:
    """The waits of one executing run; begun and ended on its run loop, read from the control loop."""

    def __init__(self, gate: Gate[Any], result_order: ResultOrder, mailbox: Mailbox) -> None:
        self._gate = gate
        self._result_order = result_order
        self.mailbox = mailbox
        self.stirs = 0
        """How often the run has changed: if it did between two looks, it was not at rest."""
        self._due: dict[object, float] = {}
        self._pauses: dict[object, float] = {}
        self._bounds: dict[object, float] = {}

    @contextlib.contextmanager
    def to(self, due: float | None) -> Iterator[Callable[[], object]]:
        """Note a wait that ends at the latest at `due`, in epoch seconds; None for no end.

        Returns a function to call when the awaited thing has come: until the waiting code has seen it, the wait counts
        as over, not as absent.
        """
        mark = object()
        self._due[mark] = math.inf if due is None else due
        try:
            self.look()
            yield functools.partial(self._due.__setitem__, mark, 0.0)
        finally:
            del self._due[mark]
        self.look()  # others may still wait, and nothing else may prevent parking now

    @contextlib.contextmanager
    def paused(self, until: float) -> Iterator[Callable[[], bool]]:
        """Note that a step cannot continue before this time, in epoch seconds; returns whether it still waits."""
        mark = object()
        self._pauses[mark] = until
        try:
            self.look()
            yield lambda: mark in self._pauses
        finally:
            del self._pauses[mark]
        self.look()

    def foretell(self, until: float, holds: Callable[[], bool]) -> None:
        """Report that a step cannot continue before this time, in epoch seconds. From any thread.

        A wait of the body beside the step may end its wait earlier: branches that begin now have a few turns for it.

        Args:
            until: the time.
            holds: whether that is still so.
        """

        def report() -> None:
            if holds():
                self._gate.observer.has_to_wait(min(until, *self._due.values(), *self._bounds.values(), math.inf))

        turns = self._result_order.turns
        call_threadsafe(turns.loop, turns.after, SETTLE_TURNS, report)

    def begin(self, due: float, *, bounds: bool) -> object:
        """The same until `end`; one that `bounds` does not count by itself, but ends the waits beside it."""
        self.stirs += 1
        mark = object()
        (self._bounds if bounds else self._due)[mark] = due
        return mark

    def end(self, mark: object) -> None:
        """End a wait that was begun."""
        self.stirs += 1
        self._due.pop(mark, None)
        self._bounds.pop(mark, None)

    def look(self) -> None:
        """Check, after a change of the run, whether it only waits now."""
        self.stirs += 1
        gate = self._gate
        if gate.in_flight or not (self._due or self._pauses):
            return
        if gate.state == "leaving":
            gate.observer.changed()
        else:
            gate.observer.rests()

    def until(self) -> float | None:
        """The time, in epoch seconds, until which the run seems only to wait; None if it is active. A snapshot.

        `inf` if no wait ends by itself.
        """
        return self._gate.if_idle(self._earliest)

    def _earliest(self) -> float | None:
        if self._result_order.waiting:
            return None
        # Atomic copies: the run loop changes them meanwhile.
        due = list(self._due.values()) + list(self._pauses.values())
        return min(due + list(self._bounds.values())) if due else None

    def at_rest(self, beyond: float, then: Callable[[Parked], object]) -> None:
        """On the run's loop: call back with the rest of the run if it only waits until after `beyond`.

        The last result given to the body has a few turns of the loop to reach its branch: a run that continues in a
        branch beside the waiting ones is not at rest, although no step of it is in flight yet.

        Args:
            beyond: epoch seconds.
            then: called with the end of the wait, and how many signals the run has seen.
        """

        def look(stirs: int | None) -> None:
            until = self.until()
            if until is None or until <= beyond:
                return
            if stirs != self.stirs:
                self._result_order.turns.after(SETTLE_TURNS, functools.partial(look, self.stirs))
                return
            # No wait has received any of the seen signals: both change on this loop only.
            then(Parked(until, self.mailbox.seen))

        look(None)
