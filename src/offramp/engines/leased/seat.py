"""A process's place among the others: its registration, and the end of its lease."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from offramp.core.shares import Tenancy
from offramp.ports.clock import Clock
from offramp.ports.engine import RunControl
from offramp.ports.hints import Hints
from offramp.ports.store import Owner, Ownership


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """This process among the others: its id, its kind (`gateway`, `worker`, `local`), whether it executes deep runs.

    At most `queue_max` runs may wait, which tenants share by `tenancy`; of some classes, at most `queue_limits`.
    """

    id: str
    kind: str
    works: bool
    lease_s: float
    poll_s: float
    queue_max: int = 10_000
    tenancy: Tenancy = field(default_factory=Tenancy)
    queue_limits: Mapping[str, int] = field(default_factory=dict)


class Seat:
    """The state of its place that the parts of one process share.

    Args:
        member: the process.
        leases: where processes register.
        clock: time.
        runs: the runs that execute in this process.
        hints: the address of this process.
        takes: whether it takes queued runs as soon as it has joined.
    """

    def __init__(
        self, member: Member, leases: Ownership, clock: Clock, runs: RunControl, hints: Hints, *, takes: bool
    ) -> None:
        self.member = member
        self.takes = takes
        self.is_leaving = False
        self.held_until = -math.inf
        """The end of the lease on the monotonic clock: from then on, another process may have its runs."""
        self._leases = leases
        self._clock = clock
        self._runs = runs
        self._hints = hints
        self._started_at = clock.time()

    def holds(self) -> bool:
        """Whether the lease still runs, as far as this process knows; from any thread."""
        return self._clock.monotonic() < self.held_until

    def hold(self, until: float) -> None:
        """Set the end of the lease."""
        self.held_until = until
        self._runs.held(until)

    async def register(self) -> None:
        """Register the current state of this process, and take a new lease.

        Raises:
            StoreError: the process is not registered.
        """
        member, until = self.member, self._clock.monotonic() + self.member.lease_s
        expires_at = self._clock.time() + member.lease_s
        place = (self._hints.port, self.takes, expires_at, self._started_at, self.is_leaving)
        await self._leases.register(Owner(member.id, member.kind, *place))
        self.hold(until)

    async def ready(self) -> bool:
        """Whether this or another process that executes deep runs is ready."""
        now = self._clock.time()
        return any(owner.ready and owner.expires_at > now for owner in await self._leases.owners())
