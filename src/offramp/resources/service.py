"""The holder of the permits of the calling code: the attempt of a step, or code outside of runs.

Knows the limits of the processes' services while they run; where none does, nothing is limited.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from offramp.core.run import first_id
from offramp.core.sla import DEFAULT_CLASS, SLA
from offramp.errors import BodyNotRepeatable
from offramp.execution.body import Body
from offramp.execution.context import current
from offramp.ports.clock import Clock
from offramp.ports.limits import Ask, Held, Holder, How, Limits


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
    def cut(self) -> How:
        """`cancelled`: nothing here is bounded."""
        return "cancelled"

    def take(self, resource: str) -> Held | None:
        """None: no step has waited for a permit."""
        return None

    def ask(self, resource: str) -> Ask:
        """An ask of nobody's run, as old as it is."""
        # In the order of runs by the time of the ask, within a millisecond by number.
        permit_id = f"{first_id(self._clock.time())}:{next(self._numbers):012d}:{self._own}"
        return Ask(id=permit_id, resource=resource, sla=DEFAULT_CLASS.name, priority=self._priority)


class Service:
    """The limits that processes of an app run with, as its resources know them."""

    def __init__(self, classes: Mapping[str, SLA]) -> None:
        self._classes = classes
        self._running: tuple[Outside, ...] = ()

    def begin(self, limits: Limits, clock: Clock) -> None:
        """The app is served in this process, with these limits. A later service goes before an earlier one."""
        self._running = (*self._running, Outside(limits, clock, self._classes[DEFAULT_CLASS.name].priority))

    def end(self, limits: Limits) -> None:
        """The app is no longer served with these limits."""
        self._running = tuple(each for each in self._running if each.limits is not limits)

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
        if holder is None and self._running:
            return self._running[-1]
        return holder
