"""The embedded engine: each process executes the runs that it takes from the queue; no further service is needed."""

from __future__ import annotations

from offramp.engines.leased.engine import LeasedEngine
from offramp.engines.leased.membership import Links
from offramp.engines.leased.seat import Member
from offramp.ports.clock import Clock
from offramp.ports.engine import RunHost
from offramp.ports.store import Leases, Store


class EmbeddedEngine(LeasedEngine):
    """See the engine port. Several processes may run it over one store; each executes what it has room for.

    Args:
        member: this process.
        store: runs and events.
        leases: the leases of the runs; of the same store.
        clock: time.
        host: executes runs in this process.
        links: the connections to the other processes.
    """

    def __init__(self, member: Member, store: Store, leases: Leases, clock: Clock, host: RunHost, links: Links) -> None:
        super().__init__(member, store, leases, clock, host, host, links, takes=member.works)

    sharing = None
    """A run is executed by one process at a time."""
