"""Tickets over the real server: what they open, what they do not, and where they must not appear."""

from __future__ import annotations

import asyncio
import json
import logging
import stat

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from offramp.core.keys import parse_keys
from offramp.core.tickets import TICKET_S
from offramp.core.timestamps import rfc3339
from offramp.gateway.access import Access
from offramp.gateway.asgi import Gateway
from offramp.gateway.keyfile import add_key, revoke_key
from offramp.gateway.keyring import Keyring
from tests import valkey
from tests.gateway.conftest import serving
from tests.gateway.fake import FakeService
from tests.gateway.keyed import KEYS, Held, bearer, callers, gateway_of
from tests.gateway.wire import types_of
from tests.servers import free_port
from tests.support import eventually

UNKNOWN = "run_01D78XYFJ1PRM1WPBCBT3VHMNV"
RUNS = "/v1/pipelines/echo/runs"


def path(run, end="events"):
    return f"/v1/runs/{run}/{end}"


def socket(url, run, ticket):
    return url.replace("http://", "ws://") + path(run, "ws") + f"?ticket={ticket}"


async def ticket_for(web, run, **given):
    answer = await web.post(path(run, "ticket"), **given)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["ticket"]


def assert_refused(answer, says):
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert says in answer.json()["detail"]


class TestWithKeys:
    @pytest.fixture
    async def gateway(self, service):
        return Gateway(lambda: service, Access(Keyring(parse_keys(KEYS, "KEYS"))))

    @pytest.fixture
    def run(self, service):
        run = service.new_run()
        run.complete("x")
        return run.record.id

    async def test_one_opens_the_streams_of_its_run(self, web, url, service, run):
        answer = await web.post(path(run, "ticket"), headers=bearer("ann"))
        assert answer.json()["expires_at"] == rfc3339(service.now + TICKET_S)
        ticket = answer.json()["ticket"]
        stream = await web.get(path(run), params={"ticket": ticket})
        assert types_of(stream.content) == ["run.accepted", "run.completed"]
        last = await web.get(path(run), params={"lastEventId": "2", "ticket": ticket, "_": "1"})
        assert last.status_code == 204
        async with connect(socket(url, run, ticket)) as opened:
            assert json.loads(await opened.recv())["type"] == "run.accepted"

    async def test_the_tickets_websocket_cancels_as_that_of_its_key_would(self, web, url, service):
        run = service.new_run().record.id
        async with connect(socket(url, run, await ticket_for(web, run, headers=bearer("ann")))) as opened:
            await opened.send('{"type": "cancel"}')
            assert await service.cancelled.get() == run

    async def test_but_not_where_its_key_may_only_read(self, service):
        reader = "reader-0123456789abcdef"
        gateway = Gateway(lambda: service, Access(Keyring(parse_keys(f"screen+read:{reader}", "KEYS"))))
        run = service.new_run().record.id
        async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False) as web:
            ticket = await ticket_for(web, run, headers={"Authorization": f"Bearer {reader}"})
            async with connect(socket(url, run, ticket)) as opened:
                await opened.send('{"type": "cancel"}')
                await opened.wait_closed()
                assert opened.close_code == 4403
        assert service.cancelled.empty()

    async def test_of_another_run_it_opens_nothing(self, web, url, service, run):
        ticket = await ticket_for(web, run, headers=bearer("ann"))
        other = service.new_run().record.id
        assert_refused(await web.get(path(other), params={"ticket": ticket}), "another run")
        with pytest.raises(InvalidStatus) as caught:
            await connect(socket(url, other, ticket))
        assert caught.value.response.status_code == 401

    async def test_nor_does_it_after_an_hour(self, web, service, run):
        ticket = await ticket_for(web, run, headers=bearer("ann"))
        service.now += TICKET_S - 1
        assert (await web.get(path(run), params={"ticket": ticket})).status_code == 200
        service.now += 1
        assert_refused(await web.get(path(run), params={"ticket": ticket}), "expired")

    @pytest.mark.parametrize("wrong", ["", "x", "oft_" + "A" * 48])
    async def test_what_is_none_opens_nothing(self, web, service, run, wrong):
        service.now = -1.0  # no time at which one could have expired
        assert_refused(await web.get(path(run), params={"ticket": wrong}), "/ticket")

    async def test_any_other_request_needs_the_key(self, web, run):
        ticket = await ticket_for(web, run, headers=bearer("ann"))
        others = [
            ("GET", f"/v1/runs/{run}"),
            ("GET", path(run, "result")),
            ("POST", path(run, "cancel")),
            ("POST", path(run, "signals/go")),
            ("POST", path(run, "ticket")),
            ("GET", "/v1/runs"),
            ("POST", RUNS),
            ("GET", "/metrics"),
        ]
        for method, place in others:
            assert_refused(await web.request(method, place, params={"ticket": ticket}), "API key")
            answer = await web.request(method, place, params={"ticket": ticket}, headers=bearer("ops"))
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"] == "/query/ticket"

    async def test_a_key_in_the_header_counts_instead(self, web, run):
        answer = await web.get(path(run), params={"ticket": "x"}, headers=bearer("ann"))
        assert answer.status_code == 200
        wrong = {"Authorization": "Bearer wrong-0123456789abcdef"}
        ticket = await ticket_for(web, run, headers=bearer("ann"))
        assert_refused(await web.get(path(run), params={"ticket": ticket}, headers=wrong), "not known")

    async def test_one_is_enough(self, web, run):
        ticket = await ticket_for(web, run, headers=bearer("ann"))
        answer = await web.get(path(run) + f"?ticket={ticket}&ticket={ticket}")
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["message"] == "given more than once"


