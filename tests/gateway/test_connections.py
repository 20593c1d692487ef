"""What a connection may cost, and the answers to requests that do not reach the application."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offramp.gateway.wire import connections, lingering

RUNS = "/v1/pipelines/research/runs"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
GOOD = json.dumps({"input": {"question": "why"}}).encode()
POST = f"POST {RUNS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
BODY = POST + b"Content-Length: %d\r\n\r\n" % len(GOOD)


@contextlib.asynccontextmanager
async def wire(url, data=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer_to(url, data):
    """All that comes back until the server ends the connection."""
    async with wire(url, data) as (reader, _):
        return await reader.read()


def assert_problem(raw, status, code):
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), raw
    assert b"content-type: application/problem+json" in head.lower()
    assert b"content-length: %d" % len(body) in head.lower()
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (status, f"urn:offramp:error:{code}")
    assert problem["title"]
    assert problem["detail"]


@pytest.fixture
def completes(service):
    service.script = lambda run: run.complete("x")


class TestHeads:
    async def test_one_over_the_limit_is_431(self, url):
        async with wire(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ") as (reader, writer):
            writer.write(b"x" * (2 * connections.HEAD_BYTES_MAX))
            assert await reader.readexactly(12) == b"HTTP/1.1 431"

    @pytest.mark.parametrize(
        "head",
        [
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"x" * connections.HEAD_BYTES_MAX),
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n%b\r\n" % (b"X: y\r\n" * 12_000),
            b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * connections.HEAD_BYTES_MAX),
        ],
        ids=["one field", "many fields", "the address"],
    )
    async def test_it_is_431_too_if_it_came_in_one_read(self, url, head):
        assert_problem(await answer_to(url, head), 431, "head-too-large")

    async def test_a_large_one_within_the_limit_and_a_second_one_are_taken(self, web):
        for _ in range(2):
            answer = await web.get("/healthz", headers={"X": "x" * (connections.HEAD_BYTES_MAX - 1000)})
            assert answer.status_code == 200

    async def test_a_large_body_is_not_counted(self, web, completes):
        body = json.dumps({"input": {"question": "x" * (3 * connections.HEAD_BYTES_MAX)}}).encode()
        for _ in range(2):
            answer = await web.post(RUNS, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 200

    async def test_a_client_that_sends_nothing_is_let_go(self, url, monkeypatch):
        monkeypatch.setattr(connections, "HEAD_S_MAX", 0.05)
        assert await answer_to(url, b"") == b""

    async def test_one_that_does_not_end_is_408(self, url, monkeypatch):
        monkeypatch.setattr(connections, "HEAD_S_MAX", 0.5)  # of which its beginning needs some to arrive
        assert_problem(await answer_to(url, GET[:-2]), 408, "request-timeout")

    async def test_a_second_one_that_does_not_end_is_408(self, url, monkeypatch):
        async with wire(url, GET) as (reader, writer):
            assert (await reader.readuntil(b'ok"}')).startswith(b"HTTP/1.1 200")
            monkeypatch.setattr(connections, "HEAD_S_MAX", 0.05)
            writer.write(GET[:-2])
            assert_problem(await reader.read(), 408, "request-timeout")

    async def test_a_second_one_may_wait_for_a_stream_to_end(self, url, service, monkeypatch):
        run = service.new_run()
        async with wire(url, f"GET /v1/runs/{run.record.id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as streams:
            reader, writer = streams
            await reader.readuntil(b"run.accepted")
            monkeypatch.setattr(connections, "HEAD_S_MAX", 0.02)
            writer.write(GET[:-2])
            late = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.1, late.set_result, None)
            await late
            run.complete("x")
            await reader.readuntil(b"run.completed")
            await reader.read()


class TestAnswersToClientsThatStillSend:
    """The answer arrives, although its connection ends with a part of the request unread."""

    BODY = b"x" * (4 << 20)
    CLOSES = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY)

    async def sent(self, url, data):
        """What a client gets that sends everything before it reads."""
        async with wire(url) as (reader, writer):
            writer.write(data)
            await writer.drain()
            return await reader.read()

    async def test_a_body_that_nobody_wants(self, url):
        for _ in range(20):
            assert_problem(await self.sent(url, self.CLOSES + self.BODY), 405, "method-not-allowed")

    async def test_one_that_is_no_http(self, url):
        for _ in range(20):
            assert_problem(await self.sent(url, b"HELLO\r\n\r\n" + self.BODY), 400, "malformed")

    async def test_a_client_that_sends_on_is_let_go(self, url, monkeypatch):
        monkeypatch.setattr(lingering, "LINGER_S", 0.05)
        async with wire(url, self.CLOSES) as (reader, writer):
            assert_problem(await reader.read(), 405, "method-not-allowed")
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0)

    async def test_one_that_is_done_is_let_go_at_once(self, url, monkeypatch):
        monkeypatch.setattr(lingering, "LINGER_S", 60)
        async with wire(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as (reader, _):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")


class TestBodies:
    async def test_one_that_does_not_come_is_408(self, url, service, monkeypatch):
        monkeypatch.setattr(connections, "BODY_S_MAX", 0.05)
        assert_problem(await answer_to(url, BODY + GOOD[:5]), 408, "request-timeout")
        assert service.submissions == []

    async def test_a_slow_one_may_take_longer_by_what_it_brings(self, url, completes, monkeypatch):
        monkeypatch.setattr(connections, "BODY_S_MAX", 0.05)
        monkeypatch.setattr(connections, "BODY_BYTES_PER_S_MIN", 10)
        async with wire(url, BODY + GOOD[:10]) as (reader, writer):
            late = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.3, late.set_result, None)
            await late
            writer.write(GOOD[10:])
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    async def test_one_that_nobody_reads_ends_the_connection(self, url, monkeypatch):
        monkeypatch.setattr(connections, "BODY_S_MAX", 0.05)
        monkeypatch.setattr(connections, "BODY_BYTES_PER_S_MIN", 1)
        request = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        assert_problem(await answer_to(url, request + b"x" * 500), 404, "unknown-path")

    async def test_one_that_waits_behind_a_stream_is_not_late(self, url, service, monkeypatch):
        monkeypatch.setattr(connections, "BODY_S_MAX", 0.02)
        run = service.new_run()
        stream = f"GET /v1/runs/{run.record.id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        async with wire(url, stream + BODY + GOOD[:5]) as (reader, writer):
            await reader.readuntil(b"run.accepted")
            monkeypatch.setattr(connections, "HEAD_S_MAX", 0.02)
            late = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.1, late.set_result, None)
            await late
            monkeypatch.setattr(connections, "BODY_S_MAX", 10.0)
            writer.write(GOOD[5:])
            run.complete("x")
            service.script = lambda made: made.complete("y")
            await reader.readuntil(b"run.completed")
            await reader.readuntil(b"HTTP/1.1 200")

    async def test_a_trailer_is_no_header(self, url, completes, service):
        trailers = b"0\r\nIdempotency-Key: k\r\n\r\n"
        chunked = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(GOOD), GOOD)
        assert (await answer_to(url, chunked + trailers)).startswith(b"HTTP/1.1 200")
        assert service.submissions[0].idempotency_key is None

    @pytest.mark.parametrize(
        "frame", [b"0\r\n" + b"X: y\r\n" * 12_000, b"0\r\nX: " + b"y" * 70_000, b"1;" + b"x" * 70_000]
    )
    async def test_what_frames_a_body_is_bounded(self, url, frame):
        async with wire(url, POST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n") as (reader, writer):
            await reader.readuntil(b"100 Continue\r\n\r\n")
            writer.write(frame)
            assert_problem(await reader.read(), 431, "head-too-large")


class TestNoRequest:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\x03\x01\x02\x00",
            b"GET\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"CONNECT evil:443 HTTP/1.1\r\nHost: evil\r\n\r\n",
            POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        ],
    )
    async def test_it_is_400_and_no_line_in_the_log(self, url, data, caplog):
        assert_problem(await answer_to(url, data), 400, "malformed")
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []

    async def test_what_came_before_it_is_answered(self, url):
        raw = await answer_to(url, GET * 3 + b"\x00\r\n\r\n" + GET)
        assert raw.count(b"HTTP/1.1 200") == raw.count(b"HTTP/1.1") == 3

    async def test_it_does_not_end_up_inside_of_a_stream(self, url, service):
        run = service.new_run()
        async with wire(url, f"GET /v1/runs/{run.record.id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as streams:
            reader, writer = streams
            await reader.readuntil(b"run.accepted")
            writer.write(b"\x00\r\n\r\n")
            for number in range(20):  # by then it was read
                run.delta(number)
                await reader.readuntil(b'"delta":%d' % number)
            run.complete("x")
            rest = await reader.read()
        assert b"run.completed" in rest
        assert b"HTTP/1.1" not in rest


class TestOtherProtocols:
    """Who asks for another protocol is answered in this one; Java's client asks for HTTP/2 with every first request."""

    UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"

    async def test_the_body_is_read(self, url, completes, service):
        data = BODY.replace(b"Host: x\r\n", b"Host: x\r\n" + self.UPGRADE) + GOOD
        async with wire(url, data) as (reader, writer):
            for _ in range(2):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                await reader.readuntil(b"}}")
                writer.write(data)
        assert [json.loads(each.input) for each in service.submissions[:2]] == [{"question": "why"}] * 2

    async def test_the_body_may_come_later(self, url, completes):
        async with wire(url, BODY.replace(b"Host: x\r\n", b"Host: x\r\n" + self.UPGRADE)) as (reader, writer):
            writer.write(GOOD)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    async def test_many_at_once(self, url):
        asked = GET.replace(b"Host: x\r\n", b"Host: x\r\n" + self.UPGRADE)
        raw = await answer_to(url, asked * 1500 + GET.replace(b"Host", b"Connection: close, x\r\nHost"))
        assert raw.count(b"HTTP/1.1 200") == 1501

    async def test_close_is_obeyed(self, url):
        asked = GET.replace(b"Host: x\r\n", b"Host: x\r\nConnection: upgrade, close\r\nUpgrade: x\r\n")
        assert (await answer_to(url, asked)).startswith(b"HTTP/1.1 200")


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"k" * 16).decode(),
}


