from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from offramp.gateway import streams
from offramp.gateway.native.framing import FIRST
from tests.gateway.fake import FakeService
from tests.gateway.wire import AsgiCall, parse_sse, types_of

RUNS = "/v1/pipelines/research/runs"
BODY = json.dumps({"input": {"question": "why"}}).encode()
SSE = {"Accept": "text/event-stream"}


def post(gateway, **headers):
    return AsgiCall(gateway, "POST", RUNS, body=BODY, headers=headers).start()


def get(gateway, run, **options):
    return AsgiCall(gateway, "GET", f"/v1/runs/{run.record.id}/events", **options).start()


async def test_the_first_bytes_do_not_wait_for_an_event(gateway, service):
    run = service.new_run()
    run.frames.clear()
    call = get(gateway, run)
    assert (await call.next())["type"] == "http.response.start"
    assert await call.next() == {"type": "http.response.body", "body": FIRST, "more_body": True}
    call.leave()
    await call.done()


async def test_a_batch_is_one_message(gateway, service):
    run = service.new_run()
    for number in range(100):
        run.delta(number)
    run.complete("x")
    call = get(gateway, run)
    await call.done()
    assert len(call.messages) == 3
    assert call.messages[-1]["more_body"] is False
    assert len(parse_sse(call.body)[0]) == 102


async def test_a_stream_of_events_goes_on_after_a_demotion(client, service):
    run = service.new_run()
    run.demote()
    run.complete("late")
    answer = await client.get(f"/v1/runs/{run.record.id}/events")
    assert types_of(answer.content) == ["run.accepted", "run.demoted", "run.completed"]


@pytest.mark.parametrize(
    ("headers", "query", "seqs"),
    [
        ({}, "", ["1", "2", "3", "4"]),
        ({"Last-Event-ID": "2"}, "", ["3", "4"]),
        ({}, "?starting_after=3", ["4"]),
        ({"Last-Event-ID": "3"}, "?starting_after=1", ["4"]),
        ({}, "?lastEventId=3", ["4"]),
        ({}, "?lastEventId=3&starting_after=1", ["4"]),
        ({}, "?lastEventId=&starting_after=3", ["4"]),
        ({"Last-Event-ID": "3"}, "?lastEventId=1", ["4"]),
        ({"Last-Event-ID": "3"}, "?lastEventId=4&starting_after=4", ["4"]),
    ],
)
async def test_a_reader_resumes_after_the_last_event_it_has(client, service, headers, query, seqs):
    run = service.new_run()
    run.delta("a")
    run.delta("b")
    run.complete("ab")
    answer = await client.get(f"/v1/runs/{run.record.id}/events{query}", headers=headers)
    assert answer.status_code == 200
    assert [seq for seq, _, _ in parse_sse(answer.content)[0]] == seqs


async def test_a_reader_that_does_not_follow_gets_what_is_there(client, service):
    run = service.new_run()
    run.delta("a")
    answer = await client.get(f"/v1/runs/{run.record.id}/events", params={"follow": "false"})
    assert types_of(answer.content) == ["run.accepted", "step.delta"]
    rest = await client.get(f"/v1/runs/{run.record.id}/events", params={"follow": "false", "starting_after": 2})
    assert (rest.status_code, types_of(rest.content)) == (200, [])
    assert b"heartbeat" not in rest.content


async def test_whether_to_follow_is_true_or_false(client, service):
    answer = await client.get(f"/v1/runs/{service.new_run().record.id}/events", params={"follow": "no"})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "/query/follow", "message": "true or false, got 'no'"}]


@pytest.mark.parametrize("header", ["-1", "x", "1.0"])
async def test_a_position_that_is_no_number_is_400(client, service, header):
    run = service.new_run()
    answer = await client.get(f"/v1/runs/{run.record.id}/events", headers={"Last-Event-ID": header})
    assert answer.status_code == 400
    for name in ("starting_after", "lastEventId"):
        answer = await client.get(f"/v1/runs/{run.record.id}/events", params={name: header})
        assert answer.status_code == 400
        assert name in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("startingAfter=3", "/query/startingAfter"),
        ("starting_after=3&starting_after=1", "/query/starting_after"),
        ("starting_after=3&x=1", "/query/x"),
    ],
)
async def test_a_parameter_that_nobody_reads_is_422(client, service, query, pointer):
    answer = await client.get(f"/v1/runs/{service.new_run().record.id}/events?{query}")
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_removed_events_are_410(client, service):
    run = service.new_run()
    run.record.purged = True
    answer = await client.get(f"/v1/runs/{run.record.id}/events")
    assert answer.status_code == 410
    assert answer.json()["type"] == "urn:offramp:error:expired"


