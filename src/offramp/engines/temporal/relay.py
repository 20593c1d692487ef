"""Hands each claimed run to Temporal, unless it only has to be ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from offramp.core.sla import SLA
from offramp.ports.clock import Clock
from offramp.ports.engine import RunTaker
from offramp.ports.store import Claim, Lease

HANDING_MAX = 200
"""The most runs that one process hands to Temporal at the same time; the others wait in the store."""


class Relay(RunTaker):
    """The runs of one process on their way to Temporal.

    Args:
        host: ends runs.
        clock: time.
        hand: begins to hand a run over, and calls `handed` at the end.
    """

    def __init__(self, host: RunTaker, clock: Clock, hand: Callable[[Claim], None]) -> None:
        self._host = host
        self._clock = clock
        self._hand = hand
        self._handing: set[Lease] = set()

    @property
    def pipelines(self) -> list[str]:
        """The runs that the process executes."""
        return self._host.pipelines

    @property
    def classes(self) -> Mapping[str, SLA]:
        """The classes that it knows, by name."""
        return self._host.classes

    def free(self) -> int:
        """How many more runs may be on their way."""
        return min(HANDING_MAX - len(self._handing), self._host.free())

    def execute(self, claim: Claim) -> None:
        """Hand it on."""
        record = claim.record
        overdue = record.deadline_at is not None and record.deadline_at <= self._clock.time()
        if record.cancel_requested or overdue:
            self._host.execute(claim)
        else:
            self._handing.add(claim.lease)
            self._hand(claim)

    def handed(self, lease: Lease) -> None:
        """The run is Temporal's, or has ended."""
        self._handing.discard(lease)
