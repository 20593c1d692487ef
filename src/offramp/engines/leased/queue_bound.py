"""The bound on runs that wait for a worker: of all tenants together, and of each one."""

from __future__ import annotations

from offramp.core.shares import Shares, Tenancy
from offramp.errors import Overloaded, TenantBusy
from offramp.ports.bounds import Bound
from offramp.ports.clock import Clock
from offramp.ports.parts import Part
from offramp.ports.store import Ownership

COUNT_EVERY_S = 0.25
"""The greatest age of a count of the queue: gateways together may exceed the bound by what they accept meanwhile."""
RETRY_AFTER_S = 5.0
"""The delay after which a client should retry a run that did not fit into the queue."""


class QueueBound(Part):
    """The bound on queued runs.

    Args:
        leases: counts the queued runs.
        clock: time.
        most: the bound for all tenants together.
        tenancy: how tenants share it.
    """

    def __init__(self, leases: Ownership, clock: Clock, most: int, tenancy: Tenancy) -> None:
        self._most = most
        self._bound = Bound(
            leases.queued, lambda counts: Shares(most, tenancy, counts), self._refusal, clock, COUNT_EVERY_S
        )

    async def take(self, tenant: str) -> None:
        """Count one more waiting run.

        Raises:
            TenantBusy: the tenant has its share of the queue.
            Overloaded: the queue is full.
        """
        await self._bound.take(tenant)

    async def close(self) -> None:
        """Count no more."""
        self._bound.close()

    def _refusal(self, held: Shares, tenant: str) -> Overloaded | TenantBusy | None:
        refused = held.refusal(tenant)
        if refused == "share":
            return TenantBusy(
                f"{held.held(tenant)} of your runs wait for a worker, your share of the queue (OFFRAMP_TENANT_SHARE): "
                "try again when some have begun",
                RETRY_AFTER_S,
            )
        if refused == "full":
            return Overloaded(
                f"{self._most} runs wait for a worker (OFFRAMP_QUEUE_RUNS); try later, or add workers", RETRY_AFTER_S
            )
        return None