async def test_head_has_the_headers_and_follows_nothing(gateway, service):
    run = service.new_run()
    call = AsgiCall(gateway, "HEAD", f"/v1/runs/{run.record.id}/events").start()
    await call.done()
    assert call.headers["content-type"].startswith("text/event-stream")
    assert call.body == b""
    assert service.followed.empty()


class TestHeartbeat:
    @pytest.fixture
    def service(self):
        return FakeService(heartbeat=0.1)

    async def test_a_silent_stream_has_heartbeats(self, gateway, service):
        run = service.new_run()
        call = get(gateway, run)
        for _ in range(3):
            await call.next()
        assert (await call.next())["body"] == b": heartbeat\n"
        assert (await call.next())["body"] == b": heartbeat\n"
        run.complete("x")
        await call.done()
        found, _, comments = parse_sse(call.body)
        assert set(comments) == {"heartbeat"}
        assert found[-1][1] == "run.completed"


async def test_the_client_that_started_a_run_and_leaves_is_reported(gateway, service):
    call = post(gateway, **SSE)
    run = await service.created.get()
    await service.followed.get()
    call.leave()
    await call.done()
    assert run.disconnects == 1
    assert run.followers == 0


async def test_a_json_client_that_leaves_is_reported_and_gets_nothing(gateway, service):
    call = post(gateway)
    run = await service.created.get()
    await service.followed.get()
    call.leave()
    await call.done()
    assert run.disconnects == 1
    assert run.followers == 0
    assert call.messages == []


@pytest.mark.parametrize("headers", [SSE, {}])
async def test_an_attached_client_that_leaves_is_not_reported(gateway, service, headers):
    key = {"Idempotency-Key": "k"}
    first = post(gateway, **SSE, **key)
    run = await service.created.get()
    await service.followed.get()
    second = post(gateway, **headers, **key)
    await service.followed.get()
    second.leave()
    await second.done()
    assert (run.disconnects, run.followers) == (0, 1)
    run.complete("x")
    await first.done()
    assert run.disconnects == 0


async def test_a_follower_that_leaves_is_not_reported(gateway, service):
    run = service.new_run()
    call = get(gateway, run)
    await service.followed.get()
    call.leave()
    await call.done()
    assert (run.disconnects, run.followers) == (0, 0)


async def test_a_client_that_leaves_after_the_end_is_not_reported(gateway, service):
    service.script = lambda run: run.complete("x")
    call = post(gateway, **SSE)
    await call.done()
    call.leave()
    run = await service.created.get()
    assert run.disconnects == 0


async def test_a_slow_reader_makes_the_stream_wait(gateway, service):
    run = service.new_run()
    call = get(gateway, run)
    for _ in range(3):
        await call.next()
    call.writable.clear()
    run.delta("a")
    async with asyncio.timeout(10):
        await call.waits_to_send.wait()
    before = len(call.messages)
    for number in range(50):
        run.delta(number)
    assert len(call.messages) == before
    run.complete("x")
    call.writable.set()
    await call.done()
    assert [int(seq) for seq, _, _ in parse_sse(call.body)[0]] == list(range(1, 54))
    # What came while the reader was slow came as one batch.
    assert len(call.messages) == before + 2


async def test_a_reader_that_leaves_while_it_is_slow_ends_the_stream(gateway, service):
    call = post(gateway, **SSE)
    run = await service.created.get()
    for _ in range(3):
        await call.next()
    call.writable.clear()
    run.delta("a")
    async with asyncio.timeout(10):
        await call.waits_to_send.wait()
    call.leave()
    await call.done()
    assert (run.disconnects, run.followers) == (1, 0)


