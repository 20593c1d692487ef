"""`POST /v1/runs/{id}/signals/{name}`: what is taken, what is refused, and that the value arrives unchanged."""

from __future__ import annotations

import pytest

from offramp.core.names import NAME_LENGTH_MAX
from tests.gateway.wire import AsgiCall

JSON = {"Content-Type": "application/json"}


def to(run, name="approved"):
    return f"/v1/runs/{run.record.id}/signals/{name}"


async def test_a_signal_is_202_with_the_run_document(client, service):
    run = service.new_run()
    answer = await client.post(to(run), json={"by": "ada"})
    assert answer.status_code == 202
    document = (await client.get(f"/v1/runs/{run.record.id}")).json()
    assert answer.json() == document | {"awaited": True}
    assert (await client.post(to(run, "approvd"))).json() == document | {"awaited": False}
    assert answer.headers["location"] == f"/v1/runs/{run.record.id}"
    assert int(answer.headers["retry-after"]) >= 1
    assert service.signals.get_nowait() == (run.record.id, "approved", b'{"by":"ada"}')


@pytest.mark.parametrize("value", [b"null", b"true", b"-1.5e3", b'"text \\u00e9"', b"[]", b'{"a": [1, {"b": null}]}'])
async def test_any_json_value_arrives_as_it_was_sent(client, service, value):
    answer = await client.post(to(service.new_run()), content=b" \r\n" + value + b"\n", headers=JSON)
    assert answer.status_code == 202
    assert service.signals.get_nowait()[2] == value


@pytest.mark.parametrize("headers", [{}, JSON], ids=["bare", "json"])
@pytest.mark.parametrize("body", [b"", b" \n"], ids=["none", "blank"])
async def test_no_body_is_null(client, service, headers, body):
    if body and not headers:
        headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = await client.post(to(service.new_run()), content=body, headers=headers)
    assert answer.status_code == 202
    assert service.signals.get_nowait()[2] == b"null"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "malformed"),
        (b"1 2", JSON, 400, "malformed"),
        (b"NaN", JSON, 400, "malformed"),
        (b'"\xff"', JSON, 400, "malformed"),
        (b"1", {}, 415, "unsupported-media-type"),
        (b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported-media-type"),
        (b"", {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        (b"[" * 65 + b"]" * 65, JSON, 422, "input"),
        (b"1" * 5000, JSON, 422, "input"),
    ],
)
async def test_a_body_that_is_not_a_json_value_is_refused(client, service, body, headers, status, code):
    answer = await client.post(to(service.new_run()), content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["type"] == f"urn:offramp:error:{code}"
    assert service.signals.empty()


async def test_a_body_over_the_limit_is_413_declared_or_not(client, service, gateway):
    run, large = service.new_run(), b'"' + b"x" * (1 << 20) + b'"'
    declared = await client.post(to(run), content=large, headers=JSON)
    assert declared.status_code == 413
    call = AsgiCall(gateway, "POST", to(run), body=large).start()
    await call.done()
    assert call.status == 413
    assert service.signals.empty()


async def test_the_largest_body_is_taken(client, service):
    value = b'"' + b"x" * ((1 << 20) - 2) + b'"'
    assert (await client.post(to(service.new_run()), content=value, headers=JSON)).status_code == 202


@pytest.mark.parametrize("name", ["9lives", "with space", "é", "a%2Fb", "-", "x" * (NAME_LENGTH_MAX + 1), "%00"])
async def test_a_name_that_no_pipeline_can_wait_for_is_422(client, service, name):
    answer = await client.post(to(service.new_run(), name), json=1)
    assert answer.status_code in {404, 422}
    # An encoded slash is a slash to a path: nothing is served there.
    assert answer.status_code == (404 if "%2F" in name else 422)
    if answer.status_code == 422:
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/path/name"]
    assert len(answer.content) < 1000
    assert service.signals.empty()


@pytest.mark.parametrize("name", ["a", "_", "approved.by-2", "x" * NAME_LENGTH_MAX])
async def test_names_of_every_allowed_form(client, service, name):
    assert (await client.post(to(service.new_run(), name))).status_code == 202
    assert service.signals.get_nowait()[1] == name


async def test_an_unknown_run_is_404(client):
    for run_id in ("run_" + "0" * 26, "run_x", "x" * 2000):
        answer = await client.post(f"/v1/runs/{run_id}/signals/approved", json=1)
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:offramp:error:unknown-run"


async def test_an_ended_run_is_409(client, service):
    run = service.new_run()
    run.complete("x")
    answer = await client.post(to(run), json=1)
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:offramp:error:conflict"


async def test_a_key_is_read_as_for_runs(client, service):
    run = service.new_run()
    for key in ("k-1", '"k-1"'):
        assert (await client.post(to(run), json=1, headers={"Idempotency-Key": key})).status_code == 202
    other = await client.post(to(run), json=2, headers={"Idempotency-Key": "k-1"})
    assert (other.status_code, other.json()["type"]) == (422, "urn:offramp:error:idempotency-mismatch")
    assert list(service.signal_keys) == [(run.record.id, "k-1")]


@pytest.mark.parametrize("key", ["", '"', "x" * 256, "a b"])
async def test_a_key_that_is_none_is_400_and_sends_nothing(client, service, key):
    answer = await client.post(to(service.new_run()), json=1, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:offramp:error:malformed")
    assert service.signals.empty()


async def test_only_post(client, service):
    answer = await client.get(to(service.new_run()))
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_client_that_leaves_before_its_body_is_complete_sent_nothing(gateway, service):
    run = service.new_run()
    call = AsgiCall(gateway, "POST", to(run))
    call.incoming.get_nowait()
    call.incoming.put_nowait({"type": "http.request", "body": b"1", "more_body": True})
    call.leave()
    call.start()
    await call.done()
    assert call.messages == []
    assert service.signals.empty()
