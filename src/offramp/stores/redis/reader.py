"""Reads, on a few threads with a connection each, so that any event loop can wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from offramp.stores.redis.address import Address
from offramp.stores.redis.connection import client, problem
from offramp.stores.threads import Readers, read_on

T = TypeVar("T")

READERS = 4
"""Threads that read, with a connection each."""


class Reader:
    """Reads of one process.

    Args:
        address: of the server.
        tenant_share: the fraction of the threads for the requests of one tenant.
    """

    def __init__(self, address: Address, tenant_share: float = 1.0) -> None:
        self.address = address
        self._client = client(address, connections_max=READERS)
        self._threads = Readers(READERS, tenant_share)

    async def read(self, query: Callable[[Any], T]) -> T:
        """Run a query on a reading thread.

        Raises:
            StoreError: the server cannot be read, or the store is closed.
        """
        return await read_on(self._threads, self._read, query)

    def _read(self, query: Callable[[Any], T]) -> T:
        try:
            return query(self._client)
        except RedisError as error:
            raise problem(self.address, error) from error

    def close(self) -> None:
        """End the threads and close their connections."""
        self._threads.shutdown()
        self._client.close()
