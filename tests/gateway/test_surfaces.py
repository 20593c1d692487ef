"""A second protocol beside the native API: what is its own, and what the gateway does for it as for any other."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from offramp.core.keys import parse_keys
from offramp.errors import StoreError
from offramp.gateway.access import Access
from offramp.gateway.asgi import Gateway
from offramp.gateway.health import OPERATIONS
from offramp.gateway.keyring import Keyring
from offramp.gateway.routes import Table
from offramp.settings import Settings
from offramp.wiring import build
from tests.gateway.chat import CHAT
from tests.gateway.conftest import serving
from tests.gateway.fake import FakeService
from tests.gateway.test_real_service import make_app
from tests.gateway.wire import AsgiCall

BODY = json.dumps({"model": "research", "prompt": "why"}).encode()
WHOLE = json.dumps({"model": "research", "prompt": "why", "stream": False}).encode()
KEYS = "ann:ann-0123456789abcdef"


@pytest.fixture
async def gateway(service):
    gateway = Gateway(lambda: service, surfaces=[CHAT])
    async with gateway.lifespan():
        yield gateway


def answers(run):
    run.delta("be")
    run.delta("cause")
    run.complete("because")


def data(raw):
    return [line.removeprefix("data: ") for line in raw.decode().splitlines() if line.startswith("data: ")]


def chat(gateway, body=BODY, **headers):
    return AsgiCall(gateway, "POST", "/chat", body=body, headers=headers).start()


async def open_with_keys(service):
    gateway = Gateway(lambda: service, Access(Keyring(parse_keys(KEYS, "keys"))), surfaces=[CHAT])
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://gateway")


class TestItsOwn:
    async def test_events_have_its_encoding(self, client, service):
        service.script = answers
        answer = await client.post("/chat", content=BODY, headers={"Content-Type": "application/json"})
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert data(answer.content) == ['{"number":1,"text":"be"}', '{"number":2,"text":"cause"}', "[DONE]"]

    async def test_a_stream_goes_on_over_a_demotion(self, gateway, service):
        call = chat(gateway)
        run = await service.created.get()
        run.demote()
        answers(run)
        await call.done()
        assert data(call.body)[-1] == "[DONE]"

    async def test_a_run_that_fails_says_so_in_its_words(self, client, service):
        service.script = lambda run: run.fail("no luck")
        answer = await client.post("/chat", content=BODY, headers={"Content-Type": "application/json"})
        assert data(answer.content) == ['{"error":"no luck"}', "[DONE]"]

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "code"),
        [
            ("POST", "/chat", b"{", 400, "malformed"),
            ("POST", "/chat", b"[]", 422, "input"),
            ("POST", "/chat", b'{"model": "reserch", "prompt": ""}', 404, "unknown-pipeline"),
            ("POST", "/chat", b" " * 2_000_000, 413, "body-too-large"),
            ("POST", "/chat/nothing/here", b"{}", 404, "unknown-path"),
            ("DELETE", "/chat", b"", 405, "method-not-allowed"),
            ("GET", "/chat/none", b"", 404, "unknown-run"),
        ],
    )
    async def test_errors_have_its_form(self, client, method, path, body, status, code):
        answer = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert answer.json()["error"]["type"] == code

    async def test_what_the_caller_may_not_learn_stays_in_the_log(self, client, service, caplog):
        service.fails_with = StoreError("the disk at /secret is full")
        answer = await client.post("/chat", content=BODY, headers={"Content-Type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], "/secret" in answer.text) == (503, "store", False)
        assert f"error {error['error_id']}: StoreError: the disk at /secret is full" in caplog.text

    async def test_other_paths_keep_problem_documents(self, client):
        for path in ("/v1/nothing", "/nothing"):
            assert (await client.get(path)).headers["content-type"] == "application/problem+json"


class TestShared:
    async def test_a_reader_resumes_after_the_event_it_names(self, client, service):
        run = service.new_run()
        answers(run)
        answer = await client.get(f"/chat/{run.record.id}", headers={"Last-Event-ID": "2"})
        assert data(answer.content) == ['{"number":1,"text":"cause"}', "[DONE]"]
        refused = await client.get(f"/chat/{run.record.id}", headers={"Last-Event-ID": "x"})
        assert refused.json()["error"]["message"].startswith("Last-Event-ID must be the number of the last event seen")

    async def test_the_same_idempotency_key_attaches_and_resumes(self, client, service):
        service.script = answers
        headers = {"Content-Type": "application/json", "Idempotency-Key": '"k"'}
        await client.post("/chat", content=BODY, headers=headers)
        again = await client.post("/chat", content=BODY, headers=headers | {"Last-Event-ID": "3"})
        assert (data(again.content), len(service.runs)) == (["[DONE]"], 1)

    async def test_the_run_has_what_the_request_brings(self, client, service):
        service.script = answers
        trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        await client.post("/chat", content=BODY, headers={"Content-Type": "application/json", **trace})
        assert (service.submissions[0].trace, service.submissions[0].mount) == (trace, "")

    async def test_a_client_that_leaves_is_reported_to_the_service(self, gateway, service):
        for body in (BODY, WHOLE):
            call = chat(gateway, body)
            run = await service.created.get()
            await service.followed.get()
            call.leave()
            await call.done()
            assert (run.disconnects, run.followers) == (1, 0)

    async def test_a_client_may_wait_for_the_end_of_the_fast_path(self, gateway, service):
        ends = [(answers, (200, True)), (lambda run: run.demote(), (202, False))]
        for script, expected in ends:
            call = chat(gateway, WHOLE)
            script(await service.created.get())
            await call.done()
            assert (call.status, call.json()["done"]) == expected

    async def test_a_heartbeat_in_its_form_while_nothing_happens(self):
        service = FakeService(heartbeat=0.1)
        gateway = Gateway(lambda: service, surfaces=[CHAT])
        async with gateway.lifespan():
            call = chat(gateway)
            run = await service.created.get()
            while (await call.next()).get("body") != b": ping\n\n":
                pass
            run.complete("")
            await call.done()

    async def test_a_drain_ends_its_streams(self, gateway, service):
        call = chat(gateway)
        await service.followed.get()
        await gateway.drain()
        await call.done()
        assert call.messages[-1]["more_body"] is False

    async def test_keys_and_tenants(self, service):
        service.script = answers
        async with await open_with_keys(service) as client:
            headers = {"Content-Type": "application/json"}
            refused = await client.post("/chat", content=BODY, headers=headers)
            assert (refused.status_code, refused.json()["error"]["type"]) == (401, "unauthenticated")
            assert refused.headers["www-authenticate"].startswith("Bearer")
            key = {"Authorization": f"Bearer {KEYS.partition(':')[2]}"}
            assert (await client.post("/chat", content=BODY, headers=headers | key)).status_code == 200

    async def test_a_tenants_limit_of_streams_starts_no_run(self):
        service = FakeService(tenant_streams=1)
        gateway = Gateway(lambda: service, surfaces=[CHAT])
        async with gateway.lifespan():
            first = chat(gateway)
            await service.created.get()
            second = chat(gateway)
            await second.done()
            assert (second.status, second.json()["error"]["type"]) == (429, "tenant-limit")
            assert len(service.runs) == 1
            first.leave()
            await first.done()

    async def test_metrics_count_its_requests(self, client, service):
        service.script = answers
        await client.post("/chat", content=BODY, headers={"Content-Type": "application/json"})
        metrics = (await client.get("/metrics")).text
        assert 'method="POST",route="/chat",status="200"' in metrics.replace("http_request_method", "method")


async def test_with_a_real_service(tmp_path):
    settings = Settings.load({}, tmp_path / "none.toml", data=str(tmp_path / "data"), drain_timeout=0.2)
    gateway = Gateway(lambda: build(make_app(), settings, role="local"), surfaces=[CHAT])
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as web:
        body = {"model": "research", "prompt": "why not"}
        answer = await web.post("/chat", json=body)
        whole = ['{"number":1,"text":"why"}', '{"number":2,"text":"not"}', "[DONE]"]
        assert data(answer.content) == whole
        [run] = (await web.get("/v1/runs")).json()["runs"]
        assert data((await web.get(f"/chat/{run['id']}")).content) == whole
        assert (await web.post("/chat", json=body | {"stream": False})).json()["done"] is True


def test_two_surfaces_cannot_have_the_same_route():
    with pytest.raises(ValueError, match="two surfaces serve POST /chat"):
        Table((OPERATIONS, CHAT, CHAT))


async def test_without_it_its_paths_are_unknown(service):
    gateway = Gateway(lambda: service)
    async with gateway.lifespan():
        call = chat(gateway)
        await asyncio.wait_for(call.done(), 10)
        assert (call.status, call.json()["type"]) == (404, "urn:offramp:error:unknown-path")
