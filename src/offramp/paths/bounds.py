"""How many runs each tenant may have open, over all processes and restarts."""

from __future__ import annotations

from offramp.core.shares import Shares, Tenancy
from offramp.errors import TenantLimit
from offramp.ports.bounds import Bound
from offramp.ports.clock import Clock
from offramp.ports.store import Store

COUNT_AGAIN_S = 1.0
"""The greatest age of the count of open runs: gateways together may exceed the bound by the runs accepted meanwhile."""


def open_runs(store: Store, clock: Clock, limit: int) -> Bound[str, dict[str, int], Shares]:
    """The bound on open runs.

    Args:
        store: counts the runs.
        clock: tells when to count again.
        limit: for one tenant.
    """

    def refusal(held: Shares, tenant: str) -> TenantLimit | None:
        if held.held(tenant) < limit:
            return None
        return TenantLimit(f"{limit} runs are queued or running (OFFRAMP_TENANT_RUNS): try again after one has ended")

    return Bound(store.open_runs, lambda counts: Shares(limit, Tenancy(), counts), refusal, {}, clock, COUNT_AGAIN_S)
