"""Counts the open streams of each tenant in this process. Streams end with their process, so nothing is stored."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from offramp.core.departures import Departures
from offramp.core.keys import shown_tenant
from offramp.core.shares import Shares, Tenancy
from offramp.errors import Overloaded, TenantBusy, TenantLimit

RETRY_AFTER_S = 5.0
"""When a client may retry a stream for which this process had no room, while no stream has ended."""


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
            streams.ended(self._tenant)


class Streams:
    """The open streams by tenant.

    Args:
        most: the maximum for all tenants together; None for no limit.
        monotonic: the clock, in seconds.
    """

    def __init__(self, most: int | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._most = sys.maxsize if most is None else most
        self._monotonic = monotonic
        self._departures = Departures(monotonic())
        self.held = Shares(self._most, Tenancy())

    def share_by(self, tenancy: Tenancy) -> None:
        """Share them among tenants this way from now on."""
        self.held = Shares(self._most, tenancy, self.held.by_tenant())

    def ended(self, tenant: str) -> None:
        """A stream of the tenant has ended."""
        self.held.give_back(tenant)
        self._departures.add(self._monotonic())

    def next_in_s(self, held: int) -> float:
        """When the next of so many streams is expected to end, if all are open for equally long (Little, 1961)."""
        rate = self._departures.rate(self._monotonic())
        return self.held.total / rate / max(1, held) if rate > 0 else RETRY_AFTER_S

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
                "(OFFRAMP_TENANT_STREAMS): close some, or read the run document instead",
                self.next_in_s(limit),
            )
        refused = self.held.refusal(tenant)
        if refused == "share":
            raise TenantBusy(
                f"tenant {shown_tenant(tenant)!r} has {self.count(tenant)} streams open in this process, its share "
                "(OFFRAMP_TENANT_SHARE): close some, or read the run document instead",
                self.next_in_s(self.count(tenant)),
            )
        if refused == "full" or self.held.total >= self._most:  # streams opened before there were keys count too
            raise Overloaded(
                f"this process has {self._most} streams open, all that its limit on open files allows (ulimit -n): try "
                "another gateway, or try again later",
                self.next_in_s(self.held.total),
            )
        return Slot(self, tenant)
