from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from websockets.asyncio.client import connect

from offramp.app import App
from offramp.errors import SettingsError, StoreError
from offramp.gateway.access import Access
from offramp.gateway.asgi import Gateway, create_asgi
from offramp.gateway.routes import mounted_at
from tests.gateway.conftest import serving
from tests.gateway.fake import FakeService
from tests.gateway.wire import AsgiCall, parse_sse

RUNS = "/v1/pipelines/research/runs"
BODY = {"input": {"question": "why"}}
ENDS = ("events", "result", "ws", "cancel")


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


class Lifespan:
    """A server's side of the lifespan protocol."""

    def __init__(self, app):
        self.incoming, self.sent = asyncio.Queue(), asyncio.Queue()
        self.task = asyncio.create_task(app({"type": "lifespan"}, self.incoming.get, self.sent.put))

    async def say(self, what):
        self.incoming.put_nowait({"type": f"lifespan.{what}"})
        async with asyncio.timeout(10):
            return await self.sent.get()


async def test_the_servers_lifespan_starts_and_stops_the_service():
    service = FakeService()
    lifespan = Lifespan(Gateway(lambda: service))
    assert await lifespan.say("startup") == {"type": "lifespan.startup.complete"}
    assert (service.started, service.stopped) == (1, 0)
    assert await lifespan.say("shutdown") == {"type": "lifespan.shutdown.complete"}
    assert (service.started, service.stopped) == (1, 1)
    await lifespan.task


async def test_a_failed_start_is_told_to_the_server():
    service = FakeService()
    service.fails_with = StoreError("the disk is full")
    lifespan = Lifespan(Gateway(lambda: service))
    assert await lifespan.say("startup") == {
        "type": "lifespan.startup.failed",
        "message": "StoreError: the disk is full",
    }
    await lifespan.task


async def test_without_a_lifespan_the_first_request_starts_it_once():
    service, entered, go_on = FakeService(), asyncio.Event(), asyncio.Event()
    start = service.start

    async def slow_start():
        entered.set()
        await go_on.wait()
        await start()

    service.start = slow_start
    gateway = Gateway(lambda: service)
    async with client_of(gateway) as client:
        requests = [asyncio.create_task(client.get("/readyz")) for _ in range(5)]
        await entered.wait()
        go_on.set()
        answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {200}
    assert service.started == 1


async def test_alive_starts_nothing():
    service = FakeService()
    async with client_of(Gateway(lambda: service)) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/docs")).status_code == 200
        assert (await client.get("/metrics")).status_code == 200
    assert service.started == 0


async def test_a_failed_start_is_tried_again_by_the_next_request():
    service = FakeService()
    service.fails_with = StoreError("the disk is full")
    async with client_of(Gateway(lambda: service)) as client:
        assert (await client.get("/readyz")).status_code == 503
        service.fails_with = None
        assert (await client.get("/readyz")).status_code == 200


async def test_after_the_end_it_is_503_and_does_not_start_again():
    services = []
    gateway = Gateway(lambda: services.append(FakeService()) or services[-1])
    async with gateway.lifespan():
        pass
    async with client_of(gateway) as client:
        answer = await client.get("/v1/pipelines")
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:offramp:error:not-ready"
        assert "retry-after" in answer.headers
        assert len(services) == 1
        async with gateway.lifespan():
            assert (await client.get("/v1/pipelines")).status_code == 200
    assert [service.stopped for service in services] == [1, 1]


async def test_lifespans_inside_of_each_other_count():
    service = FakeService()
    gateway = create_asgi(lambda: service)
    async with gateway.lifespan():
        async with gateway.lifespan():
            pass
        assert (service.started, service.stopped) == (1, 0)
    assert service.stopped == 1


async def test_readiness_says_why_not(client, service):
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    service.not_ready = "no worker is warm yet"
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "no worker is warm yet"
    assert "retry-after" in answer.headers


