from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offramp.core.keys import Key, digest_of, parse_keys
from offramp.gateway.access import SUBPROTOCOL, Access
from offramp.gateway.asgi import Gateway
from offramp.gateway.keyfile import add_key, revoke_key
from offramp.gateway.keyring import CHECK_EVERY_S, Keyring
from offramp.gateway.surface import SOCKET
from offramp.settings import Settings
from tests.gateway.conftest import serving
from tests.gateway.fake import FakeService
from tests.gateway.keyed import KEYS, SECRETS, SSE, bearer
from tests.gateway.wire import ROUTES, AsgiCall, types_of

RUN = {"json": {"input": {"question": "why"}}}
RUNS = "/v1/pipelines/research/runs"


class Time:
    now = 0.0

    def __call__(self):
        return self.now

    def pass_on(self):
        self.now += CHECK_EVERY_S


@pytest.fixture
async def service():
    return FakeService(heartbeat=0.1)


@pytest.fixture
async def gateway(service):
    return Gateway(lambda: service, Access(Keyring(parse_keys(KEYS, "KEYS"))))


def concrete(route, run_id):
    return route.template.replace("{run_id}", run_id).replace("{name}", "research")


class TestKeys:
    async def test_every_endpoint_but_the_public_ones_needs_a_key(self, web, service):
        run = service.new_run()
        answered = {}
        for route in ROUTES:
            if route.method != SOCKET:
                answer = await web.request(route.method, concrete(route, run.record.id))
                answered[route.template] = answer.status_code
                if answer.status_code == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.json()["type"] == "urn:offramp:error:unauthenticated"
        allowed = {template for template, status in answered.items() if status != 401}
        assert allowed == {"/healthz", "/readyz", "/openapi.json", "/docs"}
        assert service.submissions == []

    @pytest.mark.parametrize(
        ("headers", "challenge"),
        [
            ({"Authorization": "Bearer wrong-0123456789abcdef"}, 'Bearer error="invalid_token"'),
            ({"Authorization": f"Bearer {SECRETS['ann']}x"}, 'Bearer error="invalid_token"'),
            ({"Authorization": f"Bearer {digest_of(SECRETS['ann'])}"}, 'Bearer error="invalid_token"'),
            ({"Authorization": f"Basic {SECRETS['ann']}"}, "Bearer"),
            ({"Authorization": SECRETS["ann"]}, "Bearer"),
            ({"Authorization": "Bearer"}, "Bearer"),
            ({"X-Api-Key": SECRETS["ann"]}, "Bearer"),
        ],
    )
    async def test_what_is_no_key(self, web, headers, challenge):
        answer = await web.get("/v1/runs", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == challenge
        assert SECRETS["ann"] not in answer.text

    async def test_a_key_in_the_address_is_none(self, web):
        assert (await web.get("/v1/runs", params={"api_key": SECRETS["ann"]})).status_code == 401

    async def test_two_keys_are_none(self, web):
        both = [("Authorization", f"Bearer {SECRETS[name]}") for name in ("ann", "bob")]
        assert (await web.get("/v1/runs", headers=both)).status_code == 401

    async def test_a_byte_that_is_no_text_is_a_wrong_key(self, gateway):
        async with gateway.lifespan():
            call = AsgiCall(gateway, "GET", "/v1/runs", headers={"Authorization": "Bearer \xff\xfe"}).start()
            await call.done()
            assert call.status == 401

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    async def test_a_key_lets_in_whatever_the_case_of_the_scheme(self, web, scheme):
        answer = await web.get("/v1/runs", headers={"Authorization": f"{scheme} {SECRETS['ann']}"})
        assert answer.status_code == 200

    async def test_the_run_is_submitted_for_the_keys_tenant(self, web, service):
        service.script = lambda run: run.complete("x")
        for who, tenant in (("ann", "acme"), ("bob", "beta"), ("ops", "")):
            assert (await web.post(RUNS, **RUN, headers=bearer(who))).status_code == 200
            assert service.submissions[-1].tenant == tenant

    async def test_metrics_are_for_the_operator(self, web):
        assert (await web.get("/metrics", headers=bearer("ops"))).status_code == 200
        refused = await web.get("/metrics", headers=bearer("ann"))
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:offramp:error:forbidden")

    async def test_a_refusal_comes_before_the_service_is_started(self, service, gateway):
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            assert (await client.get("/v1/runs")).status_code == 401
        assert service.started == 0


class TestOpenAPI:
    async def test_it_says_who_needs_a_key(self, web):
        spec = (await web.get("/openapi.json")).json()
        assert spec["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        assert spec["security"] == [{"key": []}]
        open_ones = {
            path for path, item in spec["paths"].items() for each in item.values() if {"security": []}.items() <= (
                each.items() if isinstance(each, dict) else {}.items()
            )
        }  # fmt: skip
        assert open_ones == {"/healthz", "/readyz", "/openapi.json", "/docs"}
        assert "401" in spec["paths"]["/v1/runs"]["get"]["responses"]
        assert {"401", "403"} <= set(spec["paths"]["/metrics"]["get"]["responses"])

    async def test_without_keys_it_says_nothing_of_them(self, service):
        gateway = Gateway(lambda: service)
        transport = httpx.ASGITransport(gateway)
        async with gateway.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            spec = (await client.get("/openapi.json")).json()
        assert "security" not in spec
        assert "securitySchemes" not in spec["components"]


class TestWebSocket:
    def address(self, url, run):
        return url.replace("http://", "ws://") + f"/v1/runs/{run.record.id}/ws"

    async def test_by_header(self, url, service):
        run = service.new_run()
        async with connect(self.address(url, run), additional_headers=bearer("ann")) as socket:
            assert json.loads(await socket.recv())["type"] == "run.accepted"

    async def test_by_subprotocol_for_browsers_and_the_answer_does_not_repeat_the_key(self, url, service):
        run = service.new_run()
        offered = [SUBPROTOCOL, f"offramp.bearer.{SECRETS['ann']}"]
        async with connect(self.address(url, run), subprotocols=offered) as socket:
            assert socket.subprotocol == SUBPROTOCOL
            assert json.loads(await socket.recv())["type"] == "run.accepted"
            assert SECRETS["ann"] not in str(socket.response.headers)

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"additional_headers": {"Authorization": "Bearer wrong-0123456789abcdef"}},
            {"subprotocols": [SUBPROTOCOL, "offramp.bearer.wrong-0123456789abcdef"]},
            {"subprotocols": [SUBPROTOCOL]},
            {"subprotocols": [f"offramp.bearer.{SECRETS['ann']}", f"offramp.bearer.{SECRETS['bob']}"]},
        ],
    )
    async def test_without_a_good_key_the_handshake_is_401(self, url, service, given):
        run = service.new_run()
        with pytest.raises(InvalidStatus) as caught:
            async with connect(self.address(url, run), **given):
                pass
        assert caught.value.response.status_code == 401
        assert caught.value.response.headers["www-authenticate"].startswith("Bearer")

    async def test_a_key_in_the_address_is_none(self, url, service):
        run = service.new_run()
        with pytest.raises(InvalidStatus):
            async with connect(self.address(url, run) + f"?api_key={SECRETS['ann']}"):
                pass


