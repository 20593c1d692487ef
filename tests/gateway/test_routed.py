"""Requests whose path the app's own functions decide: as a stream, as JSON, and asked for without a run."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx
import pytest

from offramp import SLA, App, wiring
from offramp.gateway.asgi import Gateway
from offramp.settings import Settings
from offramp.wiring import build
from tests import valkey
from tests.gateway.conftest import serving
from tests.gateway.wire import parse_sse, types_of

SSE = {"Accept": "text/event-stream"}
RUNS, ROUTE = "/v1/pipelines/say/runs", "/v1/pipelines/say/route"
LONG = {"path": "deep", "by": "rule", "reasons": ["long"], "predicted_ms": None, "confidence": 0}


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """No machine is too slow for a rule."""
    monkeypatch.setattr(wiring, "RULE_TIMEOUT_S", 30.0)


def an_app(**declared):
    app = App("routed", classes=[SLA("interactive", budget=30.0)], classifier_timeout=10, **declared)

    @app.rule
    def by_length(request):
        return ("deep", "long") if len(request.input["words"]) > 20 else None

    @app.pipeline(sla="interactive")
    async def say(words: str) -> str:
        return words

    return app


NO_REDIS = pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))
STORES = pytest.mark.parametrize("web", ["sqlite", pytest.param("redis", marks=NO_REDIS)], indirect=True)


@pytest.fixture
async def web(request, tmp_path):
    kept = {"store": valkey.server().url()} if getattr(request, "param", "sqlite") == "redis" else {}
    settings = Settings.load(environment={}, file=tmp_path / "none", data=str(tmp_path / "data"), **kept)
    gateway = Gateway(lambda: build(an_app(), settings, role="local"))
    async with (
        gateway.lifespan(),
        serving(gateway) as url,
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as web,
    ):
        yield web


def asking(words="a question that is longer than 20 characters", **given):
    return {"input": {"words": words}, **given}


@STORES
async def test_a_stream_of_a_run_that_goes_deep_ends_when_it_is_accepted_unless_it_follows(web):
    answer = await web.post(RUNS, json=asking(), headers=SSE)
    found, _, _ = parse_sse(answer.content)
    assert answer.status_code == 200
    assert [kind for _, kind, _ in found] == ["run.accepted"]
    accepted = json.loads(found[0][2])
    assert (accepted["path"], accepted["route"]) == ("deep", LONG)
    rest = await web.get(f"/v1/runs/{accepted['run_id']}/events", headers={"Last-Event-ID": "1"})
    assert types_of(rest.content)[-1] == "run.completed"
    followed = await web.post(RUNS, json=asking(follow=True), headers=SSE)
    assert types_of(followed.content)[-1] == "run.completed"


async def test_a_stream_that_attaches_to_a_deep_run_continues_after_its_last_event(web):
    key = SSE | {"Idempotency-Key": "k"}
    first = await web.post(RUNS, json=asking(), headers=key)
    again = await web.post(RUNS, json=asking(), headers=key)
    assert types_of(first.content) == types_of(again.content) == ["run.accepted"]
    rest = await web.post(RUNS, json=asking(), headers=key | {"Last-Event-ID": "1"})
    assert types_of(rest.content)[-1] == "run.completed"


async def test_as_json_it_is_accepted_at_once(web):
    answer = await web.post(RUNS, json=asking(), headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json()["route"]) == (202, LONG)
    assert (await web.post(RUNS, json=asking("short"))).json()["route"]["by"] == "default"


@pytest.mark.parametrize(
    ("body", "headers", "path", "by"),
    [
        (asking(), {}, "deep", "rule"),
        (asking("short"), {}, "fast", "default"),
        (asking(), {"Prefer": "wait=3"}, "deep", "rule"),
        (asking("short"), {"Prefer": "respond-async"}, "deep", "preference"),
        (asking("short"), {"Prefer": "respond-async, wait=3"}, "fast", "default"),
        (asking(budget=5), SSE, "fast", "preference"),
        (asking("short", budget=0), {}, "deep", "preference"),
    ],
)
async def test_a_dry_request_says_where_the_same_request_would_go_and_starts_nothing(web, body, headers, path, by):
    answer = await web.post(ROUTE, json=body, headers=headers)
    assert answer.status_code == 200
    route = answer.json()["route"]
    assert set(answer.json()) == {"route"}
    assert (route["path"], route["by"]) == (path, by)
    assert (await web.get("/v1/runs")).json()["runs"] == []
    started = await web.post(RUNS, json=body, headers=headers | {"Accept": "application/json"})
    assert started.json()["route"] == route


@pytest.mark.parametrize(
    ("where", "body", "status"),
    [
        ("/v1/pipelines/sey/route", asking(), 404),
        (ROUTE, {"input": {"words": 3}}, 422),
        (ROUTE, asking(**{"class": "none"}), 422),
        (ROUTE, asking(budget=1e9), 422),
        (ROUTE, asking(unknown=1), 422),
        (ROUTE, asking(webhook={"url": "http://127.0.0.1/"}), 422),
        (ROUTE, [], 422),
    ],
)
async def test_a_dry_request_is_refused_as_the_run_would_be(web, where, body, status):
    dry, real = await web.post(where, json=body), await web.post(where.replace("/route", "/runs"), json=body)
    assert (dry.status_code, dry.json()) == (real.status_code, real.json())
    assert dry.status_code == status


async def test_a_function_that_hangs_holds_up_no_other_request(tmp_path):
    released, entered = threading.Event(), threading.Event()

    def hangs(request):
        if request.input["words"] == "hang":
            entered.set()
            released.wait()

    settings = Settings.load(environment={}, file=tmp_path / "none", data=str(tmp_path / "data"))
    gateway = Gateway(lambda: build(an_app(classifier=hangs), settings, role="local"))
    async with (
        gateway.lifespan(),
        serving(gateway) as url,
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as web,
    ):
        hanging = asyncio.ensure_future(web.post(RUNS, json=asking("hang")))
        await asyncio.to_thread(entered.wait, 30)
        assert (await web.post(RUNS, json=asking("other"))).json()["result"] == "other"
        assert not hanging.done()
        released.set()
        assert (await hanging).json()["result"] == "hang"
