"""`POST /v1/runs/{id}/retry` over the real runtime: statuses, keys, tenants, objects and retention."""

from __future__ import annotations

import asyncio

import pytest

from offramp import SLA, App
from offramp.core.reference import reference_in
from offramp.gateway.asgi import Gateway
from offramp.paths import retrying
from offramp.settings import Settings
from offramp.wiring import build
from tests.gateway.keyed import callers, gateway_of
from tests.support import GUARD_S, Signal, eventually

LARGE = 300_000
JSON = {"Content-Type": "application/json"}
ASYNC = {"Prefer": "respond-async"}


class Desk:
    def __init__(self):
        self.app, self.executed, self.fails = App("desk", classes=[SLA("batch", budget=0)]), [], True
        self.let_go = Signal()

        @self.app.step
        async def make(word: str) -> str:
            self.executed.append("make")
            return word * LARGE

        @self.app.step
        async def send(text: str) -> int:
            self.executed.append("send")
            if self.fails:
                raise ValueError("it is down")
            return len(text)

        @self.app.step
        async def wait() -> str:
            await self.let_go.wait()
            return "went"

        @self.app.pipeline(sla="batch")
        async def deliver(word: str) -> int:
            return await send(await make(word))

        @self.app.pipeline(sla="batch")
        async def hold(word: str) -> str:
            return word + await wait()


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
async def gateway(desk, tmp_path):
    given = {"data": str(tmp_path / "data"), "objects": f"file://{tmp_path}/objects", "objects_above": 100_000}
    settings = Settings.load(environment={}, file=tmp_path / "none", **given)
    gateway = Gateway(lambda: build(desk.app, settings, role="local"))
    async with gateway.lifespan():
        yield gateway


async def ended(web, run_id):
    async with asyncio.timeout(GUARD_S):
        await web.get(f"/v1/runs/{run_id}/events")
    return (await web.get(f"/v1/runs/{run_id}")).json()


async def started(web, pipeline="deliver"):
    body = {"input": {"word": "w"}, "session_id": "s", "metadata": {"k": "v"}}
    answer = await web.post(f"/v1/pipelines/{pipeline}/runs", json=body, headers=ASYNC)
    assert answer.status_code == 202
    return answer.json()["id"]


async def failed(web):
    document = await ended(web, await started(web))
    assert document["status"] == "failed"
    return document["id"]


def retry(web, run_id, **request):
    return web.post(f"/v1/runs/{run_id}/retry", **request)


async def test_a_retry_is_202_with_the_new_run(web, desk):
    run = await failed(web)
    desk.fails = False
    answer = await retry(web, run)
    document = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == document["links"]["self"] == f"/v1/runs/{document['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert (document["retry_of"], document["session_id"], document["metadata"]) == (run, "s", {"k": "v"})
    assert (await ended(web, document["id"]))["result"] == LARGE
    assert (await web.get(f"/v1/runs/{run}")).json()["retried_as"] == [document["id"]]
    assert desk.executed == ["make", "send", "send"]


async def test_the_same_key_attaches_and_another_body_is_refused(web, desk):
    run, key = await failed(web), {"Idempotency-Key": "again"}
    first, second = [(await retry(web, run, headers=key)).json()["id"] for _ in range(2)]
    assert first == second
    refused = await retry(web, run, json={"fresh": True}, headers=key)
    assert refused.status_code == 422
    assert refused.json()["type"] == "urn:offramp:error:idempotency-mismatch"
    assert (await web.get(f"/v1/runs/{run}")).json()["retried_as"] == [first]


