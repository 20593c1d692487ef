"""Pages of other origins, over the real server: what a browser would let them send and read."""

from __future__ import annotations

import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from offramp.app import App
from offramp.core.keys import parse_keys
from offramp.errors import SettingsError
from offramp.gateway.access import Access
from offramp.gateway.asgi import Gateway
from offramp.gateway.keyring import Keyring
from offramp.settings import Settings
from tests.gateway.conftest import serving
from tests.gateway.test_surfaces import CHAT

RUNS = "/v1/pipelines/research/runs"
APP = "https://app.example"
OTHER = "https://other.example"
SECRET = "0123456789abcdef0123456789abcdef"
KEYS = parse_keys(f"ann:{SECRET}", "KEYS")
JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"input": {"question": "why"}}).encode()
EXPOSED = {
    "Location", "Retry-After", "Preference-Applied", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed"
}  # fmt: skip


def names(text):
    return {name.strip().lower() for name in text.split(",")}


def preflight(origin=APP, method="POST", headers=""):
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return asked | ({"Access-Control-Request-Headers": headers} if headers else {})


def assert_readable(answer, origin=APP):
    assert answer.headers["access-control-allow-origin"] == origin
    assert set(answer.headers["access-control-expose-headers"].split(", ")) == EXPOSED
    assert "access-control-allow-credentials" not in answer.headers
    assert "origin" in names(answer.headers["vary"])


@pytest.fixture
async def gateway(service, origins, keys):
    return Gateway(lambda: service, Access(Keyring(keys), origins=origins), surfaces=[CHAT])


@pytest.fixture
def origins():
    return frozenset({APP})


@pytest.fixture
def keys():
    return ()


class TestPreflight:
    @pytest.fixture
    def keys(self):
        return KEYS  # a preflight has none

    async def test_allows_what_the_api_reads(self, web):
        asked = "authorization,baggage,cache-control,content-type,idempotency-key,last-event-id,prefer"
        asked += ",traceparent,tracestate,x-requested-with"
        answer = await web.options(RUNS, headers=preflight(headers=asked))
        assert (answer.status_code, answer.content) == (204, b"")
        assert "content-length" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == APP
        assert names(asked) <= names(answer.headers["access-control-allow-headers"])
        assert names(answer.headers["access-control-allow-methods"]) == {"get", "head", "post"}
        assert "origin" in names(answer.headers["vary"])

    @pytest.mark.parametrize(
        ("asked", "refused"),
        [
            (preflight(OTHER), f"the origin '{OTHER}'"),
            (preflight("null"), "the origin 'null'"),
            (preflight(APP + ".evil.example"), f"the origin '{APP}.evil.example'"),
            (preflight(APP + ":8443"), f"the origin '{APP}:8443'"),
            (preflight(method="DELETE"), "the method 'DELETE'"),
            (preflight(headers="content-type, X-Mine,x-other"), "the header 'X-Mine'"),
            (preflight(OTHER, "PUT", "x" * 200), f"the origin '{OTHER}', the method 'PUT', the header '{'x' * 100}'"),
        ],
    )
    async def test_refuses_anything_else_as_a_problem(self, web, asked, refused):
        answer = await web.options(RUNS, headers=asked)
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:offramp:error:cross-origin"
        assert answer.json()["detail"].startswith(f"not allowed: {refused}; pages")
        assert "OFFRAMP_CORS_ORIGINS" in answer.json()["detail"]
        assert "access-control-allow-origin" not in answer.headers

    async def test_to_a_private_address(self, web):
        asked = preflight() | {"Access-Control-Request-Private-Network": "true"}
        answer = await web.options(RUNS, headers=asked)
        assert answer.headers["access-control-allow-private-network"] == "true"

    async def test_is_metered(self, web):
        await web.options(RUNS, headers=preflight())
        text = (await web.get("/metrics", headers={"Authorization": f"Bearer {SECRET}"})).text
        assert 'method="OPTIONS"' in text
        assert 'status="204"' in text

    @pytest.mark.parametrize("path", ["/metrics", "/healthz", "/openapi.json", "/chat/completions"])
    async def test_covers_the_native_api_alone(self, web, path):
        answer = await web.options(path, headers=preflight())
        assert answer.status_code in {404, 405}
        assert "access-control-allow-origin" not in answer.headers

    async def test_options_without_its_headers_is_405(self, web):
        answer = await web.options(RUNS, headers={"Origin": APP})
        assert answer.status_code == 405
        assert_readable(answer)


