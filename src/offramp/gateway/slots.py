"""Counts the open streams of each tenant in this process. Streams end with their process, so nothing is stored."""

from __future__ import annotations

import sys

from offramp.core.keys import shown_tenant
from offramp.core.shares import Shares, Tenancy
from offramp.errors import Overloaded, TenantBusy, TenantLimit

RETRY_AFTER_S = 5.0
"""When a client may retry a stream for which this process had no room."""


class Slot:
    """Room for one stream, released at its end; releasing it again does nothing."""

    __slots__ = ("_streams", "_tenant")

    def __init__(self, streams: Streams, tenant: str) -> None:
        self._streams: Streams | None = streams
        self._tenant = tenant
        streams.held.take(tenant)

    def release(self) -> None:
        """Give the room back."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams.held.give_back(self._tenant)


class Streams:
    """The open streams by tenant.

    Args:
        most: the maximum for all tenants together; None for no limit.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = sys.maxsize if most is None else most
        self.held = Shares(self._most, Tenancy())

    def share_by(self, tenancy: Tenancy) -> None:
        """Share them among tenants this way from now on."""
        self.held = Shares(self._most, tenancy, self.held.by_tenant())

    def count(self, tenant: str) -> int:
        """How many streams the tenant has open."""
        return self.held.held(tenant)

    def take(self, tenant: str, limit: int) -> Slot:
        """Reserve room for one more.

        Raises:
            TenantLimit: the tenant has `limit` streams open.
            TenantBusy: the tenant uses its whole share of this process.
            Overloaded: this process has its maximum of streams open.
        """
        if self.count(tenant) >= limit:
            raise TenantLimit(
                f"tenant {shown_tenant(tenant)!r} has {limit} streams open in this process, its maximum "
                "(OFFRAMP_TENANT_STREAMS): close some, or read the run document instead"
            )
        refused = self.held.refusal(tenant)
        if refused == "share":
            raise TenantBusy(
                f"tenant {shown_tenant(tenant)!r} has {self.count(tenant)} streams open in this process, its share "
                "(OFFRAMP_TENANT_SHARE): close some, or read the run document instead",
                RETRY_AFTER_S,
            )
        if refused == "full" or self.held.total >= self._most:  # streams opened before there were keys count too
            raise Overloaded(
                f"this process has {self._most} streams open, all that its limit on open files allows (ulimit -n): try "
                "another gateway, or try again later",
                RETRY_AFTER_S,
            )
        return Slot(self, tenant)
