"""Retries on the embedded engine, over every store: the stories of `retried`, and what is the gateway's own matter."""

from __future__ import annotations

import contextlib

import pytest

from offramp.execution import replay
from offramp.paths.local import LocalRuntime
from offramp.testing import runtime
from tests import valkey
from tests.paths import retried
from tests.support import member

STORES = ["memory", "sqlite", "redis"]


@pytest.fixture(params=STORES)
def opened(request, tmp_path):
    """Opens one process that is both gateway and worker."""
    if request.param == "redis" and valkey.missing():
        pytest.skip(valkey.missing())

    @contextlib.asynccontextmanager
    async def on_disk(app):
        store = {"store": valkey.server().url()} if request.param == "redis" else {}
        async with member(app, tmp_path, "local", **store) as service:
            yield LocalRuntime(service)

    return runtime if request.param == "memory" else on_disk


@pytest.fixture(autouse=True)
def _brief_divergence(monkeypatch):
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.2)


@pytest.mark.parametrize("story", retried.STORIES, ids=lambda story: story.__name__)
async def test_a_retry_tells(story, opened):
    await story(opened)
