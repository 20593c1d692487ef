"""The harnesses of the store on Redis: processes of their own at a server that lives on."""

from __future__ import annotations

from offramp.stores.redis.address import Address
from offramp.stores.redis.leases import RedisLeases
from offramp.stores.redis.outbox import RedisOutbox
from offramp.stores.redis.reader import Reader
from offramp.stores.redis.store import RedisStore
from offramp.stores.redis.writer import Writer
from tests import valkey
from tests.conformance.adapters import EVERYTHING, Embedded

BACKLOG_BYTES = 1 << 20


class OpenRedis:
    """A store as one process has it open; the first one to open it removes its keys."""

    def __init__(self, url, *, first):
        self.url = url
        self.address = Address.parse(url)
        self._first = first
        reader = Reader(self.address)
        self.writer = Writer(self.address, BACKLOG_BYTES, lambda _operations, _seconds: None)
        self.store = RedisStore(reader, self.writer)
        self.leases = RedisLeases(reader, self.writer)
        self.outbox = RedisOutbox(self.writer)

    def die(self, _owner):
        """What the writer has not begun to send dies with its process."""
        with self.writer._changed:
            self.writer._operations.clear()

    async def close(self):
        self.leases.leave()
        await self.store.close()
        if self._first:
            with valkey.server().client() as client:
                for key in client.scan_iter(self.address.tag + "*", count=1000):
                    client.delete(key)


class Redis:
    """A store on a server that the tests of this process share."""

    name = "redis"
    capabilities = EVERYTHING

    async def open(self):
        return OpenRedis(valkey.server().url(), first=True)

    async def reopen(self, instance):
        return OpenRedis(instance.url, first=False)

    async def crash(self, instance):
        instance.die(None)
        return await self.reopen(instance)


REDIS = Redis()
EMBEDDED_REDIS = Embedded(REDIS)
