"""Facts about a server that an operator should know: what it keeps and drops, and its latency."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import redis
from redis.exceptions import RedisError

from offramp.stores.redis.address import Address
from offramp.stores.redis.connection import client, problem, required

PINGS = 7


class Inspection(NamedTuple):
    """A server; sizes in bytes, 0 for no limit. Unknown facts are None or empty."""

    product: str
    version: str
    latency_ms: float
    """The median of a few PINGs."""
    ahead_s: float
    """How far the server's clock is ahead of this machine's; exact to half of the latency."""
    used_bytes: int
    max_bytes: int
    policy: str
    """`maxmemory-policy`."""
    has_aof: bool
    appendfsync: str
    snapshots: bool | None
    is_cluster: bool
    replicas: int


def inspect(address: Address, within_s: float) -> Inspection:
    """Inspect the server without changing it.

    Raises:
        StoreError: it cannot be reached, or refuses.
        SettingsError: no store can be kept there.
    """
    connected = client(address, retries=0, timeout_s=within_s)
    try:
        found = required(address, connected)
        info: dict[str, Any] = connected.info("everything")
        latency_ms, ahead_s = distance(connected)
        policy = str(info.get("maxmemory_policy", ""))
        used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
        appendfsync, save = _setting(connected, "appendfsync"), _setting(connected, "save")
        return Inspection(
            product=found.product,
            version=found.version,
            latency_ms=latency_ms,
            ahead_s=ahead_s,
            used_bytes=used,
            max_bytes=limit,
            policy=policy,
            has_aof=found.has_aof,
            appendfsync=appendfsync or "",
            snapshots=None if save is None else bool(save),
            is_cluster=bool(info.get("cluster_enabled")),
            replicas=int(info.get("connected_slaves", 0)),
        )
    except RedisError as error:
        raise problem(address, error) from None
    finally:
        connected.close()


def distance(connected: redis.Redis) -> tuple[float, float]:
    """How far away the server is: milliseconds for the middle one of several pings, seconds its clock is ahead."""
    took = []
    for _ in range(PINGS):
        began = time.perf_counter()
        connected.ping()
        took.append(time.perf_counter() - began)
    began = time.time()
    seconds, micros = connected.time()
    return sorted(took)[PINGS // 2] * 1000, seconds + micros / 1e6 - (began + time.time()) / 2


def _setting(connected: redis.Redis, name: str) -> str | None:
    """One of the server's settings; None if it hides them, as many managed servers do."""
    try:
        return str(dict(connected.config_get(name)).get(name, ""))
    except RedisError:
        return None
