"""Retries on Temporal: a new workflow begins with the journal of another run."""

from __future__ import annotations

import asyncio

import pytest

from offramp.execution import replay
from tests.paths import retried
from tests.support import failure_of, log_of, of, result_of


@pytest.fixture(autouse=True)
def _brief_divergence(monkeypatch):
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.2)


@pytest.mark.parametrize("story", retried.STORIES, ids=lambda story: story.__name__)
async def test_a_retry_tells(story, service):
    await story(service)


async def test_a_retry_goes_on_in_a_new_history_and_in_a_new_process(service):
    desk = retried.Desk()

    @desk.app.pipeline(sla="batch")
    async def long(rounds: int) -> list[str]:
        found = []
        for number in range(rounds):
            names = [f"{number}-{side}" for side in ("a", "b", "c")]
            both = await asyncio.gather(*map(desk.do, names), return_exceptions=True)
            found += [str(each) for each in both]
        return [*found, await desk.check("last")]

    desk.failing = {"0-b", "4-a", "6-c", "last"}
    async with service(desk.app) as runtime:
        run = await runtime.start("long", rounds=8)
        assert isinstance(await failure_of(run), ValueError)
        desk.again()
        runtime.worker.engine.history_events_max = 14
        retry = await run.retry()
        assert await result_of(retry) == [*(f"{n}-{side}" for n in range(8) for side in ("a", "b", "c")), "last"]
        assert desk.count() == {"0-b": 1, "4-a": 1, "6-c": 1, "last": 1}
        replayed = await runtime.service.replay(retry.id)
        assert (replayed.executed, replayed.outcome.status) == ([], "completed")
        resumed = of(await log_of(retry), "run.resumed")
    assert [each.data["reason"] for each in resumed][:1] == ["retry"]
    assert len(resumed) > 1, "all of it was one history"