async def test_a_reader_that_takes_nothing_for_too_long_counts_as_gone(gateway, service, monkeypatch):
    monkeypatch.setattr(streams, "STALL_S_MAX", 0.05)
    call = post(gateway, **SSE)
    run = await service.created.get()
    for _ in range(3):
        await call.next()
    call.writable.clear()
    run.delta("a")
    await call.done()
    assert (run.disconnects, run.followers) == (1, 0)
    assert call.messages[-1]["more_body"] is True


async def test_a_drain_demotes_and_ends_the_streams(gateway, service):
    starter, follower = post(gateway, **SSE), None
    run = await service.created.get()
    follower = get(gateway, run)
    await service.followed.get()
    await service.followed.get()
    await service.stop()
    await starter.done()
    await follower.done()
    assert types_of(starter.body) == types_of(follower.body) == ["run.accepted", "run.demoted"]
    assert starter.messages[-1]["more_body"] is follower.messages[-1]["more_body"] is False
    assert run.disconnects == 0


async def test_a_broken_stream_is_left_incomplete_so_that_its_reader_comes_back(gateway, service, caplog):
    run = service.new_run()
    call = get(gateway, run)
    for _ in range(3):
        await call.next()
    run.broken = OSError("the disk")
    run.notify()
    await call.done()
    assert call.messages[-1]["more_body"] is True
    assert f"the stream of {run.record.id} failed" in caplog.text


async def test_a_run_removed_meanwhile_ends_the_stream(gateway, service):
    run = service.new_run()
    call = get(gateway, run)
    for _ in range(3):
        await call.next()
    run.record.purged = True
    run.notify()
    await call.done()
    assert call.messages[-1]["more_body"] is False


async def test_open_streams_and_events_are_counted(gateway, client, service):
    run = service.new_run()
    call = get(gateway, run)
    for _ in range(3):
        await call.next()
    assert 'offramp_open_streams{transport="sse"} 1.0' in (await client.get("/metrics")).text
    run.complete("x")
    await call.done()
    text = (await client.get("/metrics")).text
    assert 'offramp_open_streams{transport="sse"} 0.0' in text
    assert 'offramp_events_sent_total{transport="sse"} 2.0' in text


class TestOverASocket:
    async def test_events_arrive_while_the_run_goes_on(self, web, service):
        async with web.stream("POST", RUNS, content=BODY, headers=SSE | {"Content-Type": "application/json"}) as answer:
            run = await service.created.get()
            seen = b""
            chunks = answer.aiter_bytes()
            while b"run.accepted" not in seen:
                seen += await anext(chunks)
            for word in ("one", "two"):
                run.delta(word)
                while f'"delta":"{word}"'.encode() not in seen:
                    seen += await anext(chunks)
            run.complete("x")
            seen += b"".join([chunk async for chunk in chunks])
        assert types_of(seen) == ["run.accepted", "step.delta", "step.delta", "run.completed"]

    async def test_leaving_is_noticed(self, url, service):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as web:
            headers = SSE | {"Content-Type": "application/json"}
            async with web.stream("POST", RUNS, content=BODY, headers=headers) as answer:
                await anext(answer.aiter_bytes())
        async with asyncio.timeout(10):
            run_id = await service.left.get()
        assert service.runs[run_id].disconnects == 1

    async def test_a_broken_stream_is_an_error_to_its_reader(self, web, service):
        run = service.new_run()
        async with web.stream("GET", f"/v1/runs/{run.record.id}/events") as answer:
            chunks = answer.aiter_bytes()
            await anext(chunks)
            run.broken = OSError("the disk")
            run.notify()
            with pytest.raises(httpx.RemoteProtocolError):
                [chunk async for chunk in chunks]

    async def test_head(self, web, service):
        run = service.new_run()
        assert (await web.head(f"/v1/runs/{run.record.id}/events")).status_code == 200
        assert (await web.head("/healthz")).headers["content-length"] == "15"

    async def test_a_connection_serves_many_requests(self, web, service):
        service.script = lambda run: run.complete("x")
        for _ in range(3):
            answer = await web.post(RUNS, content=BODY, headers=SSE | {"Content-Type": "application/json"})
            assert types_of(answer.content) == ["run.accepted", "run.completed"]
