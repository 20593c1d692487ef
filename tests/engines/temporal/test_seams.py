"""What is before and around the attempts of a step, where an activity of Temporal makes them."""

from __future__ import annotations

import contextlib

import pytest

from offramp.engines.temporal import steps
from offramp.errors import RunCancelled
from offramp.paths.local import LocalRuntime
from offramp.ports.seams import Postpone, Seams
from tests import seams as toys
from tests import temporal
from tests.support import eventually, failure_of, frames_of, log_of, member, of, result_of, types


@pytest.fixture
def pending():
    """The activities of a run that Temporal waits for."""
    from temporalio.client import Client

    async def read(run_id):
        client = await Client.connect(temporal.server().target)
        description = await client.get_workflow_handle(run_id).describe()
        return description.raw_description.pending_activities

    return read


@pytest.mark.parametrize("lane", toys.LANES)
async def test_the_activity_waits_and_says_so(service, pending, lane):
    limiter = toys.Limiter()
    async with service(toys.app, seams=Seams((limiter,)), processes=1) as runtime:
        handle = await runtime.start("deep", lane=lane)
        await limiter.waits.wait()

        async def is_said():
            return any(
                b"waits for a permit" in repr(each.heartbeat_details).encode() for each in await pending(handle.id)
            )

        await eventually(is_said)
        assert (await handle.document())["steps"] == []
        limiter.grant()
        assert await result_of(handle) == "1 None"
        seen = await log_of(handle)
    assert types(seen).count("step.started") == 1
    assert limiter.free == 1


async def test_a_worker_that_stops_gives_the_wait_up_and_another_makes_the_attempt(url, tmp_path):
    full, free = toys.Limiter(), toys.Limiter(permits=1)
    made = {"engine": url, "lease": 2.0, "drain_timeout": 5.0}
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(member(toys.app, tmp_path, "gateway", owner="g", **made))
        async with member(toys.app, tmp_path, "worker", owner="w1", seams=Seams((full,)), **made):
            handle = await LocalRuntime(gateway).start("deep", lane="thread")
            await full.waits.wait()
        worker = member(toys.app, tmp_path, "worker", owner="w2", seams=Seams((free,)), **made)
        await stack.enter_async_context(worker)
        assert await result_of(handle) == "1 None"
        frames = await frames_of(gateway, handle.id)
    assert [frame.type for frame in frames].count("step.started") == 1
    assert full.given_up == 1
    assert free.free == 1


async def test_a_cancellation_gives_the_wait_up(service):
    limiter = toys.Limiter()
    async with service(toys.app, seams=Seams((limiter,))) as runtime:
        handle = await runtime.start("deep", lane="thread")
        await limiter.waits.wait()
        await handle.cancel()
        assert isinstance(await failure_of(handle), RunCancelled)
        await limiter.gave_up.wait()
        assert not of(await log_of(handle), "step.started")
    assert (limiter.given_up, limiter.free) == (1, 0)


async def test_a_wait_that_an_activity_has_no_time_for_is_asked_for_again(service, monkeypatch):
    monkeypatch.setattr(steps, "STEP_MARGIN_S", 0.2)
    limiter = toys.Limiter()
    async with service(toys.app, seams=Seams((limiter,))) as runtime:
        handle = await runtime.start("deep", lane="loop")
        await limiter.gave_up.wait()
        limiter.grant()
        assert await result_of(handle) == "1 None"
        assert not of(await log_of(handle), "step.retrying")
    assert {asked.number for asked in limiter.asked} == {1}


async def test_an_attempt_that_is_put_off_is_none(service):
    class Later:
        asked = 0

        async def admit(self, asked, _says):
            self.asked += 1
            if self.asked == 1:
                raise Postpone(0.0)
            assert asked.number == 1
            return lambda: None

    later = Later()
    async with service(toys.app, seams=Seams((later,))) as runtime:
        handle = await runtime.start("deep", lane="loop")
        assert await result_of(handle) == "1 None"
        seen = await log_of(handle)
    assert later.asked == 2
    assert [kind for kind in types(seen) if kind.startswith("step.")] == ["step.started", "step.completed"]


@pytest.mark.parametrize("lane", toys.LANES)
async def test_a_breaker_sees_the_earlier_attempts_and_picks_a_target_that_the_code_sees(service, lane):
    breaker = toys.Breaker(toys.BACKUP)
    async with service(toys.app, seams=Seams((), (breaker,)), processes=1) as runtime:
        assert await result_of(await runtime.start("deep", lane=lane, fails=2)) == f"3 {toys.BACKUP}"
    earlier = [[(failed.number, failed.message) for failed in asked.earlier] for asked in breaker.asked]
    first, second = (1, "ValueError: attempt 1 failed"), (2, "ValueError: attempt 2 failed")
    assert earlier == [[], [first], [first, second]]


async def test_a_breaker_refuses(service):
    breaker = toys.Breaker()
    async with service(toys.app, seams=Seams((), (breaker,))) as runtime:
        handle = await runtime.start("deep", lane="loop", fails=9)
        assert isinstance(await failure_of(handle), toys.CircuitOpen)
