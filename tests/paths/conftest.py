from __future__ import annotations

import pytest

from offramp.testing import FakeClock


@pytest.fixture(params=["memory", "sqlite"])
def place(request, tmp_path):
    return None if request.param == "memory" else tmp_path


@pytest.fixture
def clock():
    return FakeClock()
