"""The holder of the permits of the calling code: the attempt of a step, or code outside of runs.

Knows the limits of the processes' services while they run; where none does, nothing is limited.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from offramp.core.run import first_id
from offramp.core.sla import DEFAULT_CLASS, SLA
from offramp.errors import BodyNotRepeatable
from offramp.execution.body import Body
from offramp.execution.borrowing import Borrower
from offramp.execution.context import current
from offramp.ports.clock import Clock
from offramp.ports.limits import Ask, Held, Holder, How, Limits, Waits


class Outside(Holder):
    """The holder for code outside of runs: a start hook, a script beside the service.

    Args:
        limits: of a service of this process.
        clock: its clock.
        priority: of the class `default`, in which the code counts.
    """

    def __init__(self, limits: Limits, clock: Clock, priority: int) -> None:
        self._limits = limits
        self._clock = clock
        self._priority = priority
        self._own = clock.random_bytes(6).hex()
        self._numbers = itertools.count()

    @property
    def limits(self) -> Limits:
        """Those of the service."""
        return self._limits

    @property
    def clock(self) -> Clock:
        """That of the service."""
        return self._clock

    @property
    def retries(self) -> bool:
        """False: nothing repeats what fails here."""
        return False

    @property
    def has_token(self) -> bool:
        """False: no attempt is under way."""
        return False

    @property
    def cut(self) -> How:
        """Cancelled, by the code itself."""
        return "cancelled"

    @property
    def slow_after(self) -> float | None:
        """None: only steps have one."""
        return None

    def take(self, resource: str, credential: str | None = None) -> Held | None:
        """None: no step has waited for a permit."""
        return None

    def ask(self, resource: str) -> Ask:
        """An ask of nobody's run, as old as it is."""
        # In the order of runs by the time of the ask, within a millisecond by number.
        permit_id = f"{first_id(self._clock.time())}:{next(self._numbers):012d}:{self._own}"
        return Ask(id=permit_id, resource=resource, sla=DEFAULT_CLASS.name, priority=self._priority)

    def waiting(self, ask: Ask, give_up: Callable[[], object]) -> AbstractContextManager[Callable[[Waits], object]]:
        """Nothing shows such waits, nor ends them."""
        return nullcontext(_ignore)

    def opened(self, permit_id: str, close: Callable[[], object]) -> None:
        """Nothing ends it but the code, or the collector."""

    def closed(self, permit_id: str) -> None:
        """It was not noted."""

    def first_byte(self, resource: str) -> None:
        """Nothing waits for it."""


def _ignore(_waits: Waits) -> None:
    pass


class Service:
    """The limits that processes of an app run with, as its resources know them."""

    def __init__(self, classes: Mapping[str, SLA]) -> None:
        self._classes = classes
        self._running: tuple[Outside, ...] = ()

    def begin(self, limits: Limits | None, clock: Clock) -> ExitStack:
        """The app is served in this process, with these limits, until what this returns is closed.

        Args:
            limits: None where there are none. Those of a later service go before those of an earlier one.
            clock: its clock.
        """
        end = ExitStack()
        if limits is not None:
            serving = Outside(limits, clock, self._classes[DEFAULT_CLASS.name].priority)
            self._running = (*self._running, serving)
            end.callback(self._end, serving)
        return end

    def _end(self, serving: Outside) -> None:
        self._running = tuple(each for each in self._running if each is not serving)

    def holder(self, resource: str) -> Holder | None:
        """What the calling code asks for permits with; None where nothing is limited.

        Raises:
            BodyNotRepeatable: the code is a pipeline's body.
        """
        ambient: Any = current.get()
        if isinstance(ambient, Body):
            raise BodyNotRepeatable(
                f"resource {resource!r} is used in the body of a pipeline, which a replay executes again: call it in a "
                "step"
            )
        holder: Holder | None = getattr(ambient, "holder", None)
        if isinstance(holder, Borrower):  # in a process lane, whose service runs in the parent
            return holder
        if holder is not None and any(each.limits is holder.limits for each in self._running):
            return holder
        return self._running[-1] if self._running else None  # outside of runs, or in a step of another app
