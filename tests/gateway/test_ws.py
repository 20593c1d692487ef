from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offramp.errors import RunConflict, StoreError
from offramp.gateway.native import ws
from tests.gateway.conftest import serving

CANCEL = '{"type": "cancel"}'


@pytest.fixture
async def address(url):
    return url.replace("http://", "ws://")


def path(run, query=""):
    return f"/v1/runs/{run.record.id}/ws{query}"


async def _read_all(socket):
    while True:
        await socket.recv()


async def closed(socket):
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionClosed):
            await _read_all(socket)
    return socket.close_code, socket.close_reason


async def test_the_same_events_as_json_text_then_1000(address, service):
    run = service.new_run()
    async with connect(address + path(run)) as socket:
        assert await socket.recv() == run.frames[0].data.decode()
        run.delta("é")
        run.demote()
        run.complete("x")
        seen = [json.loads(await socket.recv()) for _ in range(3)]
        assert await closed(socket) == (1000, "")
    assert [event["type"] for event in seen] == ["step.delta", "run.demoted", "run.completed"]
    assert [event["seq"] for event in seen] == [2, 3, 4]
    assert seen[0]["delta"] == "é"


async def test_starting_after(address, service):
    run = service.new_run()
    run.delta("a")
    run.complete("x")
    async with connect(address + path(run, "?starting_after=2")) as socket:
        assert json.loads(await socket.recv())["type"] == "run.completed"
        assert (await closed(socket))[0] == 1000


async def test_cancel(address, service):
    run = service.new_run()
    async with connect(address + path(run)) as socket:
        await socket.recv()
        await socket.send(CANCEL)
        async with asyncio.timeout(10):
            assert await service.cancelled.get() == run.record.id
        run.cancel()
        assert json.loads(await socket.recv())["type"] == "run.cancelled"
        assert (await closed(socket))[0] == 1000


async def test_leaving_is_nothing_to_the_run(address, service):
    run = service.new_run()
    async with connect(address + path(run)) as socket:
        await socket.recv()
    async with asyncio.timeout(10):
        await run.unfollowed.wait()
    assert (run.followers, run.disconnects) == (0, 0)


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("/v1/runs/run_" + "0" * 26 + "/ws", 404),
        ("/v1/runs/nonsense/ws", 404),
        ("/nothing", 404),
        ("/v1/runs", 404),
    ],
)
async def test_an_unknown_run_denies_the_handshake(address, where, status):
    with pytest.raises(InvalidStatus) as caught:
        await connect(address + where)
    assert caught.value.response.status_code == status
    assert json.loads(caught.value.response.body)["status"] == status


@pytest.mark.parametrize(("query", "status"), [("starting_after=x", 400), ("startingAfter=1", 422)])
async def test_a_bad_position_denies_the_handshake(address, service, query, status):
    with pytest.raises(InvalidStatus) as caught:
        await connect(address + path(service.new_run(), f"?{query}"))
    assert caught.value.response.status_code == status


@pytest.mark.parametrize(
    "message", ["", "{", "[]", '{"type": "stop"}', '{"type": "cancel", "x": 1}', b"\x00", "[" * 3000]
)
async def test_a_malformed_message_closes_with_4400(address, service, message):
    run = service.new_run()
    async with connect(address + path(run)) as socket:
        await socket.send(message)
        code, reason = await closed(socket)
    assert code == 4400
    assert "cancel" in reason
    assert service.cancelled.empty()
    assert not run.followers


@pytest.mark.parametrize("size", [5_000, 100_000])
async def test_a_large_message_closes_with_1009(address, service, size):
    async with connect(address + path(service.new_run())) as socket:
        await socket.send("x" * size)
        assert (await closed(socket))[0] == 1009


async def test_cancelling_a_run_that_ended_meanwhile_is_no_error(gateway, service, monkeypatch):
    run = service.new_run()
    asked = asyncio.Event()

    async def ended(run_id, tenant=""):
        asked.set()
        raise RunConflict("it has ended")

    monkeypatch.setattr(service, "cancel", ended)
    socket = Socket(gateway, run)
    await socket.next()
    socket.say(CANCEL)
    async with asyncio.timeout(10):
        await asked.wait()
    run.complete("x")
    await socket.done()
    assert [json.loads(message["text"])["type"] for message in socket.sent[1:-1]] == ["run.accepted", "run.completed"]
    assert socket.sent[-1] == {"type": "websocket.close", "code": 1000, "reason": ""}


async def test_a_reader_that_has_everything_is_closed_with_1000(gateway, service):
    run = service.new_run()
    run.complete("x")
    socket = Socket(gateway, run, query=b"starting_after=2")
    await socket.done()
    assert [message["type"] for message in socket.sent] == ["websocket.accept", "websocket.close"]
    assert socket.sent[-1] == {"type": "websocket.close", "code": 1000, "reason": ""}


