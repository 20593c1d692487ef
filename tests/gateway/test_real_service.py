"""The gateway over the real runtime: SQLite, run loops, demotion and deep path, in one process."""

from __future__ import annotations

import asyncio
import json
import os

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import connect

from offramp import SLA, App, emit
from offramp.gateway.asgi import Gateway
from offramp.settings import Settings
from offramp.wiring import build
from tests.gateway.conftest import serving
from tests.gateway.wire import parse_sse, types_of
from tests.support import eventually

SSE = {"Accept": "text/event-stream"}
WAITING = {"input": {"gate": ""}}


class Gates:
    """Files that hold steps until a test opens them, whatever loop or thread the steps run on."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def new(self):
        self.count += 1
        return str(self.folder / f"gate-{self.count}")

    @staticmethod
    def open(gate):
        os.close(os.open(gate, os.O_CREAT))


def make_app():
    app = App("demo", classes=[SLA("interactive", budget=30.0), SLA("hasty", budget=0.05), SLA("batch", budget=0)])

    @app.step
    async def write(question: str) -> str:
        for word in question.split():
            emit(word)
        return question.upper()

    @app.step
    async def wait(gate: str) -> str:
        while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240, PTH110 - works from any loop
            await asyncio.sleep(0.005)
        return gate

    @app.pipeline(sla="interactive")
    async def research(question: str) -> str:
        """Answer a question."""
        return await write(question)

    @app.pipeline(sla="interactive", on_disconnect="cancel")
    async def gated(gate: str) -> str:
        await wait(gate)
        return await write("done")

    @app.pipeline(sla="batch")
    async def nightly(day: str) -> str:
        return await write(day)

    @app.pipeline(sla="interactive")
    async def broken(question: str) -> str:
        raise ValueError(question)

    return app


@pytest.fixture
def gates(tmp_path):
    return Gates(tmp_path)


@pytest.fixture
async def gateway(tmp_path):
    settings = Settings.load(environment={}, file=tmp_path / "none", data=str(tmp_path / "data"))
    app = make_app()
    gateway = Gateway(lambda: build(app, settings, role="local"))
    async with gateway.lifespan():
        yield gateway


def runs(pipeline):
    return f"/v1/pipelines/{pipeline}/runs"


async def until(web, run_id, *statuses):
    """The document once the run has one of these statuses, told by its events."""
    async with asyncio.timeout(30):
        await web.get(f"/v1/runs/{run_id}/events")
    document = (await web.get(f"/v1/runs/{run_id}")).json()
    assert document["status"] in statuses
    return document


async def test_json(web):
    answer = await web.post(runs("research"), json={"input": {"question": "why not"}})
    document = answer.json()
    assert answer.status_code == 200
    assert (document["status"], document["path"], document["result"]) == ("completed", "fast", "WHY NOT")
    assert [step["name"] for step in document["steps"]] == ["write"]
    assert (await web.get(document["links"]["result"])).json() == "WHY NOT"


async def test_a_stream(web):
    answer = await web.post(runs("research"), json={"input": {"question": "why not"}}, headers=SSE)
    found, _, _ = parse_sse(answer.content)
    assert [kind for _, kind, _ in found] == [
        "run.accepted",
        "step.started",
        "step.delta",
        "step.delta",
        "step.completed",
        "run.completed",
    ]
    assert [int(seq) for seq, _, _ in found] == [1, 2, 3, 4, 5, 6]
    run_id = json.loads(found[0][2])["run_id"]
    again = await web.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": "4"})
    assert parse_sse(again.content)[0] == found[4:]
    for last, status in (("5", 200), ("6", 204), ("9999", 204)):
        assert (await web.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": last})).status_code == status


async def test_the_events_so_far(web, gates):
    gate = gates.new()
    accepted = await web.post(
        runs("gated"), json={"input": {"gate": gate}, "class": "batch"}, headers={"Prefer": "respond-async"}
    )
    events = accepted.json()["links"]["events"]

    async def so_far():
        return types_of((await web.get(events, params={"follow": "false"})).content)

    async def is_waiting():
        return (await so_far())[-1] == "step.started"

    await eventually(is_waiting)
    gates.open(gate)
    await web.get(events)
    assert (await so_far())[-1] == "run.completed"


async def test_a_failed_run(web):
    answer = await web.post(runs("broken"), json={"input": {"question": "why"}})
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert "why" in answer.json()["error"]["message"]
    assert (await web.get(answer.json()["links"]["result"])).status_code == 409


async def test_json_is_202_when_the_budget_ends_and_the_run_goes_on(web, gates):
    gate = gates.new()
    answer = await web.post(runs("gated"), json={"input": {"gate": gate}, "class": "hasty"})
    document = answer.json()
    assert answer.status_code == 202
    assert document["demotion"]["reason"] == "budget"
    assert answer.headers["location"] == document["links"]["self"]
    assert (await web.get(document["links"]["result"])).status_code == 202
    gates.open(gate)
    assert (await until(web, document["id"], "completed"))["result"] == "DONE"


async def test_a_stream_ends_at_the_demotion_and_is_taken_up_again(web, gates):
    gate = gates.new()
    answer = await web.post(runs("gated"), json={"input": {"gate": gate}, "class": "hasty"}, headers=SSE)
    seen, _, _ = parse_sse(answer.content)
    assert seen[-1][1] == "run.demoted"
    demoted = json.loads(seen[-1][2])
    assert demoted["reason"] == "budget"
    gates.open(gate)
    rest = await web.get(demoted["links"]["events"], headers={"Last-Event-ID": seen[-1][0]})
    found, _, _ = parse_sse(rest.content)
    assert found[-1][1] == "run.completed"
    assert [int(seq) for seq, _, _ in seen + found] == list(range(1, len(seen) + len(found) + 1))


async def test_a_stream_that_follows(web, gates):
    gate = gates.new()
    body = {"input": {"gate": gate}, "class": "hasty", "follow": True}
    seen = b""
    async with web.stream("POST", runs("gated"), json=body, headers=SSE) as answer:
        async for chunk in answer.aiter_bytes():
            seen += chunk
            if b"run.demoted" in seen:
                gates.open(gate)
    assert types_of(seen)[-1] == "run.completed"


@pytest.mark.parametrize(("pipeline", "headers"), [("nightly", {}), ("research", {"Prefer": "respond-async"})])
async def test_202_at_once(web, pipeline, headers):
    argument = "day" if pipeline == "nightly" else "question"
    answer = await web.post(runs(pipeline), json={"input": {argument: "monday"}}, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["path"] == "deep"
    assert (await until(web, answer.json()["id"], "completed"))["result"] == "MONDAY"


async def test_wait_ends_the_wait(web, gates):
    gate = gates.new()
    answer = await web.post(runs("gated"), json={"input": {"gate": gate}}, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"
    assert (answer.json()["path"], answer.json()["status"]) == ("fast", "running")
    gates.open(gate)
    document = await until(web, answer.json()["id"], "completed")
    assert (document["path"], document["demotion"]) == ("fast", None)


async def test_cancel(web, gates):
    answer = await web.post(runs("gated"), json={"input": {"gate": gates.new()}}, headers={"Prefer": "respond-async"})
    run_id = answer.json()["id"]
    assert (await web.post(f"/v1/runs/{run_id}/cancel")).status_code == 202
    document = await until(web, run_id, "cancelled")
    assert document["error"]["code"] == "cancelled"
    assert (await web.post(f"/v1/runs/{run_id}/cancel")).status_code == 409


async def test_leaving_cancels_where_the_pipeline_says_so(url, web, gates):
    async with web.stream("POST", runs("gated"), json={"input": {"gate": gates.new()}}, headers=SSE) as answer:
        chunks = answer.aiter_bytes()
        seen = await anext(chunks)
        while b"step.started" not in seen:
            seen += await anext(chunks)
        run_id = json.loads(parse_sse(seen)[0][0][2])["run_id"]
    await until(web, run_id, "cancelled")


async def test_a_websocket(url, web, gates):
    gate = gates.new()
    answer = await web.post(runs("gated"), json={"input": {"gate": gate}}, headers={"Prefer": "respond-async"})
    where = url.replace("http", "ws") + answer.json()["links"]["ws"]
    async with connect(where) as socket:
        assert json.loads(await socket.recv())["type"] == "run.accepted"
        await socket.send('{"type": "cancel"}')
        async with asyncio.timeout(30):
            seen = [json.loads(text)["type"] async for text in socket]
    assert seen[-1] == "run.cancelled"
    assert socket.close_code == 1000


async def test_idempotency(web):
    body, headers = {"input": {"question": "why"}}, {"Idempotency-Key": '"k"'}
    first = await web.post(runs("research"), json=body, headers=headers)
    again = await web.post(runs("research"), json=body, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    other = await web.post(runs("research"), json={"input": {"question": "how"}}, headers=headers)
    assert other.status_code == 422
    assert other.json()["type"] == "urn:offramp:error:idempotency-mismatch"


async def test_the_list(web):
    made = [
        (await web.post(runs("research"), json={"input": {"question": "x"}, "session_id": "s"})).json()["id"]
        for _ in range(3)
    ]
    page = (await web.get("/v1/runs", params={"session_id": "s", "limit": 2})).json()
    assert [run["id"] for run in page["runs"]] == made[:0:-1]
    assert page["has_more"] is True
    rest = (await web.get("/v1/runs", params={"session_id": "s", "after": page["after"]})).json()
    assert [run["id"] for run in rest["runs"]] == made[:1]


async def test_links_in_events_have_the_prefix_of_the_mount(gateway, gates):
    parent = Starlette(routes=[Mount("/ai", app=gateway)])
    gate = gates.new()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(parent), base_url="http://parent") as web:
        body = {"input": {"gate": gate}, "class": "hasty"}
        answer = await web.post("/ai" + runs("gated"), json=body, headers=SSE)
        demoted = json.loads(parse_sse(answer.content)[0][-1][2])
        assert demoted["links"]["events"].startswith("/ai/v1/runs/")
        gates.open(gate)
        rest = await web.get(demoted["links"]["events"])
    assert types_of(rest.content)[-1] == "run.completed"


async def test_metrics_of_the_runtime_are_shown(web):
    await web.post(runs("research"), json={"input": {"question": "why"}})
    text = (await web.get("/metrics")).text
    assert "offramp_runs" in text
    assert 'offramp_http_requests_total{method="POST",route="/v1/pipelines/{name}/runs",status="200"} 1.0' in text


async def test_an_unknown_run(web):
    for path in ("", "/events", "/result"):
        assert (await web.get("/v1/runs/run_" + "0" * 26 + path)).status_code == 404


async def test_input_that_does_not_fit(web):
    answer = await web.post(runs("research"), json={"input": {"question": 1}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/input/question"


async def test_ready(web):
    async with asyncio.timeout(30):
        while (await web.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.01)


async def test_a_drain_demotes_and_another_process_completes(tmp_path, gates):
    settings = Settings.load(environment={}, file=tmp_path / "none", data=str(tmp_path / "data"))
    gate, app = gates.new(), make_app()
    gateway = Gateway(lambda: build(app, settings, role="local"))
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as web:  # noqa: SIM117
        async with web.stream("POST", runs("gated"), json={"input": {"gate": gate}}, headers=SSE) as answer:
            chunks = answer.aiter_bytes()
            seen = await anext(chunks)
            while b"step.started" not in seen:
                seen += await anext(chunks)
            draining = asyncio.create_task(gateway.drain())
            while b"run.demoted" not in seen:
                seen += await anext(chunks)
            seen += b"".join([chunk async for chunk in chunks])
            refused = await web.post(runs("research"), json={"input": {"question": "x"}})
            assert refused.status_code == 503
            gates.open(gate)
            await draining
    last = parse_sse(seen)[0][-1]
    assert last[1] == "run.demoted"
    run_id = json.loads(last[2])["run_id"]
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as web:
        document = await until(web, run_id, "completed")
    assert document["result"] == "DONE"
    assert document["demotion"]["reason"] == "drain"