class TestHandshakes:
    def request(self, service, method="GET", query="", **changes):
        lines = HANDSHAKE | {name.replace("_", "-"): value for name, value in changes.items()}
        head = f"{method} /v1/runs/{service.new_run().record.id}/ws{query} HTTP/1.1\r\nHost: x\r\n"
        return (head + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode()

    @pytest.mark.parametrize(
        ("changes", "status", "code"),
        [
            ({"Sec_WebSocket_Key": "short"}, 400, "malformed"),
            ({"Sec_WebSocket_Version": "12"}, 400, "malformed"),
            ({"Sec_WebSocket_Extensions": ";;"}, 400, "malformed"),
            ({"Content_Length": "0"}, 101, None),
            ({"Content_Length": "3"}, 400, "malformed"),
            ({"method": "POST"}, 405, "method-not-allowed"),
            ({"X": "x" * 9000}, 431, "head-too-large"),
            ({f"X{number}": "x" for number in range(150)}, 431, "head-too-large"),
            ({"query": "?" + "x" * 9000}, 431, "head-too-large"),
        ],
    )
    async def test_one_that_is_wrong_is_a_problem(self, url, service, caplog, changes, status, code):
        async with wire(url, self.request(service, **changes) + b"abc") as (reader, _):
            if code is None:
                assert (await reader.readline()).startswith(b"HTTP/1.1 %d " % status)
            else:
                assert_problem(await reader.read(), status, code)
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []

    async def test_one_that_is_refused_is_no_line_in_the_log(self, url, caplog):
        with pytest.raises(InvalidStatus):
            await connect(url.replace("http", "ws") + "/v1/runs/nonsense/ws")
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []

    async def test_it_needs_a_connection_of_its_own(self, url, service):
        raw = await answer_to(
            url,
            f"GET /v1/runs/{service.new_run().record.id} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + self.request(service),
        )
        assert raw.count(b"HTTP/1.1") == 1

    @pytest.mark.parametrize("frame", [b"\xff" * 10, b"\x81\x01x", b"\x89\x84\0\0\0\0ping", b"\x81\x81\0\0\0\0\xff"])
    async def test_frames_that_do_not_wait_for_the_answer_end_the_connection(
        self, url, service, caplog, monkeypatch, frame
    ):
        asked, answer, get = asyncio.Event(), asyncio.Event(), service.get

        async def slow(*args):
            asked.set()
            await answer.wait()
            return await get(*args)

        monkeypatch.setattr(service, "get", slow)
        async with wire(url, self.request(service)) as (reader, writer):
            await asked.wait()
            writer.write(frame)
            assert await reader.read() == b""
            answer.set()
        assert (await answer_to(url, GET.replace(b"Host", b"Connection: close\r\nHost"))).startswith(b"HTTP/1.1 200")
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []

    async def test_text_that_is_none_closes_with_1007(self, url, service, caplog):
        async with connect(url.replace("http", "ws") + f"/v1/runs/{service.new_run().record.id}/ws") as socket:
            await socket.recv()
            await socket.send(b"\xff", text=True)
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
        assert caught.value.rcvd.code == 1007
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []
