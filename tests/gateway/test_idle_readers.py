"""A reader that takes nothing costs the gateway 256 KiB, however much there is to read."""

from __future__ import annotations

import array
import asyncio
import base64
import fcntl
import select
import socket
import termios
from contextlib import aclosing
from urllib.parse import urlsplit

import pytest

from offramp import App, emit
from offramp.core.events import StepDelta, draft, frame
from offramp.gateway import streams
from offramp.gateway.asgi import Gateway
from offramp.gateway.native import ws
from offramp.gateway.streams import PIECE_BYTES_MAX
from offramp.gateway.wire import lingering
from offramp.gateway.wire.connections import WRITE_BUFFER_BYTES
from offramp.gateway.wire.server import UNSENT_BYTES_MAX
from offramp.paths.deliver import TAIL_BYTES_MAX, Feed
from offramp.ports.store import EVENTS_READ_BYTES, Batch
from tests.gateway.conftest import serving
from tests.gateway.keyed import gateway_of
from tests.support import NOW, eventually

COST_MAX = 256 * 1024
EVENTS, EVENT_BYTES = 6_000, 1_000
HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(b'k' * 16).decode()}\r\n"
)


def test_the_parts_of_a_readers_cost_fit():
    """A batch, what the server holds, and what the kernel does."""
    assert EVENTS_READ_BYTES + WRITE_BUFFER_BYTES + PIECE_BYTES_MAX + 1.5 * UNSENT_BYTES_MAX <= COST_MAX


@pytest.fixture
async def gateway(tmp_path):
    app = App("much")

    @app.step
    async def say(count: int) -> int:
        for _ in range(count):
            emit("x" * EVENT_BYTES)
        return count

    @app.pipeline
    async def much(count: int) -> int:
        return await say(count)

    async with (gateway := gateway_of(app, tmp_path, keys="")).lifespan():
        yield gateway


def waiting(connection):
    """Bytes that have arrived at a connection that nothing reads."""
    count = array.array("i", [0])
    fcntl.ioctl(connection, termios.FIONREAD, count)
    return count[0]


@pytest.mark.parametrize(("end", "more"), [("events", ""), ("ws", HANDSHAKE)], ids=["sse", "websocket"])
async def test_of_a_long_log_the_gateway_takes_a_bounded_part(gateway, web, url, end, more, monkeypatch):
    run = (await web.post("/v1/pipelines/much/runs", json={"input": {"count": EVENTS}})).json()
    assert run["status"] == "completed"
    follow, taken, waits = gateway.service.follow, 0, asyncio.Event()

    async def counted(*args):
        nonlocal taken
        async with aclosing(follow(*args)) as batches:
            async for frames in batches:
                taken += sum(len(each.data) for each in frames)
                waits.set()
                yield frames

    monkeypatch.setattr(gateway.service, "follow", counted)
    address = urlsplit(url)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((address.hostname, address.port))
        reader.sendall(f"GET /v1/runs/{run['id']}/{end} HTTP/1.1\r\nHost: {address.netloc}\r\n{more}\r\n".encode())
        await asyncio.wait_for(waits.wait(), 20)
        # It stands still once nothing more was taken in a second turn of the loop: nothing sets that off again.
        seen = -1
        while seen != taken:
            seen = taken
            await asyncio.sleep(0.2)
        assert waiting(reader) > 0
        assert EVENTS_READ_BYTES <= taken <= waiting(reader) + COST_MAX
    await eventually(lambda: not gateway.access.streams.count(""))


@pytest.mark.parametrize(("end", "more"), [("events", ""), ("ws", HANDSHAKE)], ids=["sse", "websocket"])
async def test_one_that_takes_nothing_for_long_is_cut_off(service, monkeypatch, end, more):
    """Closing alone would wait, without limit, until it has taken the rest."""
    monkeypatch.setattr(streams, "STALL_S_MAX", 0.1)
    monkeypatch.setattr(ws, "SLOW_S_MAX", 0.1)
    monkeypatch.setattr(ws, "CLOSE_S_MAX", 0.1)
    monkeypatch.setattr(lingering, "UNTAKEN_S_MAX", 0.1)
    run = service.new_run()
    for _ in range(3_000):
        run.delta("x" * EVENT_BYTES)
    async with serving(Gateway(lambda: service), ws_ping_interval=0.1, ws_ping_timeout=0.1) as url:
        address = urlsplit(url)
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect((address.hostname, address.port))
            asked = f"GET /v1/runs/{run.record.id}/{end} HTTP/1.1\r\nHost: {address.netloc}\r\n{more}\r\n"
            reader.sendall(asked.encode())
            reader.setblocking(False)
            await eventually(lambda: is_cut_off(reader))


def is_cut_off(connection):
    """Whether the other side has ended it, seen without taking a byte of it."""
    poll = select.poll()
    poll.register(connection, select.POLLERR | select.POLLHUP)
    return bool(poll.poll(0))


async def test_a_large_event_is_sent_in_pieces(service):
    """Every server gets to say that the reader takes nothing, after each piece."""
    sent, run = [], service.new_run()
    run.delta("x" * 5 * PIECE_BYTES_MAX)
    run.complete("y")
    app = Gateway(lambda: service)
    scope = {
        "type": "http", "method": "GET", "path": f"/v1/runs/{run.record.id}/events", "query_string": b"", "headers": [],
    }  # fmt: skip

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    async with app.lifespan():
        await app(scope, receive, send)
    pieces = [message["body"] for message in sent[1:]]
    assert max(map(len, pieces)) <= PIECE_BYTES_MAX
    assert b"".join(pieces).count(b"x") == 5 * PIECE_BYTES_MAX
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(pieces) - 1) + [False]


async def test_what_is_still_in_memory_comes_in_bounded_batches():
    feed, run = Feed(), "run_1"
    feed.expect(run, NOW)
    drafts = [draft(StepDelta("s", "k", 1, "x" * EVENT_BYTES), "at") for _ in range(TAIL_BYTES_MAX // EVENT_BYTES // 2)]
    feed.publish([Batch(run, 1, [frame(each, run, seq) for seq, each in enumerate(drafts, 1)])])
    got = []
    async with aclosing(feed.follow(None, run, 0, None)) as batches:
        while len(got) < len(drafts):
            frames = await anext(batches)
            assert sum(len(each.data) for each in frames[:-1]) < EVENTS_READ_BYTES
            got += frames
    assert [each.seq for each in got] == list(range(1, len(drafts) + 1))
