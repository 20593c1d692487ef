"""A store that can do little, and says so: nothing is wrong with it."""

from __future__ import annotations

from offramp.errors import NotSupported
from offramp.stores.memory import MemoryStore
from tests.conformance.adapters import Memory
from tests.conformance.broken.leases import NoPriority


class _Little(MemoryStore):
    def create(self, record, event, **options):
        if record.webhook is not None:
            raise NotSupported("this store announces nothing")
        return super().create(record, event, **options)

    async def send_signal(self, run_id, name, value, at, key=None):
        raise NotSupported("this store keeps no signals")

    async def purge(self, now, only=None):
        raise NotSupported("this store removes nothing")

    async def due(self, now):
        raise NotSupported("this store removes nothing")

    async def sweep(self, now):
        raise NotSupported("this store removes nothing")


class Lacking(Memory):
    """Neither shared nor durable, without signals, purging and webhooks."""

    name = "lacking"
    capabilities = frozenset()

    def __init__(self):
        super().__init__(_Little)


BROKEN = Memory(NoPriority)