class TestMounted:
    @pytest.fixture
    async def parent(self, gateway, service):
        service.script = lambda run: run.complete("x")
        return Starlette(routes=[Mount("/ai", app=gateway)])

    async def test_links_and_locations_have_the_prefix(self, parent):
        async with client_of(parent) as client:
            answer = await client.post("/ai" + RUNS, json=BODY, headers={"Prefer": "respond-async"})
            document = answer.json()
            assert document["links"]["events"] == f"/ai/v1/runs/{document['id']}/events"
            again = await client.get(document["links"]["self"])
            assert again.json()["id"] == document["id"]
            result = await client.get(document["links"]["result"])
            assert result.json() == "x"
            listed = (await client.get("/ai/v1/runs")).json()
            assert listed["runs"][0]["links"]["self"] == document["links"]["self"]
            assert (await client.get("/ai/openapi.json")).json()["servers"] == [{"url": "/ai"}]
            pipeline = (await client.get("/ai/v1/pipelines/research")).json()
            assert pipeline["links"]["runs"] == f"/ai{RUNS}"

    async def test_location_of_a_202(self, parent, service):
        service.script = lambda run: run.demote()
        async with client_of(parent) as client:
            answer = await client.post("/ai" + RUNS, json=BODY)
            assert answer.headers["location"] == answer.json()["links"]["self"]
            assert answer.headers["location"].startswith("/ai/v1/runs/run_")

    async def test_behind_a_server_with_a_root_path(self, parent):
        # As uvicorn --root-path /api: the prefix is in the path, too.
        call = AsgiCall(parent, "GET", "/api/ai/v1/pipelines/research", root_path="/api").start()
        await call.done()
        assert call.status == 200
        assert call.json()["links"]["runs"] == f"/api/ai{RUNS}"

    async def test_behind_a_proxy_that_strips_its_prefix(self, parent):
        call = AsgiCall(parent, "GET", "/ai/v1/pipelines/research", root_path="/api").start()
        await call.done()
        assert call.status == 200
        assert call.json()["links"]["runs"] == f"/api/ai{RUNS}"

    async def test_errors_are_the_gateways_own(self, parent, service):
        async with client_of(parent) as client:
            for method, path, status in (("GET", "/ai/nothing", 404), ("PUT", "/ai/v1/runs", 405)):
                answer = await client.request(method, path)
                assert answer.status_code == status
                assert answer.headers["content-type"] == "application/problem+json"
            service.fails_with = RuntimeError("secret")
            assert (await client.post("/ai" + RUNS, json=BODY)).status_code == 500

    async def test_a_stream(self, parent):
        async with client_of(parent) as client:
            answer = await client.post("/ai" + RUNS, json=BODY, headers={"Accept": "text/event-stream"})
        assert [kind for _, kind, _ in parse_sse(answer.content)[0]] == ["run.accepted", "run.completed"]


def test_the_parents_lifespan_starts_and_stops_it():
    service = FakeService()
    gateway = Gateway(lambda: service)
    parent = Starlette(routes=[Mount("/ai", app=gateway)], lifespan=gateway.lifespan)
    with TestClient(parent) as client:
        assert service.started == 1
        assert client.get("/ai/readyz").status_code == 200
    assert service.stopped == 1


def test_a_websocket_under_a_prefix():
    service = FakeService()
    gateway = Gateway(lambda: service)
    with TestClient(Starlette(routes=[Mount("/ai", app=gateway)], lifespan=gateway.lifespan)) as client:
        run = service.new_run()
        run.complete("x")
        with client.websocket_connect(f"/ai/v1/runs/{run.record.id}/ws") as socket:
            assert socket.receive_json()["type"] == "run.accepted"
            assert socket.receive_json()["type"] == "run.completed"


def test_another_event_loop_is_told_apart_and_named_in_the_log(caplog):
    service = FakeService()
    gateway = Gateway(lambda: service)

    async def ask():
        async with client_of(gateway) as client:
            return await client.get("/readyz")

    assert asyncio.run(ask()).status_code == 200
    assert asyncio.run(ask()).status_code == 500
    assert "another event loop" in caplog.text


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"path": "/v1/runs"}, ("", "/v1/runs")),
        ({"path": "/ai/v1/runs", "root_path": "/ai"}, ("/ai", "/v1/runs")),
        ({"path": "/ai/v1/runs", "root_path": "/ai/"}, ("/ai", "/v1/runs")),
        ({"path": "/ai", "root_path": "/ai"}, ("/ai", "/")),
        ({"path": "/aide/v1", "root_path": "/ai"}, ("/ai", "/aide/v1")),
        ({"path": "/v1/runs", "root_path": "/ai"}, ("/ai", "/v1/runs")),
        ({"path": "/ai/v1", "root_path": "/api/ai", "app_root_path": "/api"}, ("/api/ai", "/v1")),
        ({"path": "/api/ai/v1", "root_path": "/api/ai", "app_root_path": "/api"}, ("/api/ai", "/v1")),
        ({"path": "/ä b/v1", "root_path": "/ä b"}, ("/%C3%A4%20b", "/v1")),
    ],
)
def test_where_it_is_mounted(scope, expected):
    assert mounted_at(scope) == expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"path": "/v1/runs"}, ("/agents", "/v1/runs")),
        ({"path": "/agents/v1/runs"}, ("/agents", "/v1/runs")),
        ({"path": "/agents"}, ("/agents", "/")),
        ({"path": "/agentsmith/v1"}, ("/agents", "/agentsmith/v1")),
        ({"path": "/agents/agents/v1"}, ("/agents", "/agents/v1")),
        ({"path": "/ai/v1", "root_path": "/ai"}, ("/agents/ai", "/v1")),
        ({"path": "/agents/v1", "root_path": "/agents"}, ("/agents", "/v1")),
        ({"path": "/ai/v1", "root_path": "/agents/ai", "app_root_path": "/agents"}, ("/agents/ai", "/v1")),
    ],
)
def test_where_it_is_with_a_root_path_of_its_own(scope, expected):
    assert mounted_at(scope, "/agents") == expected


