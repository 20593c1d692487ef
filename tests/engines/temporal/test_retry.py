"""Retries on Temporal: a new workflow begins with the journal of another run."""

from __future__ import annotations

import pytest

from offramp.execution import replay
from tests.paths import retried


@pytest.fixture(autouse=True)
def _brief_divergence(monkeypatch):
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.2)


@pytest.mark.parametrize("story", retried.STORIES, ids=lambda story: story.__name__)
async def test_a_retry_tells(story, service):
    await story(service)
