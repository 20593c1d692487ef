"""`offramp doctor` on a Redis store: the URL, the server, its memory, and the runs that a crash would lose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from offramp.cli.findings import Finding
from offramp.core.addresses import is_loopback
from offramp.errors import SettingsError, StoreError
from offramp.ports.extras import install
from offramp.settings import Settings
from offramp.stores.redis.address import Address, is_redis

if TYPE_CHECKING:
    from offramp.stores.redis.inspection import Inspection

ANSWER_S_MAX = 5.0
LATENCY_RISK_MS = 5.0
FULL_RISK = 0.8
"""The share of its memory that a server may use before it is a risk."""
RENEWALS_PER_LEASE = 3
"""A clock that is off by a renewal's interval makes a living process look silent to others."""


def check_redis(settings: Settings) -> Iterator[Finding]:
    """The store, if it is on Redis."""
    if not is_redis(settings.store):
        return
    try:
        from offramp.stores.redis.inspection import inspect
    except ImportError as error:
        yield Finding("broken", "redis", f"{error.name} is not installed", install("redis"))
        return
    try:
        address = Address.parse(settings.store)
        server = inspect(address, ANSWER_S_MAX)
    except SettingsError as error:
        yield Finding("broken", "redis", str(error), "see docs/reference/redis.md")
        return
    except StoreError as error:
        yield Finding("broken", "redis", str(error), "start it, or correct --store; no run is accepted without it")
        return
    says = f"{server.product} {server.version} at {address.shown}, prefix {address.prefix}"
    yield Finding("ok", "redis", f"{says}, answers in {server.latency_ms:.1f} ms")
    yield from _way(address, server, settings.lease)
    yield from _memory(server)
    yield from _disk(address, server)
    yield from _nodes(server)


def _way(address: Address, server: Inspection, lease_s: float) -> Iterator[Finding]:
    if server.latency_ms > LATENCY_RISK_MS:
        yield Finding(
            "risk",
            "redis",
            f"an answer takes {server.latency_ms:.1f} ms, and every promise waits for one",
            "run gateways and workers close to it",
        )
    if abs(server.ahead_s) > lease_s / RENEWALS_PER_LEASE:
        direction = "ahead of" if server.ahead_s > 0 else "behind"
        yield Finding(
            "risk",
            "clock",
            f"the server's clock is {abs(server.ahead_s):.1f} s {direction} this one: if machines differ that much, "
            f"a living process loses its runs (lease {lease_s:g} s)",
            "synchronise the clocks of all machines with NTP",
        )
    if not address.tls and not is_loopback(address.host):
        yield Finding(
            "risk",
            "redis",
            f"{address.host} is reached without TLS: inputs, results and the password can be read",
            "use rediss:// in --store",
        )


def _memory(server: Inspection) -> Iterator[Finding]:
    used = f"{server.used_bytes / (1 << 20):.0f} MiB used"
    if not server.max_bytes:
        yield Finding(
            "note",
            "redis memory",
            f"{used}, no maxmemory: it may use all of the machine's memory until the kernel kills it",
            "set maxmemory on the server; a full store refuses new runs and loses none",
        )
    else:
        share = server.used_bytes / server.max_bytes
        says = f"{used} of {server.max_bytes / (1 << 20):.0f} MiB ({share:.0%})"
        if share > FULL_RISK:
            fix = "give it more memory, or shorten retention; without room no run is accepted"
            yield Finding("risk", "redis memory", says, fix)
        else:
            yield Finding("ok", "redis memory", says)
    if server.policy != "noeviction":
        yield Finding(
            "risk" if server.max_bytes else "note",
            "eviction",
            f"maxmemory-policy is {server.policy or 'unknown'}: when its memory is full, runs and events may vanish",
            "CONFIG SET maxmemory-policy noeviction, and in its configuration",
        )


def _disk(address: Address, server: Inspection) -> Iterator[Finding]:
    """The data that is lost when the server's process or machine dies."""
    if not server.has_aof:
        kept = {True: "it keeps snapshots alone, so runs accepted since the last one are lost"}.get(
            bool(server.snapshots), "it keeps nothing on disk, so every run is lost"
        )
        yield Finding("risk", "persistence", f"{kept} when it dies", "set appendonly yes on the server")
    elif address.fsync or server.appendfsync == "always":
        how = "fsync=true in --store" if address.fsync else "appendfsync always"
        yield Finding("ok", "persistence", f"append-only file, {how}: what is acknowledged is on its disk")
    else:
        how = f"appendfsync {server.appendfsync}" if server.appendfsync else "appendfsync unknown"
        lost = "the last second" if server.appendfsync == "everysec" else "the last moments"
        yield Finding(
            "note",
            "persistence",
            f"append-only file, {how}: when its machine dies, what was acknowledged in {lost} may be lost; "
            "when only its process dies, nothing",
            "add fsync=true to --store, or set appendfsync always on the server",
        )


def _nodes(server: Inspection) -> Iterator[Finding]:
    if server.is_cluster:
        yield Finding(
            "note",
            "redis",
            "it is a node of a cluster; all keys of one prefix are in one slot, so on one node",
            "name the node that has the slot; more nodes carry more only with other prefixes",
        )
    if server.replicas:
        yield Finding(
            "note",
            "redis",
            f"{server.replicas} replicas: a failover loses what had not reached them, as no write waits for them",
            "set min-replicas-to-write 1 on the server, to bound it",
        )
