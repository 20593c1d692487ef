"""Requests to the gateway have spans of their own, which say whose they are and nothing that is secret."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from opentelemetry import trace

from offramp import SLA, App
from offramp.telemetry import names

app = App("desk", classes=[SLA("patient", budget=30.0)])
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@app.step
async def write(word: str) -> str:
    with trace.get_tracer("client").start_as_current_span("GET"):
        return word


@app.pipeline(sla="patient")
async def quick(word: str) -> str:
    return await write(word)


@contextlib.asynccontextmanager
async def gateway(tmp_path, mount="", **settings):
    served = app.asgi(data=str(tmp_path), **settings)

    async def mounted(scope, receive, send):
        await served({**scope, "root_path": mount, "path": mount + scope["path"]}, receive, send)

    async with (
        served.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(mounted), base_url="http://localhost") as web,
    ):
        yield web


async def submitted(web, headers=(), **body):
    answer = await web.post("/v1/pipelines/quick/runs", json={"input": {"word": "w"}, **body}, headers=list(headers))
    assert answer.status_code == 200, answer.text
    return answer.json()


POST = "POST /v1/pipelines/{name}/runs"


async def test_a_request_for_a_run_says_where_it_went_and_why(memory, tmp_path):
    async with gateway(tmp_path) as web:
        run = await submitted(web, session_id="s1")
    request = memory.one(POST)
    attributes = request.attributes
    assert request.kind.name == "SERVER"
    assert (attributes[names.HTTP_METHOD], attributes[names.HTTP_STATUS]) == ("POST", 200)
    assert attributes[names.HTTP_ROUTE] == "/v1/pipelines/{name}/runs"
    assert (attributes[names.URL_SCHEME], attributes[names.URL_PATH]) == ("http", "/v1/pipelines/quick/runs")
    assert (attributes[names.RUN_ID], attributes[names.RUN_PATH]) == (run["id"], "fast")
    assert attributes[names.ROUTE_REASONS] == ("a budget of 30 s (class 'patient')",)
    assert {attributes[name] for name in names.SESSION} == {"s1"}
    assert memory.one("invoke_workflow quick").parent.span_id == request.context.span_id


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", f"00-zz-{SPAN}-01")],
        [("traceparent", f"00-{'0' * 32}-{SPAN}-01")],
        [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{TRACE}-{SPAN}-01")],
    ],
)
async def test_a_malformed_traceparent_is_not_followed(memory, tmp_path, headers):
    async with gateway(tmp_path) as web:
        run = await submitted(web, headers)
    request = memory.one(POST)
    assert request.parent is None
    assert run["trace_id"] == f"{request.context.trace_id:032x}"


async def test_a_caller_that_does_not_sample_is_followed_in_that(memory, tmp_path):
    async with gateway(tmp_path) as web:
        run = await submitted(web, [("traceparent", f"00-{TRACE}-{SPAN}-00")])
    assert run["trace_id"] == TRACE
    assert memory.spans == ()


async def test_the_session_of_a_caller_comes_as_baggage(memory, tmp_path):
    async with gateway(tmp_path) as web:
        run = await submitted(web, [("baggage", "agent_session_id=upstream%2F1,other=1")])
        own = await submitted(web, [("baggage", "agent_session_id=upstream")], session_id="own")
        long = await submitted(web, [("baggage", f"agent_session_id={'x' * 200}")])
        too_long = await submitted(web, [("baggage", f"agent_session_id={'x' * 201}")])
    sessions = {span.attributes[names.RUN_ID]: span.attributes["session.id"] for span in memory.named(POST)}
    assert sessions == {
        run["id"]: "upstream/1",
        own["id"]: "own",
        long["id"]: "x" * 200,
        too_long["id"]: too_long["id"],
    }
    assert {span.attributes["session.id"] for span in memory.named("GET")} == set(sessions.values())


async def test_a_request_under_somebody_elses_span_is_below_it(memory, tmp_path):
    async with gateway(tmp_path, mount="/agents") as web:
        with trace.get_tracer("framework").start_as_current_span("the framework's"):
            await submitted(web, [("traceparent", f"00-{TRACE}-{SPAN}-01")])
        assert not trace.get_current_span().get_span_context().is_valid
    request = memory.one("POST /agents/v1/pipelines/{name}/runs")
    assert request.kind.name == "INTERNAL"
    assert request.parent.span_id == memory.one("the framework's").context.span_id


async def test_an_attached_request_links_to_the_run_that_it_got(memory, tmp_path):
    async with gateway(tmp_path) as web:
        key = [("idempotency-key", "once")]
        assert (await submitted(web, key))["id"] == (await submitted(web, key))["id"]
    first, second = memory.named(POST)
    whole = memory.one("invoke_workflow quick")
    assert names.RUN_ATTACHED not in first.attributes
    assert second.attributes[names.RUN_ATTACHED] is True
    assert [link.context.span_id for link in second.links] == [whole.context.span_id]


async def test_refusals_have_spans_and_health_has_none(memory, tmp_path):
    async with gateway(tmp_path, api_keys="acme/ci:0123456789abcdef0123456789abcdef") as web:
        key = {"authorization": "Bearer 0123456789abcdef0123456789abcdef"}
        for path in ("/healthz", "/metrics", "/docs", "/elsewhere"):
            await web.get(path, headers=key)
        assert (await web.get("/v1/pipelines")).status_code == 401
        assert (await web.get("/v1/nothing?token=hidden", headers=key)).status_code == 404
        assert (await web.get("/v1/pipelines", headers=key)).status_code == 200
        assert (await web.request("BREW", "/v1/pipelines", headers=key)).status_code == 405
    seen = [(span.name, span.attributes[names.HTTP_STATUS], span.attributes.get(names.TENANT)) for span in memory.spans]
    assert seen == [
        ("GET /v1/pipelines", 401, None),
        ("GET", 404, None),
        ("GET /v1/pipelines", 200, "acme"),
        ("other", 405, None),
    ]
    said = "\n".join(span.to_json() for span in memory.spans)
    assert "0123456789abcdef" not in said
    assert "hidden" not in said


async def test_a_long_path_is_cut(memory, tmp_path):
    async with gateway(tmp_path) as web:
        await web.get("/v1/" + "x" * 300)
    assert memory.one("GET").attributes[names.URL_PATH] == "/v1/" + "x" * 196


async def test_a_stream_is_covered_to_its_end(memory, tmp_path):
    async with gateway(tmp_path) as web:
        answer = await web.post(
            "/v1/pipelines/quick/runs", json={"input": {"word": "w"}}, headers={"accept": "text/event-stream"}
        )
        assert "run.completed" in answer.text
    request, whole = memory.one(POST), memory.one("invoke_workflow quick")
    assert request.attributes[names.RUN_ID] == whole.attributes[names.RUN_ID]
    assert request.end_time > whole.end_time


async def test_a_request_about_a_run_names_it(memory, tmp_path):
    async with gateway(tmp_path) as web:
        run = await submitted(web)
        await web.get(f"/v1/runs/{run['id']}")
        await web.get("/v1/runs/run_nothing")
    assert [span.attributes.get(names.RUN_ID) for span in memory.named("GET /v1/runs/{run_id}")] == [run["id"], None]
