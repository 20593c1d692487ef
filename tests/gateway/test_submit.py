from __future__ import annotations

import asyncio
import json
import math

import pytest

from offramp.errors import Overloaded, RateLimited, StoreError, TenantBusy
from tests.gateway.wire import AsgiCall, parse_sse, types_of

RUNS = "/v1/pipelines/research/runs"
BODY = {"input": {"question": "why"}}
SSE = {"Accept": "text/event-stream"}


def completes(value="because"):
    return lambda run: run.complete(value)


async def test_json_answers_200_with_the_document_of_a_run_that_completes(client, service):
    service.script = completes()
    answer = await client.post(RUNS, json=BODY)
    assert answer.status_code == 200
    document = answer.json()
    assert (document["status"], document["result"], document["path"]) == ("completed", "because", "fast")
    assert answer.headers["content-location"] == document["links"]["self"] == f"/v1/runs/{document['id']}"
    assert "preference-applied" not in answer.headers


async def test_json_waits_for_the_run(gateway, service):
    call = AsgiCall(gateway, "POST", RUNS, body=json.dumps(BODY).encode()).start()
    run = await service.created.get()
    await service.followed.get()
    assert call.messages == []
    run.delta("thinking")
    run.complete("because")
    await call.done()
    assert call.status == 200
    assert call.json()["result"] == "because"


async def test_json_answers_200_with_the_document_of_a_run_that_fails(client, service):
    service.script = lambda run: run.fail("no luck")
    answer = await client.post(RUNS, json=BODY)
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"]["message"] == "no luck"