class TestRevocation:
    @pytest.fixture
    def time(self):
        return Time()

    @pytest.fixture
    def file(self, tmp_path):
        return tmp_path / "keys.json"

    @pytest.fixture
    def secret(self, file):
        return add_key(file, "ann", "acme")

    @pytest.fixture
    async def gateway(self, service, file, secret, time):
        return Gateway(lambda: service, Access(Keyring((), file, time)))

    async def test_keys_come_and_go_without_a_restart(self, web, file, secret, time):
        headers = {"Authorization": f"Bearer {secret}"}
        assert (await web.get("/v1/runs", headers=headers)).status_code == 200
        revoke_key(file, "ann")
        other = add_key(file, "zoe", "acme")
        time.pass_on()
        assert (await web.get("/v1/runs", headers=headers)).status_code == 401
        assert (await web.get("/v1/runs", headers={"Authorization": f"Bearer {other}"})).status_code == 200

    async def test_a_stream_ends_when_its_key_is_revoked(self, web, service, file, secret, time):
        run = service.new_run()
        path = f"/v1/runs/{run.record.id}/events"
        async with web.stream("GET", path, headers={"Authorization": f"Bearer {secret}"}) as answer:
            chunks = answer.aiter_bytes()
            seen = b""
            while b"run.accepted" not in seen:
                seen += await anext(chunks)
            revoke_key(file, "ann")
            time.pass_on()
            run.delta("a secret thing")
            seen += b"".join([chunk async for chunk in chunks])
        assert types_of(seen) == ["run.accepted"]

    async def test_a_silent_socket_is_closed_when_its_key_is_revoked(self, url, service, file, secret, time):
        run = service.new_run()
        address = url.replace("http://", "ws://") + f"/v1/runs/{run.record.id}/ws"
        async with connect(address, additional_headers={"Authorization": f"Bearer {secret}"}) as socket:
            await socket.recv()
            revoke_key(file, "ann")
            time.pass_on()
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
            assert socket.close_code == 4401

    async def test_a_socket_with_a_revoked_key_cancels_nothing(self, url, service, file, secret, time):
        run = service.new_run()
        service.settings = Settings(heartbeat=60.0)
        address = url.replace("http://", "ws://") + f"/v1/runs/{run.record.id}/ws"
        async with connect(address, additional_headers={"Authorization": f"Bearer {secret}"}) as socket:
            await socket.recv()
            revoke_key(file, "ann")
            time.pass_on()
            await socket.send('{"type": "cancel"}')
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
            assert socket.close_code == 4401
        assert service.cancelled.empty()


