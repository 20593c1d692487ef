from __future__ import annotations

import pytest

from tests.support import Files


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
