"""A client of a resource in a process lane: its requests use what its step was lent."""

from __future__ import annotations

from typing import Any

from offramp import App
from tests.execution.test_permits import opened
from tests.resources.fakes import FakeLimits
from tests.resources.provider import failing
from tests.support import eventually, failure_of, result_of

app = App("lanes")
model = app.resource("model", rate="500/min")


@app.step(lane="process", uses=model, timeout=30)
def ask(url: str) -> int:
    with model.http_client() as client:
        return client.post(url, json={"max_tokens": 5}).json()["usage"]["total_tokens"]


@app.step(lane="process", uses=model, timeout=30)
def ask_twice(url: str) -> list[int]:
    with model.http_client() as client:
        return [client.get(url).status_code for _ in range(2)]


@app.step(lane="process", uses=model, timeout=30)
def hold(url: str) -> int:
    with model.permit(tokens=7) as permit:
        permit.used(tokens=5)
    return 5


STEPS = {step.spec.name: step for step in (ask, ask_twice, hold)}


@app.pipeline(budget=60)
async def line(step: str, url: str) -> Any:
    return await STEPS[step](url)


async def test_its_first_request_uses_the_permit_that_its_step_waited_for(tmp_path, provider):
    limits = FakeLimits()
    async with opened(tmp_path, limits, app=app) as runtime:
        assert await result_of(await runtime.start("line", step="ask", url=provider.url)) == 12
        await eventually(lambda: limits.in_use == 0)
    assert limits.what() == ["written", "done"]
    (done,) = limits.dones
    assert (done.how, done.tokens) == ("ok", 12)
    assert limits.reported[0][1] == limits.asks[0].id


async def test_what_the_provider_says_of_it_is_known_to_all(tmp_path, provider):
    provider.replies.append(failing(429, "rate_limit", {"retry-after": "7"}))
    limits = FakeLimits()
    async with opened(tmp_path, limits, app=app) as runtime:
        await failure_of(await runtime.start("line", step="ask", url=provider.url))
        await eventually(lambda: limits.in_use == 0)
    (done,) = limits.dones
    assert (done.how, done.blocked_s) == ("throttled", 7.0)


async def test_a_block_uses_it_too(tmp_path, provider):
    limits = FakeLimits()
    async with opened(tmp_path, limits, app=app) as runtime:
        assert await result_of(await runtime.start("line", step="hold", url=provider.url)) == 5
        await eventually(lambda: limits.in_use == 0)
    assert [(done.how, done.tokens) for done in limits.dones] == [("ok", 5)]


async def test_a_further_request_asks_the_limits_of_the_service_by_itself(tmp_path, provider):
    async with opened(tmp_path, None, app=app) as runtime:
        assert await result_of(await runtime.start("line", step="ask_twice", url=provider.url)) == [200, 200]
    assert len(provider.seen) == 2