@pytest.mark.parametrize("asked", ["", "/agents"], ids=["stripped", "kept"])
async def test_links_carry_the_root_path_and_requests_may(service, asked):
    gateway = Gateway(lambda: service, Access(origins=frozenset({"https://app.example"})), root_path="/agents")
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url + asked, trust_env=False) as web:
        answer = await web.post(RUNS, json={"input": {"question": "why"}}, headers={"Prefer": "respond-async"})
        run = answer.headers["location"]
        assert run.startswith("/agents/v1/runs/")
        assert set(answer.json()["links"].values()) == {run, *(f"{run}/{end}" for end in ENDS)}
        listed = (await web.get("/v1/runs")).json()["runs"]
        assert [each["links"]["self"] for each in listed] == [run]
        assert (await web.get("/openapi.json")).json()["servers"] == [{"url": "/agents"}]
        assert (await web.get("/docs")).status_code == (await web.get("/healthz")).status_code == 200
        asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        assert (await web.options(RUNS, headers=asks)).status_code == 204
        assert service.submissions[0].mount == "/agents"
        service.runs[run.rpartition("/")[2]].complete("x")
        async with connect(f"{url}{asked}/v1/runs/{run.rpartition('/')[2]}/ws".replace("http", "ws")) as socket:
            assert json.loads(await socket.recv())["type"] == "run.accepted"


@pytest.mark.parametrize("wrong", ["agents", "/a//b", "/a/../b", "/a?b", "/a b", "https://a.example/b"])
def test_a_root_path_that_is_none_is_refused(wrong):
    with pytest.raises(SettingsError, match=r"root_path: .* is no path such as /agents"):
        App("desk").asgi(root_path=wrong)


async def test_an_unknown_path_names_the_nearest(client):
    answer = await client.get("/v1/run")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:offramp:error:unknown-path"
    assert "did you mean '/v1/runs'" in answer.json()["detail"]
    assert (await client.get("/v1/runs/")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/runs", "GET, HEAD"),
        ("GET", RUNS, "POST"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
        ("BREW", "/v1/runs/x/cancel", "POST"),
    ],
)
async def test_a_wrong_method_names_the_right_ones(client, method, path, allow):
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert answer.json()["type"] == "urn:offramp:error:method-not-allowed"


async def test_head_is_get_without_a_body(client, service):
    run = service.new_run()
    for path in ("/healthz", "/readyz", "/v1/runs", "/v1/pipelines", f"/v1/runs/{run.record.id}", "/docs"):
        head, get = await client.head(path), await client.get(path)
        assert head.content == b""
        assert head.status_code == get.status_code == 200
        assert head.headers == get.headers


async def test_requests_are_counted_by_template_and_status(client, service):
    run = service.new_run()
    await client.get(f"/v1/runs/{run.record.id}")
    await client.get("/v1/runs/nonsense")
    await client.get("/made/up/by/a/client")
    await client.request("MADEUP", "/v1/runs")
    text = (await client.get("/metrics")).text
    assert 'offramp_http_requests_total{method="GET",route="/v1/runs/{run_id}",status="200"} 1.0' in text
    assert 'offramp_http_requests_total{method="GET",route="/v1/runs/{run_id}",status="404"} 1.0' in text
    assert 'offramp_http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert 'offramp_http_requests_total{method="other",route="unmatched",status="405"} 1.0' in text
    assert 'offramp_http_response_seconds_count{route="/v1/runs/{run_id}"} 2.0' in text
    assert "made/up" not in text
    assert "MADEUP" not in text


async def test_two_gateways_count_apart():
    gateways = [Gateway(FakeService), Gateway(FakeService)]
    async with contextlib.AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(client_of(gateway)) for gateway in gateways]
        await first.get("/v1/runs")
        assert 'route="/v1/runs"' in (await first.get("/metrics")).text
        assert 'route="/v1/runs"' not in (await second.get("/metrics")).text


async def test_collectors_of_the_service_are_shown_while_it_runs():
    from prometheus_client import Counter

    counter = Counter("offramp_test_things", "Things", registry=None)
    service = FakeService()
    service.collectors = [counter]
    gateway = Gateway(lambda: service)
    async with client_of(gateway) as client:
        for _ in range(2):
            async with gateway.lifespan():
                counter.inc()
                assert "offramp_test_things_total" in (await client.get("/metrics")).text
            assert "offramp_test_things_total" not in (await client.get("/metrics")).text


async def test_metrics_as_openmetrics(client):
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert (await client.get("/metrics")).headers["content-type"].startswith("text/plain")
