"""Clients of one Redis: timeouts, retries, health checks, requirements on the server, and its errors in words.

Owns every connection of a process to Redis. Nothing here writes a password into a message.
"""

from __future__ import annotations

import logging
import re
from typing import Any, NamedTuple

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from offramp.errors import SettingsError, StoreError
from offramp.stores.redis.address import Address

logger = logging.getLogger("offramp")

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
"""Seconds that an answer may take before its connection is closed."""
HEALTH_CHECK_S = 15
"""A connection idle for longer is checked with a PING before use."""
READ_RETRIES = 2
"""How often a read is repeated after its connection broke."""
RETRY_BASE_S, RETRY_CAP_S = 0.02, 0.5
"""The shortest and longest wait between attempts."""

REDIS_MIN = (7, 0)
VALKEY_MIN = (7, 2)
WAITAOF_SINCE = (7, 2)

# Errors that pass: of the connection, a start, a failover, a script that is being stopped.
_PASSES = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError)
_PASSING_CODES = ("BUSY", "LOADING", "READONLY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF")
_LOGIN = (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError)


class NotOnDisk(RedisTimeoutError):
    """A write has not reached the server's disk in time."""


def client(
    address: Address, *, connections_max: int = 1, retries: int = READ_RETRIES, timeout_s: float = ANSWER_TIMEOUT_S
) -> redis.Redis:
    """A blocking client, which connects on its first use.

    Args:
        address: of the server.
        connections_max: the most that it opens, one for each thread.
        retries: of a command whose connection broke; 0 for one that must not be sent twice unnoticed.
        timeout_s: how long an answer may take.

    Raises:
        SettingsError: a file for TLS cannot be read.
    """
    retry = Retry(ExponentialWithJitterBackoff(base=RETRY_BASE_S, cap=RETRY_CAP_S), retries)
    return redis.Redis(**_options(address, timeout_s), max_connections=connections_max, retry=retry)


def async_client(
    address: Address, *, connections_max: int = 1, retries: int = READ_RETRIES, timeout_s: float = ANSWER_TIMEOUT_S
) -> redis.asyncio.Redis:
    """The same for one event loop.

    Raises:
        SettingsError: a file for TLS cannot be read.
    """
    retry = AsyncRetry(ExponentialWithJitterBackoff(base=RETRY_BASE_S, cap=RETRY_CAP_S), retries)
    return redis.asyncio.Redis(**_options(address, timeout_s), max_connections=connections_max, retry=retry)


def _options(address: Address, timeout_s: float) -> dict[str, Any]:
    return {
        "host": address.host,
        "port": address.port,
        "db": address.db,
        "username": address.user or None,
        "password": address.password or None,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_S,
        "client_name": "offramp",
        # With the old protocol no server sends unrequested messages, and old and new servers answer alike.
        "protocol": 2,
        **address.tls_options(),
    }


class Survey(NamedTuple):
    """A server: product, version, and how it keeps data."""

    product: str
    version: str
    is_replica: bool
    has_aof: bool
    evicts: str
    """The `maxmemory-policy` if memory has a limit and the policy removes keys; else empty."""


def survey(connected: redis.Redis) -> Survey:
    """Inspect a server without changing it.

    Raises:
        RedisError: it cannot be reached, or refuses.
    """
    info: dict[str, Any] = connected.info()
    product = "Valkey" if "valkey_version" in info else "Redis"
    policy = str(info.get("maxmemory_policy", "noeviction"))
    return Survey(
        product,
        str(info.get("valkey_version", info.get("redis_version", "0"))),
        info.get("role") == "slave",
        bool(info.get("aof_enabled")),
        policy if info.get("maxmemory") and policy != "noeviction" else "",
    )


