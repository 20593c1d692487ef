from __future__ import annotations

import pytest

from tests.webhooks.receiver import receiving


@pytest.fixture
def receiver():
    with receiving() as made:
        yield made
