from __future__ import annotations

import pytest

from tests.fuzz.serving import served


@pytest.fixture
def gateway(tmp_path):
    with served(tmp_path) as gateway:
        yield gateway