def check(address: Address, connected: redis.Redis) -> Survey:
    """Make sure that a store can be kept on this server; logs risky settings.

    Raises:
        StoreError: it cannot be reached.
        SettingsError: it is too old, a replica, or lacks what the URL asks for.
    """
    surveyed = required(address, connected)
    if not surveyed.has_aof:
        logger.warning("%s keeps no append-only file: when it restarts, runs are lost", address.shown)
    if surveyed.evicts:
        logger.warning(
            "%s evicts keys when its memory is full (maxmemory-policy %s): runs can vanish; set noeviction",
            address.shown,
            surveyed.evicts,
        )
    return surveyed


def required(address: Address, connected: redis.Redis) -> Survey:
    """Make sure that a store can be kept on this server; raises as `check` does."""
    try:
        surveyed = survey(connected)
    except RedisError as error:
        raise problem(address, error) from None
    least = VALKEY_MIN if surveyed.product == "Valkey" else REDIS_MIN
    if _numbers(surveyed.version) < least:
        raise SettingsError(
            f"store {address.shown}: it is {surveyed.product} {surveyed.version}, and must be "
            f"Redis {_dotted(REDIS_MIN)} or Valkey {_dotted(VALKEY_MIN)} or newer"
        )
    if surveyed.is_replica:
        raise SettingsError(f"store {address.shown}: it is a replica, which takes no writes; name the primary")
    if address.fsync and _numbers(surveyed.version) < WAITAOF_SINCE:
        raise SettingsError(f"store {address.shown}: fsync= needs Redis or Valkey {_dotted(WAITAOF_SINCE)}")
    if address.fsync and not surveyed.has_aof:
        raise SettingsError(f"store {address.shown}: fsync= needs an append-only file; set `appendonly yes` there")
    return surveyed


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def passes(error: RedisError) -> bool:
    """Whether the error may pass without intervention; a wrong password or a full memory does not."""
    if isinstance(error, (*_LOGIN, OutOfMemoryError)):
        return False
    return isinstance(error, _PASSES) or str(error).startswith(_PASSING_CODES)


def is_full(error: RedisError) -> bool:
    """Whether the server's memory is full; then it refused before writing anything."""
    return isinstance(error, OutOfMemoryError) or str(error).startswith("OOM")


def is_fatal(error: RedisError) -> bool:
    """Whether the server will never accept this command, at any time and for any user."""
    return isinstance(error, ResponseError) and not (passes(error) or is_full(error) or isinstance(error, _LOGIN))


def memory_share(connected: redis.Redis) -> float:
    """The fraction of its `maxmemory` that a server uses; 0 if it has no limit.

    Raises:
        RedisError: it does not answer.
    """
    info: dict[str, Any] = connected.info("memory")
    return float(info["used_memory"]) / info["maxmemory"] if info.get("maxmemory") else 0.0


def problem(address: Address, error: BaseException) -> StoreError:
    """An error of the client as one of Offramp's, with advice."""
    where = f"Redis at {address.shown}"
    if isinstance(error, _LOGIN):
        return StoreError(f"{where} refuses the user name, the password, or the user's permissions: {_message(error)}")
    if isinstance(error, RedisError) and is_full(error):
        return StoreError(f"{where} is full (maxmemory), nothing was written: give it memory or shorten retention")
    if isinstance(error, MovedError):
        return StoreError(f"{where} is one of several nodes of a cluster, and does not have the slot of these keys")
    if isinstance(error, NotOnDisk):
        return StoreError(f"{where} does not write to its disk (appendfsync)")
    if isinstance(error, RedisTimeoutError):
        return StoreError(f"{where} does not answer in time")
    if isinstance(error, BusyLoadingError):
        return StoreError(f"{where} is loading its data")
    if isinstance(error, RedisConnectionError):
        return StoreError(f"{where} cannot be reached: {_message(error)}")
    return StoreError(f"{where} refused: {_message(error)}")


def _message(error: BaseException) -> str:
    """The message of the server or the operating system, on one line."""
    return " ".join(str(error).split())[:300]
