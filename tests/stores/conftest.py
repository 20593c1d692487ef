from __future__ import annotations

import pytest

from offramp.stores.memory import MemoryStore
from tests.support import Files


class Memory:
    """The store in memory, with the same two ends."""

    def __init__(self):
        self.store = self.leases = MemoryStore()

    async def close(self):
        await self.store.close()


@pytest.fixture(params=["sqlite", "memory"])
async def port(request, tmp_path):
    """Each adapter of the store port."""
    made = Files(tmp_path) if request.param == "sqlite" else Memory()
    yield made
    await made.close()


@pytest.fixture
async def files(tmp_path):
    """One process at a database file."""
    made = Files(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def two(tmp_path):
    """Two processes at the same database file."""
    first, second = Files(tmp_path), Files(tmp_path)
    yield first, second
    await second.close()
    await first.close()
