"""What browsers and other readers of streams need, over the real server, read by clients that are not ours."""

from __future__ import annotations

import asyncio
import codecs
import http.client
import json

import httpx
import pytest
from openai._streaming import SSEDecoder
from websockets.asyncio.client import connect

from offramp.gateway.native.framing import RETRY_MS
from offramp.settings import Settings
from tests.gateway.fake import FakeService
from tests.gateway.wire import parse_sse, types_of

RUNS = "/v1/pipelines/research/runs"
JSON = {"Content-Type": "application/json"}
UNUSUAL = "a\u2028b\u2029c\u0085d"


def events_of(run):
    return f"/v1/runs/{run.record.id}/events"


@pytest.fixture
def ended(service):
    run = service.new_run()
    run.delta("a")
    run.complete("a")
    return run


class TestAtTheEnd:
    """An `EventSource` reconnects after every end of a stream, until it gets 204 (HTML, 9.2.3)."""

    @pytest.mark.parametrize(
        ("headers", "query"),
        [
            ({"Last-Event-ID": "3"}, ""),
            ({"Last-Event-ID": "3"}, "?lastEventId=1&starting_after=1"),
            ({}, "?lastEventId=3&starting_after=1"),
            ({}, "?starting_after=3"),
            ({"Last-Event-ID": "3"}, "?follow=false"),
            ({"Last-Event-ID": "9999"}, ""),
            ({}, "?lastEventId=4"),
            ({}, "?starting_after=9999"),
        ],
    )
    async def test_a_reader_with_the_terminal_event_is_told_to_stop(self, web, ended, headers, query):
        answer = await web.get(events_of(ended) + query, headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["cache-control"] == "no-store"
        assert not {"content-type", "content-length", "transfer-encoding"} & answer.headers.keys()

    @pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
    async def test_however_the_run_ended(self, web, service, end):
        run = service.new_run()
        getattr(run, end)(*(["x"] if end == "complete" else []))
        assert (await web.get(events_of(run), headers={"Last-Event-ID": "1"})).status_code == 200
        assert (await web.get(events_of(run), headers={"Last-Event-ID": "2"})).status_code == 204

    async def test_a_run_that_goes_on_has_no_last_event(self, web, service):
        run = service.new_run()
        run.demote()
        async with web.stream("GET", events_of(run), headers={"Last-Event-ID": "2"}) as answer:
            assert answer.status_code == 200
            run.complete("x")
            assert types_of(await answer.aread()) == ["run.completed"]

    async def test_it_takes_no_room_of_a_stream(self, web, service, ended):
        service.settings = Settings(tenant_streams=1)
        async with web.stream("GET", events_of(service.new_run())):
            assert (await web.get(events_of(ended), headers={"Last-Event-ID": "2"})).status_code == 429
            assert (await web.get(events_of(ended), headers={"Last-Event-ID": "3"})).status_code == 204


class TestParameters:
    async def test_unknown_ones_with_an_underscore_are_ignored(self, web, url, ended):
        answer = await web.get(events_of(ended) + "?_=1764530000&_=2&_t&starting_after=2")
        assert types_of(answer.content) == ["run.completed"]
        assert (await web.get("/v1/runs?_=1")).status_code == 200
        async with connect(url.replace("http://", "ws://") + f"/v1/runs/{ended.record.id}/ws?_=1") as socket:
            assert json.loads(await socket.recv())["seq"] == 1

    async def test_others_are_not(self, web, ended):
        answer = await web.get(events_of(ended) + "?t_=1")
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/query/t_"


class TestParsers:
    @pytest.fixture
    def service(self):
        return FakeService(heartbeat=0.1)

    async def test_yield_events_alone(self, web, service):
        """The parser of the openai package yields an event at each empty line once it has seen an id or a retry."""
        run = service.new_run()

        async def read():
            async with web.stream("GET", events_of(run)) as answer:
                seen = b""
                async for chunk in answer.aiter_bytes():
                    seen += chunk
                    if seen.count(b"heartbeat") >= 3 and not run.record.finished:
                        run.delta("a")
                        run.complete("a")
                    yield chunk

        async with asyncio.timeout(30):
            found = [event async for event in SSEDecoder().aiter_bytes(read())]
        assert [event.event for event in found] == ["run.accepted", "step.delta", "run.completed"]
        assert [event.id for event in found] == ["1", "2", "3"]
        assert [event.retry for event in found] == [RETRY_MS, None, None]
        assert [json.loads(event.data)["seq"] for event in found] == [1, 2, 3]

    async def test_that_split_lines_as_unicode_does_get_whole_events(self, web, service):
        run = service.new_run()
        run.delta({UNUSUAL: [UNUSUAL, "ü\\u2028"]})
        run.complete(UNUSUAL)
        async with web.stream("GET", events_of(run)) as answer:
            lines = [line async for line in answer.aiter_lines()]
        data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        assert {line.partition(":")[0] for line in lines} == {"retry", "id", "event", "data", ""}
        assert data[1]["delta"] == {UNUSUAL: [UNUSUAL, "ü\\u2028"]}
        assert data[2]["result"] == UNUSUAL


class TestHttp10:
    """As nginx speaks it to the server behind it by default: no chunks, the connection is the end."""

    @staticmethod
    def ask(url, path, method="GET", body=None):
        class Connection(http.client.HTTPConnection):
            _http_vsn, _http_vsn_str = 10, "HTTP/1.0"

        connection = Connection("127.0.0.1", httpx.URL(url).port, timeout=10)
        try:
            connection.request(method, path, body, JSON | {"Accept": "text/event-stream"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    async def test_a_stream_is_not_chunked(self, url, service, ended):
        status, headers, body = await asyncio.to_thread(self.ask, url, events_of(ended))
        assert (status, headers["connection"]) == (200, "close")
        assert not {"transfer-encoding", "content-length"} & {name.lower() for name in headers}
        assert body.startswith(b"retry: ")
        assert types_of(body) == ["run.accepted", "step.delta", "run.completed"]

    async def test_nor_is_that_of_a_new_run(self, url, service):
        service.script = lambda run: run.complete("x")
        body = json.dumps({"input": {"question": "why"}})
        status, headers, body = await asyncio.to_thread(self.ask, url, RUNS, "POST", body)
        assert (status, headers["transfer-encoding"]) == (200, None)
        assert types_of(body) == ["run.accepted", "run.completed"]

    async def test_events_arrive_while_the_run_goes_on(self, url, service):
        run = service.new_run()
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(f"GET {events_of(run)} HTTP/1.0\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            seen = await reader.readuntil(b"\n\n")
            run.complete("x")
            seen += await reader.read()
        writer.close()
        assert b"transfer-encoding" not in head.lower()
        assert [kind for _, kind, _ in parse_sse(seen)[0]] == ["run.accepted", "run.completed"]

    async def test_whole_answers_keep_their_length(self, url, ended):
        for method, path, code in (
            ("GET", f"/v1/runs/{ended.record.id}", 200),
            ("GET", "/v1/nothing", 404),
            ("HEAD", "/healthz", 200),
        ):
            status, headers, body = await asyncio.to_thread(self.ask, url, path, method)
            assert (status, headers["transfer-encoding"]) == (code, None)
            assert int(headers["content-length"]) == len(body) or method == "HEAD"
        head = await asyncio.to_thread(self.ask, url, events_of(ended), "HEAD")
        assert (head[0], head[2]) == (200, b"")
        assert (await asyncio.to_thread(self.ask, url, events_of(ended) + "?lastEventId=3"))[0] == 204


class TestByteOrderMark:
    @pytest.mark.parametrize(
        "body",
        [
            codecs.BOM_UTF8 + b'{"input": {"question": "why"}}',
            '{"input": {"question": "why"}}'.encode("utf-16"),
            codecs.BOM_UTF16_BE + '{"input": {}}'.encode("utf-16-be"),
            codecs.BOM_UTF8,
        ],
    )
    async def test_is_named(self, web, service, body):
        run = service.new_run()
        for path in (RUNS, f"/v1/runs/{run.record.id}/signals/approved"):
            answer = await web.post(path, content=body, headers=JSON)
            assert answer.status_code == 400
            assert answer.json()["type"] == "urn:offramp:error:malformed"
            assert "byte order mark" in answer.json()["detail"]
        assert service.submissions == []
        assert service.signals.empty()

    async def test_within_a_text_is_a_character(self, web, service):
        service.script = lambda run: run.complete("x")
        body = json.dumps({"input": {"question": "\ufeffwhy"}}, ensure_ascii=False).encode()
        assert (await web.post(RUNS, content=body, headers=JSON)).status_code == 200
