"""Opens the store of a process: its connections, and the adapters over them."""

from __future__ import annotations

from collections.abc import Callable

from offramp.stores.redis.address import Address
from offramp.stores.redis.leases import RedisLeases
from offramp.stores.redis.outbox import RedisOutbox
from offramp.stores.redis.reader import Reader
from offramp.stores.redis.store import RedisStore
from offramp.stores.redis.writer import Writer


def open_redis(
    address: Address,
    backlog_bytes: int,
    timeout_s: float,
    committed: Callable[[int, float], object],
    tenant_share: float,
) -> tuple[RedisStore, RedisLeases, RedisOutbox]:
    """The store, its leases and its outbox.

    Args:
        address: of the server.
        backlog_bytes: bytes of emitted values that may wait to be written.
        timeout_s: how long a request waits to be written.
        committed: called with the operations and seconds of each batch.
        tenant_share: the fraction of the reading threads for the requests of one tenant.

    Raises:
        StoreError: the server cannot be reached.
        SettingsError: the server is unsuitable, or a setting is wrong.
    """
    writer = Writer(address, backlog_bytes, timeout_s, committed)
    reader = Reader(address, tenant_share)
    return RedisStore(reader, writer), RedisLeases(reader, writer), RedisOutbox(writer)
