"""The bound on runs that wait for a worker: of all tenants together, of each one, and of each class with a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from offramp.core.shares import Shares, Tenancy
from offramp.errors import Overloaded, QueueLength, TenantBusy
from offramp.ports.bounds import Bound
from offramp.ports.clock import Clock
from offramp.ports.parts import Part
from offramp.ports.store import Ownership

COUNT_EVERY_S = 0.25
"""The greatest age of a count of the queue: gateways together may exceed the bound by what they accept meanwhile."""
RETRY_AFTER_S = 5.0
"""The delay after which to retry a run that did not fit into the queue, while nothing is known of its rate."""
_Counts = tuple[Mapping[str, int], Mapping[str, int]]
"""The queued runs of each tenant, and of each class."""
NO_LIMITS: Mapping[str, int] = MappingProxyType({})


class _Queued:
    """The queued runs by tenant and, where classes have limits, by class."""

    def __init__(self, tenants: Shares, classes: Mapping[str, int]) -> None:
        self.tenants = tenants
        self.classes = Counter(classes)

    def take(self, key: tuple[str, str]) -> None:
        """One more of a tenant and class."""
        self.tenants.take(key[0])
        self.classes[key[1]] += 1

    def give_back(self, key: tuple[str, str]) -> None:
        """One less."""
        self.tenants.give_back(key[0])
        self.classes[key[1]] -= 1


class QueueBound(Part):
    """The bound on queued runs.

    Args:
        leases: counts the queued runs.
        clock: time.
        most: the bound for all tenants together.
        tenancy: how tenants share it.
        limits: bounds of their own of some classes, by name.
    """

    def __init__(
        self, leases: Ownership, clock: Clock, most: int, tenancy: Tenancy, limits: Mapping[str, int] = NO_LIMITS
    ) -> None:
        self._leases = leases
        self._most = most
        self._limits = limits

        def made(counts: _Counts) -> _Queued:
            return _Queued(Shares(most, tenancy, counts[0]), counts[1])

        nothing: _Counts = {}, {}
        self._bound = Bound(self._count, made, self._refusal, nothing, clock, COUNT_EVERY_S)

    async def take(self, tenant: str, sla: str) -> None:
        """Count one more waiting run.

        Raises:
            TenantBusy: the tenant has its share of the queue.
            Overloaded: the queue is full, or has as many runs of the class as it may.
        """
        await self._bound.take((tenant, sla))

    async def close(self) -> None:
        """Count no more."""
        self._bound.close()

    async def _count(self) -> _Counts:
        return await self._leases.queued(), await self._leases.queued_by_class() if self._limits else {}

    def _refusal(self, held: _Queued, key: tuple[str, str]) -> Overloaded | TenantBusy | None:
        tenant, sla = key
        limit, of_class = self._limits.get(sla), held.classes[sla]
        refused = held.tenants.refusal(tenant)
        error: Overloaded | TenantBusy
        if limit is not None and of_class >= limit:
            says = f"as many runs of class {sla!r} wait for a worker as its queue_limit allows"
            error = Overloaded(f"{says}; try later, or add workers", RETRY_AFTER_S)
            error.in_queue = QueueLength(of_class, sla)
        elif refused == "share":
            own = held.tenants.held(tenant)
            error = TenantBusy(
                f"{own} of your runs wait for a worker, your share of the queue (OFFRAMP_TENANT_SHARE): try again when "
                "some have begun",
                RETRY_AFTER_S,
            )
            error.in_queue = QueueLength(own)
        elif refused == "full":
            says = "as many runs wait for a worker as OFFRAMP_QUEUE_RUNS allows; try later, or add workers"
            error = Overloaded(says, RETRY_AFTER_S)
            error.in_queue = QueueLength(held.tenants.total)
        else:
            return None
        return error
