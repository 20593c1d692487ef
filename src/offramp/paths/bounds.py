"""How many runs each tenant may have open, over all processes and restarts."""

from __future__ import annotations

from offramp.core.shares import Shares, Tenancy
from offramp.errors import TenantLimit
from offramp.ports.bounds import Bound
from offramp.ports.clock import Clock
from offramp.ports.store import Store

COUNT_AGAIN_S = 1.0
"""How old the count of open runs may be: gateways together may pass the bound by what they accept meanwhile."""


def open_runs(store: Store, clock: Clock, limit: int) -> Bound:
    """The bound on open runs.

    Args:
        store: what counts them.
        clock: when to count again.
        limit: of one tenant.
    """

    def refusal(held: Shares, tenant: str) -> TenantLimit | None:
        if held.held(tenant) < limit:
            return None
        return TenantLimit(f"{limit} runs are queued or running (OFFRAMP_TENANT_RUNS): try again when one has ended")

    return Bound(store.open_runs, lambda counts: Shares(limit, Tenancy(), counts), refusal, clock, COUNT_AGAIN_S)