@pytest.mark.parametrize(
    ("body", "headers", "status", "pointer"),
    [
        (b"{", JSON, 400, None),
        (b"[]", JSON, 422, ""),
        (b'{"form": "send"}', JSON, 422, "/form"),
        (b'{"from": 1}', JSON, 422, "/from"),
        (b'{"from": ""}', JSON, 422, "/from"),
        (b'{"from": "' + b"x" * 301 + b'"}', JSON, 422, "/from"),
        (b'{"from": "sent"}', JSON, 422, "/from"),
        (b'{"from": "send", "fresh": true}', JSON, 422, "/from"),
        (b'{"fresh": "yes"}', JSON, 422, "/fresh"),
        (b"{}", {"Content-Type": "text/plain"}, 415, None),
    ],
)
async def test_a_request_that_does_not_fit_is_refused(web, body, headers, status, pointer):
    answer = await retry(web, await failed(web), content=body, headers=headers)
    assert answer.status_code == status
    assert pointer is None or answer.json()["errors"][0]["pointer"] == pointer


async def test_a_run_that_executes_or_completed_is_409(web, desk):
    run = await started(web, "hold")
    answer = await retry(web, run, json={"fresh": True})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:offramp:error:conflict")
    desk.let_go.set()
    await ended(web, run)
    assert (await retry(web, run)).status_code == 409
    assert (await retry(web, run, json={"from": None, "fresh": False})).status_code == 409
    for body in ({"fresh": True}, {"from": "wait"}):
        assert (await retry(web, run, json=body)).status_code == 202
    assert (await retry(web, "run_01D78XYFJ1PRM1WPBCBT3VHMNV")).status_code == 404


async def test_a_run_is_retried_a_bounded_number_of_times(web, monkeypatch):
    monkeypatch.setattr(retrying, "RETRIES_MAX", 2)
    run = await failed(web)
    made = [(await retry(web, run, headers={"Idempotency-Key": key})).json()["id"] for key in ("1", "2", "2")]
    assert made[1] == made[2]
    refused = await retry(web, run)
    assert (refused.status_code, "RETRIES_MAX" in refused.json()["detail"]) == (409, True)
    await ended(web, made[-1])
    assert (await retry(web, made[-1])).status_code == 202


async def test_large_results_are_the_new_runs_own(web, gateway, desk, tmp_path):
    run, service = await failed(web), gateway.service
    answer = await retry(web, run)
    new = answer.json()["id"]
    assert (await ended(web, new))["status"] == "failed"
    [kept] = [entry for entry in await service.process.store.journal(new) if entry.name == "make"]
    assert reference_in(kept.value).run_id == new
    record, process = await service.get(run), service.process
    await process.values.blobs.delete([run])  # as a purge does
    assert await process.store.purge(record.finished_at + record.retention_s, only=[run]) == 1
    assert (await web.get(f"/v1/runs/{run}")).json()["retried_as"] == [new]
    gone = await retry(web, run, json={"fresh": True})
    assert (gone.status_code, gone.json()["type"]) == (410, "urn:offramp:error:expired")
    desk.fails, desk.executed[:] = False, []
    last = (await retry(web, new)).json()["id"]
    assert (await ended(web, last))["result"] == LARGE
    assert desk.executed == ["send"], "the large result was lost with the first run"
    before = {path.name for path in (tmp_path / "objects").iterdir()}
    key = {"Idempotency-Key": "k"}
    again = [(await retry(web, new, headers=key)).json()["id"] for _ in range(2)]
    assert again[0] == again[1]

    def with_objects():
        return {path.name for path in (tmp_path / "objects").iterdir() if any(path.iterdir())}

    await eventually(lambda: with_objects() - before == {again[0]})


async def test_another_tenants_run_is_unknown(desk, tmp_path):
    async with callers(gateway_of(desk.app, tmp_path), "ann", "bob") as (ann, bob):
        run = await failed(ann)
        stolen = await retry(bob, run, json={"fresh": True})
        unknown = await retry(bob, "run_01D78XYFJ1PRM1WPBCBT3VHMNV", json={"fresh": True})
        assert (stolen.status_code, stolen.json()["type"]) == (404, "urn:offramp:error:unknown-run")
        assert stolen.json()["detail"].replace(run, "x") == unknown.json()["detail"].replace(
            "run_01D78XYFJ1PRM1WPBCBT3VHMNV", "x"
        )
        assert (await retry(ann, run)).status_code == 202
        assert (await bob.get("/v1/runs")).json()["runs"] == []
