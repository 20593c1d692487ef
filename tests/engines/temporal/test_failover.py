"""A failover where an activity of Temporal makes each attempt."""

from __future__ import annotations

import pytest

from tests.failover import desk
from tests.support import failure_of, log_of, of, result_of


@pytest.mark.parametrize("pipeline", ["fast", "deep"])
async def test_each_attempt_calls_the_next_step(service, pipeline):
    async with service(desk.app, processes=1) as runtime:
        handle = await runtime.start(pipeline, which="broken")
        assert await result_of(handle) == "2: why"
        seen = await log_of(handle)
        [step] = (await handle.document())["steps"]
    assert [event.data["target"] for event in of(seen, "step.started")] == ["broken", "plain"]
    assert [event.data["target"] for event in of(seen, "step.retrying")] == ["broken"]
    assert (step["attempts"], step["target"]) == (2, "plain")


async def test_the_last_failure_is_final(service):
    async with service(desk.app, processes=1) as runtime:
        handle = await runtime.start("deep", which="all")
        assert type(await failure_of(handle)) is ConnectionError
        seen = await log_of(handle)
    assert [event.data["attempt"] for event in of(seen, "step.started")] == [1, 2, 3]
