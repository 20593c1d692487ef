from __future__ import annotations

import pytest

from offramp.core.failure import Failure


async def test_the_run_document(client, service):
    run = service.new_run()
    answer = await client.get(f"/v1/runs/{run.record.id}")
    assert answer.status_code == 200
    assert answer.json()["id"] == run.record.id
    assert answer.json()["links"]["events"] == f"/v1/runs/{run.record.id}/events"


@pytest.mark.parametrize("path", ["", "/events", "/result", "/ws", "/cancel"])
@pytest.mark.parametrize("run_id", ["run_" + "0" * 26, "run_x", "x", "run_" + "u" * 26, "%00", "x" * 2000])
async def test_an_unknown_run_is_404(client, path, run_id):
    if path == "/ws":
        answer = await client.get(f"/v1/runs/{run_id}/ws")
        assert answer.status_code == 426
        return
    answer = await client.request("POST" if path == "/cancel" else "GET", f"/v1/runs/{run_id}{path}")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:offramp:error:unknown-run"
    assert len(answer.content) < 500


async def test_the_bare_result(client, service):
    run = service.new_run()
    run.complete({"answer": [1, None]})
    answer = await client.get(f"/v1/runs/{run.record.id}/result")
    assert answer.status_code == 200
    assert answer.content == b'{"answer":[1,null]}'
    assert answer.headers["content-type"] == "application/json"
    head = await client.head(f"/v1/runs/{run.record.id}/result")
    assert head.headers["content-length"] == str(len(answer.content))
    assert head.content == b""


async def test_the_result_of_a_running_run_is_202(client, service):
    run = service.new_run()
    answer = await client.get(f"/v1/runs/{run.record.id}/result")
    assert answer.status_code == 202
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["location"] == f"/v1/runs/{run.record.id}"
    assert answer.json()["status"] == "running"


async def test_the_result_of_a_failed_run_is_409_with_its_error(client, service):
    run = service.new_run()
    run.fail("no luck")
    answer = await client.get(f"/v1/runs/{run.record.id}/result")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:offramp:error:conflict"
    shown = {"code": "step-failed", "message": "no luck", "step": "write", "attempt": 1, "where": None}
    assert answer.json()["error"] == shown


async def test_the_result_of_a_cancelled_run_is_409(client, service):
    run = service.new_run()
    run.cancel()
    assert (await client.get(f"/v1/runs/{run.record.id}/result")).status_code == 409


async def test_the_result_of_an_expired_run_is_410(client, service):
    run = service.new_run()
    run.record.status, run.record.error = "expired", Failure("deadline", "late")
    answer = await client.get(f"/v1/runs/{run.record.id}/result")
    assert answer.status_code == 410
    assert answer.json()["type"] == "urn:offramp:error:expired"


async def test_a_removed_result_is_410(client, service):
    run = service.new_run()
    run.complete("x")
    run.record.purged, run.record.result = True, None
    assert (await client.get(f"/v1/runs/{run.record.id}/result")).status_code == 410


async def test_cancel_is_202(client, service):
    run = service.new_run()
    answer = await client.post(f"/v1/runs/{run.record.id}/cancel")
    assert answer.status_code == 202
    assert answer.json()["id"] == run.record.id
    assert answer.headers["location"] == f"/v1/runs/{run.record.id}"
    assert service.cancelled.get_nowait() == run.record.id


async def test_cancelling_a_finished_run_is_409(client, service):
    run = service.new_run()
    run.complete("x")
    answer = await client.post(f"/v1/runs/{run.record.id}/cancel")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:offramp:error:conflict"


async def test_a_page_is_newest_first_and_the_next_one_follows_it(client, service):
    ids = [service.new_run().record.id for _ in range(25)][::-1]
    first = (await client.get("/v1/runs")).json()
    assert [run["id"] for run in first["runs"]] == ids[:20]
    assert (first["has_more"], first["after"]) == (True, ids[19])
    second = (await client.get("/v1/runs", params={"after": first["after"]})).json()
    assert [run["id"] for run in second["runs"]] == ids[20:]
    assert (second["has_more"], second["after"]) == (False, None)


async def test_a_page_that_is_exactly_full_is_the_last(client, service):
    for _ in range(100):
        service.new_run()
    page = (await client.get("/v1/runs?limit=100")).json()
    assert len(page["runs"]) == 100
    assert page["has_more"] is False


async def test_filters(client, service):
    wanted = service.new_run(session_id="a")
    service.new_run(session_id="b")
    service.new_run("nightly", session_id="a")
    wanted.complete("x")
    query = {"session_id": "a", "status": "completed", "pipeline": "research"}
    page = (await client.get("/v1/runs", params=query)).json()
    assert [run["id"] for run in page["runs"]] == [wanted.record.id]
    for name, value in query.items():
        assert wanted.record.id in (await client.get("/v1/runs", params={name: value})).text


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/query/limit"),
        ("limit=101", "/query/limit"),
        ("limit=x", "/query/limit"),
        ("limit=", "/query/limit"),
        ("limit=-1", "/query/limit"),
        ("limit=1&limit=2", "/query/limit"),
        ("status=done", "/query/status"),
        ("after=run_x", "/query/after"),
        ("sesion_id=x", "/query/sesion_id"),
        ("session_id=" + "x" * 201, "/query/session_id"),
    ],
)
async def test_a_query_that_does_not_fit_is_422(client, query, pointer):
    answer = await client.get(f"/v1/runs?{query}")
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_the_nearest_filter_is_named(client):
    assert "did you mean 'session_id'" in (await client.get("/v1/runs?sesion_id=x")).json()["detail"]
