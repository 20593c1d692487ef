"""Room for streams: how many each tenant has open in this process. They live and die with it, so nothing is stored."""

from __future__ import annotations

import sys

from offramp.core.keys import shown_tenant
from offramp.core.shares import Shares, Tenancy
from offramp.errors import Overloaded, TenantBusy, TenantLimit

RETRY_AFTER_S = 5.0
"""When a stream that did not fit into this process is worth another try."""


class Slot:
    """Room for one stream; `release` is called at its end, and again does nothing."""

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
        most: of all tenants together; None for any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = sys.maxsize if most is None else most
        self.held = Shares(self._most, Tenancy())

    def share_by(self, tenancy: Tenancy) -> None:
        """Have tenants share them so from now on."""
        self.held = Shares(self._most, tenancy, self.held.by_tenant())

    def count(self, tenant: str) -> int:
        """How many are open."""
        return self.held.held(tenant)

    def take(self, tenant: str, limit: int) -> Slot:
        """Room for one more.

        Raises:
            TenantLimit: the tenant has `limit` open.
            TenantBusy: it has its share of what fits into this process.
            Overloaded: as many are open as this process may have.
        """
        if self.count(tenant) >= limit:
            raise TenantLimit(
                f"tenant {shown_tenant(tenant)!r} has {limit} streams open here (OFFRAMP_TENANT_STREAMS): close some, "
                "or read the run document instead"
            )
        refused = self.held.refusal(tenant)
        if refused == "share":
            raise TenantBusy(
                f"tenant {shown_tenant(tenant)!r} has {self.count(tenant)} streams open here, its share "
                "(OFFRAMP_TENANT_SHARE): close some, or read the run document instead",
                RETRY_AFTER_S,
            )
        if refused == "full" or self.held.total >= self._most:  # which some may have passed before there were keys
            raise Overloaded(
                f"{self._most} streams are open here, as many as the limit on open files has room for (ulimit -n): try "
                "another gateway, or later",
                RETRY_AFTER_S,
            )
        return Slot(self, tenant)