class TestAnswers:
    async def test_documents_streams_and_what_is_accepted(self, web, service):
        service.script = lambda run: run.complete("x")
        page = {"Origin": APP}
        stream = await web.post(RUNS, content=BODY, headers=page | JSON | {"Accept": "text/event-stream"})
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert_readable(stream)
        assert_readable(await web.get("/v1/runs", headers=page))
        service.script = lambda run: None
        accepted = await web.post(RUNS, content=BODY, headers=page | JSON | {"Prefer": "respond-async"})
        assert accepted.status_code == 202
        assert names(accepted.headers["vary"]) == {"prefer", "origin"}
        assert_readable(accepted)

    async def test_every_error(self, web, service):
        page = {"Origin": APP}
        assert_readable(await web.post(RUNS, content=b"{", headers=page | JSON))
        assert_readable(await web.get("/v1/nothing", headers=page))
        assert_readable(await web.get("/v1/runs?limit=x", headers=page))
        service.fails_with = RuntimeError("broken")
        failed = await web.post(RUNS, content=BODY, headers=page | JSON)
        assert failed.status_code == 500
        assert_readable(failed)

    async def test_a_page_of_another_origin_reads_nothing(self, web):
        answer = await web.get("/v1/runs", headers={"Origin": OTHER})
        assert "access-control-allow-origin" not in answer.headers
        assert names(answer.headers["vary"]) == {"origin"}

    async def test_caches_learn_that_the_origin_counts(self, web):
        answer = await web.get("/v1/runs")
        assert "access-control-allow-origin" not in answer.headers
        assert names(answer.headers["vary"]) == {"origin"}

    async def test_of_health_and_metrics_are_not_shared(self, web):
        for path in ("/healthz", "/metrics", "/openapi.json"):
            assert "access-control-allow-origin" not in (await web.get(path, headers={"Origin": APP})).headers


class TestWithKeys:
    @pytest.fixture
    def keys(self):
        return KEYS

    async def test_a_401_can_be_read(self, web):
        answer = await web.get("/v1/runs", headers={"Origin": APP})
        assert answer.status_code == 401
        assert_readable(answer)

    async def test_a_key_is_accepted(self, web):
        answer = await web.get("/v1/runs", headers={"Origin": APP, "Authorization": f"Bearer {SECRET}"})
        assert answer.status_code == 200
        assert_readable(answer)


class TestEveryOrigin:
    @pytest.fixture
    def origins(self):
        return frozenset({"*"})

    async def test_may_use_it(self, web):
        assert (await web.options(RUNS, headers=preflight(OTHER))).headers["access-control-allow-origin"] == "*"
        assert_readable(await web.get("/v1/runs", headers={"Origin": OTHER}), "*")

    async def test_until_there_are_keys(self, tmp_path, service):
        file = tmp_path / "keys.json"
        now = [0.0]
        keyring = Keyring((), file, lambda: now[0])
        gateway = Gateway(lambda: service, Access(keyring, origins=frozenset({"*"})))
        async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False) as web:
            assert_readable(await web.get("/v1/runs", headers={"Origin": OTHER}), "*")
            file.write_text('{"keys": []}')
            now[0] += 60.0
            answer = await web.get("/v1/runs", headers={"Origin": OTHER})
        assert answer.status_code == 401
        assert "access-control-allow-origin" not in answer.headers


async def test_without_the_setting_nothing_is_shared(service):
    async with serving(Gateway(lambda: service)) as url, httpx.AsyncClient(base_url=url, trust_env=False) as web:
        assert (await web.options(RUNS, headers=preflight())).status_code == 405
        answer = await web.get("/v1/runs", headers={"Origin": APP})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "vary" not in answer.headers


class TestOnLoopbackWithoutKeys:
    """The check of host names and pages that keeps other sites out, with an exception for the allowed ones."""

    @pytest.fixture
    async def gateway(self, service, tmp_path):
        settings = Settings(data=str(tmp_path), cors_origins=f"{APP}, http://localhost:5173")
        return Gateway(lambda: service, Access.of(settings, "127.0.0.1"))

    async def test_an_allowed_page_gets_in(self, web, service):
        service.script = lambda run: run.complete("x")
        answer = await web.post(RUNS, content=BODY, headers=JSON | {"Origin": APP})
        assert answer.status_code == 200
        assert_readable(answer)

    async def test_other_pages_do_not(self, web):
        answer = await web.get("/v1/runs", headers={"Origin": OTHER})
        assert answer.status_code == 421
        assert "--cors" in answer.json()["detail"]
        assert "access-control-allow-origin" not in answer.headers

    async def test_an_allowed_page_opens_a_websocket(self, url, service):
        run = service.new_run()
        run.complete("x")
        address = url.replace("http://", "ws://") + f"/v1/runs/{run.record.id}/ws"
        async with connect(address, origin=APP) as socket:
            assert json.loads(await socket.recv())["type"] == "run.accepted"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address, origin=OTHER):
                pass
        assert caught.value.response.status_code == 421


async def test_mounted_under_a_prefix(service):
    gateway = Gateway(lambda: service, Access(origins=frozenset({APP})))
    parent = Starlette(routes=[Mount("/ai", app=gateway)])
    transport = httpx.ASGITransport(parent)
    async with gateway.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        assert (await client.options("/ai" + RUNS, headers=preflight())).status_code == 204
        assert_readable(await client.get("/ai/v1/runs", headers={"Origin": APP}))


def test_all_origins_and_keys_are_refused(tmp_path):
    app = App("desk")
    with pytest.raises(SettingsError, match=r"name the origins of your pages.*--cors"):
        app.asgi(data=str(tmp_path), cors_origins="*", api_keys=f"ann:{SECRET}")
    assert app.asgi(data=str(tmp_path), cors_origins="*").access.origins == {"*"}
    assert app.asgi(data=str(tmp_path), cors_origins=APP, api_keys=f"ann:{SECRET}").access.origins == {APP}
