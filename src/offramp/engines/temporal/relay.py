"""What the engine of leases takes for a host: a claimed run is handed to Temporal, unless it only has to be ended."""

from __future__ import annotations

from collections.abc import Callable

from offramp.ports.clock import Clock
from offramp.ports.engine import RunHost
from offramp.ports.store import Claim, Lease

HANDING_MAX = 200
"""Runs that one process hands to Temporal at the same time; the others wait in the store meanwhile."""


class Relay(RunHost):
    """Passes on what concerns runs of the fast path.

    Args:
        host: executes those, and ends runs.
        clock: time.
        hand: begins to hand a run over; `handed` is called when that is done.
    """

    def __init__(self, host: RunHost, clock: Clock, hand: Callable[[Claim], None]) -> None:
        self._host = host
        self._clock = clock
        self._hand = hand
        self._handing: set[Lease] = set()

    @property
    def pipelines(self) -> list[str]:
        """Those of the process."""
        return self._host.pipelines

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
        """It is Temporal's, or has ended."""
        self._handing.discard(lease)

    def cancel(self, run_id: str) -> bool:
        """Cancel a run of the fast path."""
        return self._host.cancel(run_id)

    def notice(self, run_id: str) -> bool:
        """A signal came for a run of the fast path."""
        return self._host.notice(run_id)

    def listening(self) -> list[str]:
        """Runs of the fast path that wait for a signal."""
        return self._host.listening()

    def held(self, until: float) -> None:
        """The lease was renewed."""
        self._host.held(until)

    async def confirm(self) -> None:
        """Find out which runs of the fast path are lost."""
        await self._host.confirm()

    def lost(self, lease: Lease) -> None:
        """A lease is gone."""
        self._host.lost(lease)
