"""What a client is answered while the store takes no writes: a problem that says so, in time."""

from __future__ import annotations

import asyncio

import pytest

from offramp.gateway.asgi import Gateway
from offramp.settings import Settings
from offramp.wiring import build
from tests.gateway.test_real_service import Gates, make_app, runs
from tests.support import GUARD_S, eventually, hung

PROBLEM = "application/problem+json"


@pytest.fixture
def gates(tmp_path):
    return Gates(tmp_path)


@pytest.fixture
async def gateway(tmp_path):
    settings = Settings.load(
        environment={}, file=tmp_path / "none", data=str(tmp_path / "data"), write_timeout=0.4, poll=0.05
    )
    app = make_app()
    gateway = Gateway(lambda: build(app, settings, role="local"))
    async with gateway.lifespan():
        yield gateway


def assert_late(answer):
    assert answer.status_code == 503
    assert answer.headers["content-type"] == PROBLEM
    assert int(answer.headers["retry-after"]) >= 1
    problem = answer.json()
    assert problem["type"] == "urn:offramp:error:store-timeout"
    assert "OFFRAMP_WRITE_TIMEOUT" in problem["detail"]
    assert "error_id" not in problem  # nothing about it is hidden
    return problem["detail"]


async def is_ready(web):
    return (await web.get("/readyz")).status_code == 200


async def run_of(web):
    """The one run that there is, once it executes its step."""

    async def executes():
        [run] = (await web.get("/v1/runs")).json()["runs"] or [{"steps": []}]
        return bool(run["steps"]) and run["steps"][0]["status"] == "running"

    await eventually(executes)
    [run] = (await web.get("/v1/runs")).json()["runs"]
    return run["links"]["self"]


async def test_requests_that_change_something_say_that_it_may_have_happened(web, gateway, gates):
    await eventually(lambda: is_ready(web))
    waiting = await web.post(
        runs("gated"), json={"input": {"gate": gates.new()}, "class": "batch"}, headers={"Prefer": "respond-async"}
    )
    links = waiting.json()["links"]
    async with hung(gateway.service):
        answers = await asyncio.gather(
            web.post(runs("research"), json={"input": {"question": "why"}}),
            web.post(runs("research"), json={"input": {"question": "why"}}, headers={"Accept": "text/event-stream"}),
            web.post(runs("nightly"), json={"input": {"day": "1"}}, headers={"Prefer": "respond-async"}),
            web.post(links["self"] + "/signals/go", json=1),
            web.post(links["cancel"]),
        )
        for answer in answers:
            assert "may or may not have happened" in assert_late(answer)
        ready = await web.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["type"] == "urn:offramp:error:not-ready"
        assert "the store has kept a request waiting" in ready.json()["detail"]
        assert (await web.get("/healthz")).status_code == 200
        assert (await web.get(links["self"])).status_code == 200  # what is known can be read
    await eventually(lambda: is_ready(web))


@pytest.mark.parametrize("ends", [True, False], ids=["its outcome", "its demotion"])
async def test_a_request_is_not_kept_by_what_cannot_be_written_of_its_run(web, gateway, gates, ends):
    gate = gates.new()
    body = {"input": {"gate": gate}} | ({} if ends else {"budget": 0.5})
    request = asyncio.ensure_future(web.post(runs("gated"), json=body))
    run = await run_of(web)
    async with hung(gateway.service):
        if ends:
            gates.open(gate)
        async with asyncio.timeout(GUARD_S):
            answer = await request
        assert run in assert_late(answer)
    gates.open(gate)
    async with asyncio.timeout(GUARD_S):
        await web.get(run + "/events")
    assert (await web.get(run)).json()["result"] == "DONE"


async def test_a_request_waits_for_a_long_step_while_the_store_hangs(web, gateway, gates):
    """Nothing of its run waits to be written: the store may be back before it ends."""
    gate = gates.new()
    request = asyncio.ensure_future(web.post(runs("gated"), json={"input": {"gate": gate}}))
    run = await run_of(web)
    async with hung(gateway.service):
        await eventually(lambda: gateway.service.readiness.trouble() is not None)
        assert not request.done()
    gates.open(gate)
    answer = await request
    assert (answer.status_code, answer.json()["links"]["self"]) == (200, run)