async def test_a_drain_closes_with_1012_and_says_where_to_go_on(gateway, service):
    run = service.new_run()
    socket = Socket(gateway, run)
    await socket.next()
    await service.drain()
    await socket.done()
    assert socket.sent[-1]["code"] == 1012
    assert "starting_after=2" in socket.sent[-1]["reason"]


async def test_a_failing_store_closes_with_1011(gateway, service, caplog):
    run = service.new_run()
    socket = Socket(gateway, run)
    await socket.next()
    run.broken = StoreError("secret")
    run.notify()
    await socket.done()
    assert socket.sent[-1]["code"] == 1011
    assert "secret" not in socket.sent[-1]["reason"]
    assert "secret" in caplog.text


async def test_a_run_removed_meanwhile_closes_with_4410(gateway, service):
    run = service.new_run()
    socket = Socket(gateway, run)
    await socket.next()
    run.record.purged = True
    run.notify()
    await socket.done()
    assert socket.sent[-1]["code"] == 4410


async def test_a_slow_reader_is_closed_with_4408(gateway, service, monkeypatch):
    monkeypatch.setattr(ws, "SLOW_S_MAX", 0.05)
    run = service.new_run()
    socket = Socket(gateway, run)
    await socket.next()
    socket.stalls = True
    run.delta("a")
    await socket.done()
    assert socket.sent[-1]["code"] == 4408
    assert "starting_after=1" in socket.sent[-1]["reason"]
    assert not run.followers


async def test_a_reader_that_does_not_even_take_the_close_is_given_up(gateway, service, monkeypatch):
    monkeypatch.setattr(ws, "SLOW_S_MAX", 0.05)
    monkeypatch.setattr(ws, "CLOSE_S_MAX", 0.05)
    run = service.new_run()
    socket = Socket(gateway, run)
    await socket.next()
    socket.stalls = socket.stalls_at_close = True
    run.delta("a")
    await socket.done()
    assert socket.sent[-1]["type"] == "websocket.send"


async def test_a_denial_without_the_extension_is_a_close_code(gateway):
    for where, code in (("/v1/runs/nonsense/ws", 4404), ("/nothing", 4404)):
        socket = Socket(gateway, where, extensions={})
        await socket.done()
        assert [message["type"] for message in socket.sent] == ["websocket.accept", "websocket.close"]
        assert socket.sent[-1]["code"] == code
        assert socket.sent[-1]["reason"]


async def test_a_get_without_a_handshake_is_426(client, service):
    answer = await client.get(path(service.new_run()))
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert (await client.head(path(service.new_run()))).status_code == 426


@pytest.mark.parametrize("method", ["POST", "DELETE", "TRACE"])
async def test_other_methods_are_405(client, service, method):
    answer = await client.request(method, path(service.new_run()))
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_open_sockets_are_counted(gateway, service, client):
    run = service.new_run()
    socket = Socket(gateway, run)
    await socket.next()
    assert 'offramp_open_streams{transport="websocket"} 1.0' in (await client.get("/metrics")).text
    run.complete("x")
    await socket.done()
    text = (await client.get("/metrics")).text
    assert 'offramp_open_streams{transport="websocket"} 0.0' in text
    assert 'offramp_events_sent_total{transport="websocket"} 2.0' in text


async def test_two_servers_can_serve_one_gateway(gateway, service):
    run = service.new_run()
    async with serving(gateway) as first, connect(first.replace("http", "ws") + path(run)) as socket:
        await socket.recv()
        run.complete("x")
        assert (await closed(socket))[0] == 1000


class Socket:
    """A WebSocket client at the ASGI level, whose sends can stall."""

    def __init__(self, app, run, extensions=None, query=b""):
        where = run if isinstance(run, str) else path(run)
        scope = {
            "type": "websocket",
            "path": where,
            "root_path": "",
            "query_string": query,
            "headers": [],
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}} if extensions is None else extensions,
        }
        self.incoming = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent = []
        self.texts = asyncio.Queue()
        self.stalls = self.stalls_at_close = False
        self.task = asyncio.create_task(app(scope, self.incoming.get, self._send))

    async def _send(self, message):
        at_close = message["type"] == "websocket.close"
        if self.stalls_at_close if at_close else self.stalls:
            await asyncio.Event().wait()
        self.sent.append(message)
        if "text" in message:
            self.texts.put_nowait(message["text"])

    def say(self, text):
        self.incoming.put_nowait({"type": "websocket.receive", "text": text})

    async def next(self):
        async with asyncio.timeout(10):
            return await self.texts.get()

    async def done(self):
        async with asyncio.timeout(10):
            await self.task
