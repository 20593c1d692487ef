"""What a client learns of a run that a resource had no permit for."""

from __future__ import annotations

import math

import httpx
import pytest

from offramp import App, AsyncClient
from offramp.errors import RunFailed
from offramp.gateway.asgi import Gateway
from offramp.ports.limits import Refused
from offramp.settings import Settings
from offramp.wiring import build
from tests.gateway.conftest import serving
from tests.permits import Toy, uses

RUNS = "/v1/pipelines/line/runs"


@pytest.fixture
def limits():
    return Toy(api=1)


@pytest.fixture
def gateway(tmp_path, limits):
    app = App("busy")

    @app.step
    async def calls() -> str:
        return "called"

    uses(calls, "api")

    @app.pipeline(budget=30)
    async def line() -> str:
        return await calls()

    settings = Settings.load(environment={}, file=tmp_path / "none", data=str(tmp_path / "data"))
    return Gateway(lambda: build(app, settings, role="local", limits=limits))


@pytest.mark.parametrize(
    ("refused", "code", "retry_after"),
    [
        (Refused("busy", "api: 140 calls wait; queue_limit is 100", 11.2), "resource-busy", "15"),
        (Refused("open", "api: 9 of the last 12 calls failed"), "circuit-open", "1"),
    ],
)
async def test_a_run_that_failed_because_a_queue_is_full_or_a_breaker_open_is_503(
    gateway, limits, refused, code, retry_after
):
    limits.refuses = refused
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url) as web:
        answer = await web.post(RUNS, json={"input": {}}, headers={"Idempotency-Key": code})
        problem = answer.json()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, retry_after)
        assert answer.headers["content-type"] == "application/problem+json"
        assert (problem["type"], problem["error"]["code"]) == (f"urn:offramp:error:{code}", code)
        assert refused.says in problem["detail"]
        run = (await web.get(answer.headers["content-location"])).json()
        assert (run["id"], run["status"], run["error"]["code"]) == (problem["run_id"], "failed", code)
        limits.refuses = None
        again = await web.post(RUNS, json={"input": {}}, headers={"Idempotency-Key": code})
        assert (again.status_code, again.json()["id"]) == (200, run["id"])
        other = await web.post(RUNS, json={"input": {}})
        assert (other.status_code, other.json()["result"]) == (200, "called")


async def test_our_client_learns_it_at_once(gateway, limits):
    limits.refuses = Refused("busy", "api: 140 calls wait", 600.0)
    async with serving(gateway) as url, AsyncClient(url) as client:
        with pytest.raises(RunFailed, match="140 calls wait") as failed:
            await client.submit("line", {}, wait=math.inf)
        assert (failed.value.error_code, failed.value.problem.status) == ("resource-busy", 503)
        with pytest.raises(RunFailed, match="140 calls wait"):
            await client.run("line", {})