class TestHosts:
    """Without keys, on loopback: what a page of another site could do through a visitor's browser."""

    @pytest.fixture
    async def gateway(self, service):
        return Gateway(lambda: service, Access.of(Settings(data="nowhere", allow_hosts="desk.internal"), "127.0.0.1"))

    @pytest.mark.parametrize(
        "host",
        ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:8000", "::1",
         "desk.internal", "Desk.Internal:443"],
    )  # fmt: skip
    async def test_own_names_are_answered_to(self, web, host):
        assert (await web.get("/v1/runs", headers={"Host": host})).status_code == 200

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1",
         "localhost:8000@evil.example", "evil.example:127.0.0.1", "[::2]:80", "169.254.169.254", "", "0.0.0.0",
         "desk.internal.evil.example", "127.0.0.1:x"],
    )  # fmt: skip
    async def test_others_are_421(self, web, service, host):
        for method, path in (("GET", "/v1/runs"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/metrics")):
            answer = await web.request(method, path, headers={"Host": host})
            assert answer.status_code == 421, path
        assert answer.json()["type"] == "urn:offramp:error:wrong-host"
        assert "--allow-host" in answer.json()["detail"]
        assert (await web.post(RUNS, **RUN, headers={"Host": host})).status_code == 421
        assert service.submissions == []

    async def test_probes_may_use_any_name(self, web):
        for path in ("/healthz", "/readyz"):
            assert (await web.get(path, headers={"Host": "probe.example"})).status_code == 200

    @pytest.mark.parametrize(("origin", "status"), [
        ("http://localhost:3000", 202), ("http://127.0.0.1:8000", 202), ("https://desk.internal", 202),
        ("http://evil.example", 421), ("null", 421), ("http://localhost.evil.example", 421), ("", 421),
    ])  # fmt: skip
    async def test_pages_of_other_sites_cancel_nothing(self, web, service, origin, status):
        run = service.new_run()
        answer = await web.post(f"/v1/runs/{run.record.id}/cancel", headers={"Origin": origin})
        assert answer.status_code == status
        assert service.cancelled.empty() is (status != 202)

    async def test_nor_do_they_open_sockets(self, url, service):
        run = service.new_run()
        address = url.replace("http://", "ws://") + f"/v1/runs/{run.record.id}/ws"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address, origin="http://evil.example"):
                pass
        assert caught.value.response.status_code == 421

    async def test_two_hosts_are_none(self, gateway):
        async with gateway.lifespan():
            call = AsgiCall(gateway, "GET", "/v1/runs")
            call.scope["headers"] = [(b"host", b"localhost"), (b"host", b"evil.example")]
            await call.start().done()
            assert call.status == 421


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({}, "127.0.0.1", 421),
        ({}, "localhost", 421),
        ({}, "0.0.0.0", 200),  # said to be insecure
        ({}, None, 200),  # mounted: another server binds
        ({"allow_hosts": "desk.internal"}, None, 421),
        ({"allow_hosts": "*"}, "127.0.0.1", 200),
        ({"api_keys": KEYS}, "127.0.0.1", 200),  # a page has no key
    ],
)
async def test_when_the_host_counts(service, tmp_path, settings, host, status):
    gateway = Gateway(lambda: service, Access.of(Settings(data=str(tmp_path), **settings), host))
    async with serving(gateway) as url, httpx.AsyncClient(trust_env=False) as web:
        answer = await web.get(f"{url}/v1/runs", headers={"Host": "evil.example"} | bearer("ann"))
    assert answer.status_code == status