class TestWithoutKeys:
    async def test_it_is_checked_all_the_same(self, web, service):
        run, other = service.new_run(), service.new_run()
        run.complete("x")
        ticket = await ticket_for(web, run.record.id)
        assert (await web.get(path(run.record.id), params={"ticket": ticket})).status_code == 200
        assert_refused(await web.get(path(other.record.id), params={"ticket": ticket}), "another run")

    async def test_it_opens_nothing_once_there_are_keys(self, service, tmp_path):
        file, now = tmp_path / "keys.json", [0.0]
        gateway = Gateway(lambda: service, Access(Keyring((), file, lambda: now[0])))
        run = service.new_run().record.id
        async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False) as web:
            ticket = await ticket_for(web, run)
            file.write_text('{"version": 1, "keys": []}')
            now[0] += 60.0
            assert_refused(await web.get(path(run), params={"ticket": ticket}), "revoked")

    async def test_pages_of_other_sites_stay_out(self, service):
        gateway = Gateway(lambda: service, Access(hosts=frozenset()))
        run = service.new_run().record.id
        async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False) as web:
            ticket = await ticket_for(web, run)
            page = {"Origin": "https://other.example"}
            assert (await web.get(path(run), params={"ticket": ticket}, headers=page)).status_code == 421


NO_REDIS = pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=NO_REDIS)])
def settings(request, tmp_path):
    if request.param == "sqlite":
        return {"data": str(tmp_path / "data")}
    return {"store": valkey.server().url()}


class TestOverProcesses:
    """Two gateways, each with its own service, at one store."""

    @pytest.fixture
    def held(self):
        held = Held()
        yield held
        held.let_go.set()

    async def test_every_gateway_of_the_store_takes_it_and_after_a_restart(self, held, tmp_path, settings):
        async with callers(gateway_of(held.app, tmp_path / "one", **settings), "ann") as (ann,):
            made = await ann.post(RUNS, json={"input": {"word": "w"}})
            run = made.json()["id"]
            ticket = await ticket_for(ann, run)
            async with callers(gateway_of(held.app, tmp_path / "two", **settings), "bob") as (bob,):
                del bob.headers["authorization"]
                assert (await bob.get(path(run), params={"ticket": ticket})).status_code == 200
                assert (await bob.post(path(run, "ticket"), headers=bearer("bob"))).status_code == 404
                assert (await bob.post(path(UNKNOWN, "ticket"), headers=bearer("bob"))).status_code == 404
        async with callers(gateway_of(held.app, tmp_path / "three", **settings), "bob") as (bob,):
            del bob.headers["authorization"]
            assert (await bob.get(path(run), params={"ticket": ticket})).status_code == 200

    async def test_removing_the_secret_ends_all(self, held, tmp_path):
        async with callers(gateway_of(held.app, tmp_path), "ann") as (ann,):
            run = (await ann.post(RUNS, json={"input": {"word": "w"}})).json()["id"]
            ticket = await ticket_for(ann, run)
            file = tmp_path / "data/secret.key"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            del ann.headers["authorization"]
            file.unlink()
            assert_refused(await ann.get(path(run), params={"ticket": ticket}), "another run")
            file.write_bytes(b"short")
            answer = await ann.get(path(run), params={"ticket": ticket})
            assert answer.status_code == 503
            assert str(tmp_path) not in answer.text


async def test_it_ends_with_its_key(tmp_path):
    file, now, service = tmp_path / "keys.json", [0.0], FakeService(heartbeat=0.1)
    secret = add_key(file, "ann", "acme")
    gateway = Gateway(lambda: service, Access(Keyring((), file, lambda: now[0])))
    run = service.new_run().record.id
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as web:
        ticket = await ticket_for(web, run, headers={"Authorization": f"Bearer {secret}"})
        async with web.stream("GET", path(run), params={"ticket": ticket}) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            revoke_key(file, "ann")
            now[0] += 60.0
            assert not [line async for line in lines if "run.completed" in line]  # the stream ends before its run
        assert_refused(await web.get(path(run), params={"ticket": ticket}), "revoked")


async def test_no_log_of_uvicorn_has_it(service, caplog):
    """The access log of a server that is not ours, for streams, WebSockets and refusals."""
    caplog.set_level(logging.DEBUG, "uvicorn.access")
    caplog.set_level(logging.INFO)
    run = service.new_run()
    run.complete("x")
    config = uvicorn.Config(Gateway(lambda: service), port=free_port(), log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    url = f"http://127.0.0.1:{config.port}"
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as web:
            ticket = await ticket_for(web, run.record.id)
            for place in (path(run.record.id), path(UNKNOWN), "/v1/runs", "/nothing"):
                await web.get(place, params={"a": "b", "ticket": ticket})
            async with connect(socket(url, run.record.id, ticket)) as opened:
                assert [message async for message in opened]
    finally:
        server.should_exit = True
        await task
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("uvicorn", "offramp"))]
    assert sum("?a=b" in line for line in said) == 4
    assert any("WebSocket" in line for line in said)
    assert not any(ticket[4:20] in line for line in said)
