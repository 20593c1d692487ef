"""The harnesses of the store on Redis: processes of their own at a server that lives on."""

from __future__ import annotations

from tests import valkey
from tests.conformance.adapters import EVERYTHING, Embedded, lose_unwritten
from tests.support import GUARD_S

BACKLOG_BYTES = 1 << 20


class OpenRedis:
    """A store as one process has it open; the first one to open it removes its keys."""

    def __init__(self, url, *, first=False, timeout_s=GUARD_S):
        from offramp.stores.redis.address import Address
        from offramp.stores.redis.opening import open_redis

        self.url = url
        self.address = Address.parse(url)
        self._first = first
        self.store, self.leases, self.outbox = open_redis(
            self.address, BACKLOG_BYTES, timeout_s, lambda _count, _seconds: None, 1.0
        )

    def die(self, _owner):
        """What the writer has not begun to send dies with its process."""
        lose_unwritten(self.store.writer)

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
        return OpenRedis(instance.url)

    async def crash(self, instance):
        instance.die(None)
        return await self.reopen(instance)


REDIS = Redis()
EMBEDDED_REDIS = Embedded(REDIS)
