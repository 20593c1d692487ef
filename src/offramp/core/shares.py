"""Tenants that share one capacity: none may have more than a share of the part that the others leave free.

The next tenant always finds room, and a tenant alone fills no more than its share of the whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

Refusal = Literal["full", "share"]
"""Why a tenant gets no more: nothing is free, or it has its share already."""


class Tenancy:
    """How tenants share a capacity.

    Args:
        share: the fraction of the capacity left free by others that one tenant may have, where requests need a key;
            above 0, at most 1.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self.is_keyed: Callable[[], bool] = lambda: False
        """Whether requests need a key: without keys there is one tenant, which may have the whole capacity."""

    @property
    def divides(self) -> bool:
        """Whether a tenant may have only a part."""
        return self._share < 1.0 and self.is_keyed()

    def part(self, amount: int) -> int:
        """A tenant's share of so many: whole ones, at least one."""
        return max(1, int(self._share * amount))


class Shares:
    """What each tenant holds of a capacity. Not safe to use from several threads at once.

    Demoted and woken runs enter the queue unasked, so a tenant may hold more than its share. The excess counts against
    that tenant alone: the others have as much room as if it held its share.

    Args:
        capacity: of all tenants together.
        tenancy: how they share it.
        held: what each holds already.
    """

    def __init__(self, capacity: int, tenancy: Tenancy, held: Mapping[str, int] | None = None) -> None:
        self._capacity = capacity
        self._tenancy = tenancy
        self._part = tenancy.part(capacity)
        self._held = Counter(held or {})
        self._total = self._held.total()
        self._past = sum(self._past_part(count) for count in self._held.values())

    @property
    def total(self) -> int:
        """What all tenants hold together."""
        return self._total

    def held(self, tenant: str) -> int:
        """What a tenant holds."""
        return self._held[tenant]

    def by_tenant(self) -> dict[str, int]:
        """What each tenant holds."""
        return dict(self._held)

    def take(self, tenant: str) -> None:
        """A tenant holds one more."""
        self._change(tenant, 1)

    def give_back(self, tenant: str) -> None:
        """A tenant holds one less."""
        self._change(tenant, -1)

    def refusal(self, tenant: str) -> Refusal | None:
        """Why this tenant may not have one more; None if it may."""
        if not self._tenancy.divides:
            return "full" if self._total >= self._capacity else None
        own = self._held[tenant]
        others = self._total - own - (self._past - self._past_part(own))
        free = self._capacity - others
        if free <= 0:
            return "full"
        return "share" if own >= self._tenancy.part(free) else None

    def _change(self, tenant: str, by: int) -> None:
        before = self._held[tenant]
        self._total += by
        self._past += self._past_part(before + by) - self._past_part(before)
        if before + by:
            self._held[tenant] = before + by
        else:
            del self._held[tenant]

    def _past_part(self, count: int) -> int:
        return max(0, count - self._part)
