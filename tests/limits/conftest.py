"""A data directory of a test's own, with everything at it ended afterwards."""

from __future__ import annotations

import pytest

from tests.limits.processes import Place


@pytest.fixture
async def place(tmp_path):
    made = Place(tmp_path / "data")
    made.data.mkdir()
    yield made
    await made.close()
