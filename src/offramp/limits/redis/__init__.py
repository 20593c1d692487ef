"""The limits over Redis, for the processes of many machines: the same rules in one script call for each permit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.limits.redis.adapter import RedisLimits
from offramp.stores.redis.address import Address

__all__ = ["RedisLimits", "open_redis_limits"]


def open_redis_limits(url: str, resources: Sequence[ResourceSpec], classes: Mapping[str, SLA]) -> RedisLimits:
    """The limits that all processes share whose store is at this URL.

    Args:
        url: of the server, as for a store.
        resources: what the app declares.
        classes: by name.

    Raises:
        SettingsError: the URL is malformed, or a file for TLS cannot be read.
    """
    return RedisLimits(Address.parse(url), resources, classes)
