"""The harness of the limits' conformance suite over a server."""

from __future__ import annotations

import asyncio

from offramp.limits.redis import RedisLimits
from tests import valkey
from tests.limits.redis.processes import Place


class _Site:
    def __init__(self, make):
        self._place, self._make = Place(valkey.server()), make
        self._joined = []

    async def join(self):
        await self._place.settled()
        self._joined.append(self._make(self._place.address))
        return self._joined[-1]

    async def kill(self, limits):
        """Its lease is over, as the server sees it."""
        await asyncio.to_thread(limits.drop)
        self._place.expire(limits.own)

    async def crash(self):
        """All the data is lost."""
        with self._place.server.client() as client:
            client.delete(*client.scan_iter(f"{self._place.address.tag}*"))

    async def close(self):
        for limits in self._joined:
            await asyncio.to_thread(limits.close)


class Redis:
    """Processes that share a store over a server: several in this one, each with its own connections."""

    name = "redis"
    capabilities = frozenset({"shared", "successor"})

    def __init__(self, made=RedisLimits):
        self._made = made

    async def meet(self, specs, classes):
        return _Site(lambda address: self._made(address, specs, classes))


REDIS = Redis()
