"""Room for streams: how many each tenant has open in this process. They live and die with it, so nothing is stored."""

from __future__ import annotations

from collections import Counter

from offramp.core.keys import shown_tenant
from offramp.errors import Overloaded, TenantLimit

RETRY_AFTER_S = 5.0
"""When a stream that did not fit into this process is worth another try."""


class Slot:
    """Room for one stream; `release` is called at its end, and again does nothing."""

    __slots__ = ("_counts", "_tenant")

    def __init__(self, counts: Counter[str], tenant: str) -> None:
        self._counts: Counter[str] | None = counts
        self._tenant = tenant
        counts[tenant] += 1

    def release(self) -> None:
        """Give the room back."""
        counts, self._counts = self._counts, None
        if counts is None:
            return
        counts[self._tenant] -= 1
        if not counts[self._tenant]:
            del counts[self._tenant]


class Streams:
    """The open streams by tenant.

    Args:
        most: of all tenants together; None for any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self._counts: Counter[str] = Counter()
        self._most = most

    def count(self, tenant: str) -> int:
        """How many are open."""
        return self._counts[tenant]

    def take(self, tenant: str, limit: int) -> Slot:
        """Room for one more.

        Raises:
            TenantLimit: the tenant has `limit` open.
            Overloaded: as many are open as this process may have.
        """
        if self._counts[tenant] >= limit:
            raise TenantLimit(
                f"tenant {shown_tenant(tenant)!r} has {limit} streams open here (OFFRAMP_TENANT_STREAMS): close some, "
                "or read the run document instead"
            )
        if self._most is not None and self._counts.total() >= self._most:
            raise Overloaded(
                f"{self._most} streams are open here, as many as the limit on open files has room for (ulimit -n): try "
                "another gateway, or later",
                RETRY_AFTER_S,
            )
        return Slot(self._counts, tenant)