async def test_json_answers_202_at_the_demotion(client, service):
    service.script = lambda run: run.demote("budget")
    answer = await client.post(RUNS, json=BODY)
    document = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/runs/{document['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["vary"] == "Prefer"
    assert "preference-applied" not in answer.headers
    assert document["demotion"]["reason"] == "budget"


async def test_respond_async_answers_202_at_once(client, service):
    answer = await client.post(RUNS, json=BODY, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["vary"] == "Prefer"
    assert answer.json()["status"] == "queued"
    assert service.submissions[0].respond_async
    assert service.followed.empty()


async def test_the_status_does_not_depend_on_how_fast_the_deep_path_is(client, service):
    service.script = completes()
    answer = await client.post(RUNS, json=BODY, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert "location" in answer.headers


async def test_json_is_202_when_the_process_stops_while_it_waits(gateway, service):
    call = AsgiCall(gateway, "POST", RUNS, body=json.dumps(BODY).encode()).start()
    run = await service.created.get()
    await service.followed.get()
    run.drained = True
    run.notify()
    await call.done()
    assert call.status == 202
    assert run.disconnects == 0


async def test_respond_async_wins_over_a_stream(client):
    answer = await client.post(RUNS, json=BODY, headers=SSE | {"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"


async def test_a_demotion_ends_a_wait_that_is_longer(client, service):
    service.script = lambda run: run.demote("budget")
    answer = await client.post(RUNS, json=BODY, headers={"Prefer": "respond-async, wait=30"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async, wait=30"
    assert service.submissions[0].respond_async is False


async def test_the_end_of_the_wait_answers_202_once_the_run_is_on_disk_and_leaves_it_where_it_is(client, service):
    answer = await client.post(RUNS, json=BODY, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=0"
    assert (answer.json()["path"], answer.json()["demotion"]) == ("fast", None)
    assert service.secured == [answer.json()["id"]]


async def test_wait_on_a_run_that_completes(client, service):
    service.script = completes()
    answer = await client.post(RUNS, json=BODY, headers={"Prefer": "wait=3"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=3"


async def test_a_class_without_a_budget_answers_202_at_once(client, service):
    answer = await client.post("/v1/pipelines/nightly/runs", json={"input": {"day": "monday"}})
    assert answer.status_code == 202
    assert answer.json()["route"]["path"] == "deep"
    assert service.followed.empty()


async def test_a_stream_has_the_events_and_headers_of_the_contract(client, service):
    def script(run):
        run.delta("be")
        run.delta("cause")
        run.complete("because")

    service.script = script
    answer = await client.post(RUNS, json=BODY, headers=SSE)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.content.startswith(b"retry: ")
    found, _, _ = parse_sse(answer.content)
    assert [seq for seq, _, _ in found] == ["1", "2", "3", "4"]
    assert [kind for _, kind, _ in found] == ["run.accepted", "step.delta", "step.delta", "run.completed"]
    run = await service.created.get()
    assert "content-location" not in answer.headers
    for (seq, kind, data), frame in zip(found, run.frames, strict=True):
        assert data.encode() == frame.data
        assert json.loads(data).items() >= {"type": kind, "run_id": run.record.id, "seq": int(seq)}.items()


def demotes_and_completes(run):
    run.demote()
    run.complete("late")


async def test_a_stream_ends_at_the_demotion(client, service):
    service.script = demotes_and_completes
    answer = await client.post(RUNS, json=BODY, headers=SSE)
    assert types_of(answer.content) == ["run.accepted", "run.demoted"]


async def test_a_stream_that_follows_goes_on_after_the_demotion(client, service):
    service.script = demotes_and_completes
    answer = await client.post(RUNS, json=BODY | {"follow": True}, headers=SSE)
    assert types_of(answer.content) == ["run.accepted", "run.demoted", "run.completed"]


async def test_the_same_key_attaches_to_the_same_run_quoted_or_not(client, service):
    service.script = completes()
    first = await client.post(RUNS, json=BODY, headers={"Idempotency-Key": "k-1"})
    again = await client.post(RUNS, json=BODY, headers={"Idempotency-Key": '"k-1"'})
    assert first.json()["id"] == again.json()["id"]
    assert len(service.runs) == 1


async def test_the_same_key_with_another_body_is_422(client, service):
    service.script = completes()
    await client.post(RUNS, json=BODY, headers={"Idempotency-Key": "k-1"})
    answer = await client.post(RUNS, json={"input": {"question": "how"}}, headers={"Idempotency-Key": "k-1"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:offramp:error:idempotency-mismatch"


async def test_an_attached_stream_goes_on_after_the_last_event_id(client, service):
    service.script = demotes_and_completes
    headers = SSE | {"Idempotency-Key": "k-1"}
    await client.post(RUNS, json=BODY, headers=headers)
    again = await client.post(RUNS, json=BODY, headers=headers | {"Last-Event-ID": "2"})
    assert types_of(again.content) == ["run.completed"]


async def test_a_new_run_starts_at_its_first_event_whatever_the_last_event_id(client, service):
    service.script = completes()
    answer = await client.post(RUNS, json=BODY, headers=SSE | {"Last-Event-ID": "2"})
    assert types_of(answer.content) == ["run.accepted", "run.completed"]


async def test_all_fields_reach_the_service(client, service):
    service.script = completes()
    parent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    await client.post(
        RUNS,
        json=BODY | {"session_id": "s", "class": "interactive", "metadata": {"k": "v"}, "budget": 2},
        headers={"traceparent": parent, "baggage": "a=b", "Idempotency-Key": '"k"'},
    )
    submission = service.submissions[0]
    assert json.loads(submission.input) == BODY["input"]
    assert (submission.pipeline, submission.session_id, submission.sla) == ("research", "s", "interactive")
    assert (submission.metadata, submission.budget) == ({"k": "v"}, 2.0)
    assert submission.idempotency_key == "k"
    assert submission.trace == {"traceparent": parent, "baggage": "a=b"}


@pytest.mark.parametrize(
    ("path", "given", "status", "code", "pointer"),
    [
        ("/v1/pipelines/reserch/runs", {"json": BODY}, 404, "unknown-pipeline", None),
        (RUNS, {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "malformed", None),
        (RUNS, {"content": b"", "headers": {"Content-Type": "application/json"}}, 400, "malformed", None),
        (RUNS, {"json": BODY, "headers": {"Idempotency-Key": ""}}, 400, "malformed", None),
        (RUNS, {"json": BODY, "headers": {"Last-Event-ID": "x"}}, 400, "malformed", None),
        (RUNS, {"json": {"input": {"question": 1}}}, 422, "input", "/input/question"),
        (RUNS, {"json": {"input": {}}}, 422, "input", "/input"),
        (RUNS, {"json": BODY | {"class": "nope"}}, 422, "input", "/class"),
        (RUNS, {"json": BODY | {"budget": 61}}, 422, "input", "/budget"),
        (RUNS, {"json": BODY | {"extra": 1}}, 422, "input", "/extra"),
        (RUNS, {"data": {"input": "x"}}, 415, "unsupported-media-type", None),
        (RUNS, {"content": b"{}"}, 415, "unsupported-media-type", None),
        (
            RUNS,
            {"content": b"{}", "headers": {"Content-Type": "application/json; charset=latin-1"}},
            415,
            "unsupported-media-type",
            None,
        ),
    ],
)
async def test_what_is_refused_is_one_problem_document(client, service, path, given, status, code, pointer):
    answer = await client.post(path, **given)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == problem["status"] == status
    assert problem["type"] == f"urn:offramp:error:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert [error["pointer"] for error in problem.get("errors", [])] == ([pointer] if pointer else [])
    assert service.runs == {}


async def test_the_nearest_pipeline_is_named(client):
    answer = await client.post("/v1/pipelines/reserch/runs", json=BODY)
    assert "did you mean 'research'?" in answer.json()["detail"]


async def test_charset_utf_8_is_taken(client, service):
    service.script = completes()
    headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
    answer = await client.post(RUNS, content=json.dumps(BODY).encode(), headers=headers)
    assert answer.status_code == 200


async def test_overload_is_503_with_retry_after(client, service):
    service.fails_with = Overloaded("1000 fast runs at once", retry_after=2.2)
    answer = await client.post(RUNS, json=BODY)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["detail"] == "1000 fast runs at once"


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (Overloaded("full", retry_after=10.0), "10"),
        (Overloaded("full", retry_after=10.2), "15"),
        (TenantBusy("share", retry_after=57.0), "60"),
        (TenantBusy("share", retry_after=61.0), "90"),
        (Overloaded("full", retry_after=math.inf), "1"),
        (RateLimited("rate", retry_after=3517.0), "3517"),
    ],
)
async def test_a_wait_that_depends_on_other_tenants_is_told_roughly(client, service, error, wait):
    service.fails_with = error
    assert (await client.post(RUNS, json=BODY)).headers["retry-after"] == wait


@pytest.mark.parametrize("error", [StoreError("disk /secret full"), RuntimeError("secret"), KeyError("secret")])
async def test_what_is_not_the_callers_fault_is_hidden_and_logged(client, service, caplog, error):
    service.fails_with = error
    answer = await client.post(RUNS, json=BODY)
    assert answer.status_code == (503 if isinstance(error, StoreError) else 500)
    assert ("retry-after" in answer.headers) is isinstance(error, StoreError)
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    error_id = answer.json()["error_id"]
    logged = [record for record in caplog.records if error_id in record.getMessage()]
    assert len(logged) == 1
    assert "secret" in logged[0].getMessage()
    assert (logged[0].exc_info or (None, None))[1] is (None if isinstance(error, StoreError) else error)


class TestBodyLimit:
    @pytest.fixture
    def service(self):
        from tests.gateway.fake import FakeService

        return FakeService(max_body_bytes=1024)

    def body_of(self, size):
        text = json.dumps({"input": {"question": ""}})
        return text.replace('""', '"' + "x" * (size - len(text)) + '"').encode()

    async def test_a_body_of_exactly_the_limit_is_taken(self, client, service):
        service.script = completes()
        headers = {"Content-Type": "application/json"}
        assert len(self.body_of(1024)) == 1024
        assert (await client.post(RUNS, content=self.body_of(1024), headers=headers)).status_code == 200

    async def test_a_declared_length_over_the_limit_is_refused_unread(self, gateway):
        call = AsgiCall(gateway, "POST", RUNS, headers={"content-length": "1025"})
        call.incoming = asyncio.Queue()
        await call.start().done()
        assert call.status == 413
        assert "1024 bytes" in call.json()["detail"]

    async def test_an_absurd_length_is_refused(self, gateway):
        call = AsgiCall(gateway, "POST", RUNS, headers={"content-length": "9" * 5000})
        await call.start().done()
        assert call.status == 413

    async def test_a_body_in_chunks_is_refused_where_it_passes_the_limit(self, gateway):
        call = AsgiCall(gateway, "POST", RUNS)
        call.incoming = asyncio.Queue()
        for _ in range(3):
            call.incoming.put_nowait({"type": "http.request", "body": b"x" * 500, "more_body": True})
        await call.start().done()
        assert call.status == 413
        assert call.json()["type"] == "urn:offramp:error:body-too-large"

    async def test_over_a_real_connection(self, web):
        async def chunks():
            for _ in range(5):
                yield b"x" * 500

        headers = {"Content-Type": "application/json"}
        assert (await web.post(RUNS, content=chunks(), headers=headers)).status_code == 413
        assert (await web.post(RUNS, content=self.body_of(1025), headers=headers)).status_code == 413


async def test_a_client_that_leaves_while_sending_gets_nothing(gateway, service):
    call = AsgiCall(gateway, "POST", RUNS)
    call.incoming = asyncio.Queue()
    call.incoming.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
    call.leave()
    await call.start().done()
    assert call.messages == []
    assert service.submissions == []