class TestStreams:
    @pytest.fixture
    async def service(self):
        return FakeService(tenant_streams=2)

    async def test_the_edge_of_a_tenants_streams_and_room_again_after_one_ends(self, url, web, service):
        held, other = service.new_run(), service.new_run()
        path = f"/v1/runs/{held.record.id}/events"
        socket_address = url.replace("http://", "ws://") + f"/v1/runs/{other.record.id}/ws"
        async with web.stream("GET", path, headers=bearer("ann")) as first:
            chunks = first.aiter_bytes()
            await anext(chunks)
            async with connect(socket_address, additional_headers=bearer("ann")) as socket:
                await socket.recv()
                for refused in (
                    await web.get(path, headers=bearer("ann")),
                    await web.post(RUNS, **RUN, headers=bearer("ann") | SSE),
                ):
                    assert refused.status_code == 429
                    assert refused.headers["retry-after"] == "5"
                    assert refused.json()["type"] == "urn:offramp:error:tenant-limit"
                    assert "OFFRAMP_TENANT_STREAMS" in refused.json()["detail"]
                with pytest.raises(InvalidStatus) as caught:
                    async with connect(socket_address, additional_headers=bearer("ann")):
                        pass
                assert caught.value.response.status_code == 429
                # What was refused started nothing, and another tenant has room of its own.
                assert service.submissions == []
                async with web.stream("GET", path, headers=bearer("bob")) as third:
                    assert third.status_code == 200
                other.complete("x")
                assert json.loads(await socket.recv())["type"] == "run.completed"
                async with asyncio.timeout(10):
                    await socket.wait_closed()
            held.complete("x")
            assert [chunk async for chunk in chunks]
        for _ in range(3):
            assert (await web.get(path, headers=bearer("ann"))).status_code == 200

    async def test_no_room_leaks_whatever_becomes_of_a_request(self, gateway, service):
        run = service.new_run()
        path = f"/v1/runs/{run.record.id}/events"
        async with gateway.lifespan():
            for _ in range(5):
                stream = AsgiCall(gateway, "GET", path, headers=bearer("ann")).start()
                await stream.next()
                stream.leave()
                await stream.done()
            service.fails_with = RuntimeError("broken")
            for _ in range(5):
                body = json.dumps(RUN["json"]).encode()
                await AsgiCall(gateway, "POST", RUNS, body=body, headers=bearer("ann") | SSE).start().done()
            service.fails_with = None
            for _ in range(5):
                await AsgiCall(gateway, "HEAD", path, headers=bearer("ann")).start().done()
            await AsgiCall(gateway, "GET", "/v1/runs/run_x/events", headers=bearer("ann")).start().done()
        assert gateway.access.streams.count("acme") == 0


def test_what_shows_a_guard_shows_no_secret():
    (key,) = parse_keys(f"a:{SECRETS['ann']}", "X")
    assert isinstance(key, Key)
    for shown in (repr(Access(Keyring([key]))), repr(Keyring([key])), repr(key)):
        assert SECRETS["ann"] not in shown
        assert key.digest not in shown
