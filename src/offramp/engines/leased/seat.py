"""A process's place among the others: what they know of it, and until when it may keep what it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from offramp.core.shares import Tenancy
from offramp.ports.clock import Clock
from offramp.ports.engine import RunControl
from offramp.ports.hints import Hints
from offramp.ports.store import Owner, Ownership


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """This process among the others: its id, its kind (`gateway`, `worker`, `local`), whether it executes deep runs.

    At most `queue_max` runs may wait, which tenants share by `tenancy`.
    """

    id: str
    kind: str
    works: bool
    lease_s: float
    poll_s: float
    queue_max: int = 10_000
    tenancy: Tenancy = field(default_factory=Tenancy)


class Seat:
    """What the parts of one process know of its place in common.

    Args:
        member: the process.
        leases: where the others look it up.
        clock: time.
        runs: the runs that execute here.
        hints: where this process is reached.
        takes: whether it takes queued runs as soon as it has joined.
    """

    def __init__(
        self, member: Member, leases: Ownership, clock: Clock, runs: RunControl, hints: Hints, *, takes: bool
    ) -> None:
        self.member = member
        self.takes = takes
        self.is_leaving = False
        self.held_until = -math.inf
        """On the monotonic clock: what this process holds may be another's from then on."""
        self._leases = leases
        self._clock = clock
        self._runs = runs
        self._hints = hints
        self._started_at = clock.time()

    def holds(self) -> bool:
        """Whether the lease still runs, as far as this process knows; from any thread."""
        return self._clock.monotonic() < self.held_until

    def hold(self, until: float) -> None:
        """The lease runs until then."""
        self.held_until = until
        self._runs.held(until)

    async def register(self) -> None:
        """Tell the others what this process is now, and hold a new lease.

        Raises:
            StoreError: the others do not know.
        """
        member, until = self.member, self._clock.monotonic() + self.member.lease_s
        expires_at = self._clock.time() + member.lease_s
        place = (self._hints.port, self.takes, expires_at, self._started_at, self.is_leaving)
        await self._leases.register(Owner(member.id, member.kind, *place))
        self.hold(until)

    async def ready(self) -> bool:
        """Whether a process that executes deep runs is warm, this one or another."""
        now = self._clock.time()
        return any(owner.ready and owner.expires_at > now for owner in await self._leases.owners())
