"""Both clients against a gateway that misbehaves on demand, over real connections."""

from __future__ import annotations

import asyncio
import logging
import traceback
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import httpx
import msgspec
import pydantic
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import offramp
from offramp.client import Predicted, RunCompleted, StepCompleted
from offramp.client.events import KINDS, read_event
from offramp.client.options import body_of
from offramp.core import events as core_events
from offramp.errors import (
    Forbidden,
    OfframpError,
    RequestError,
    SettingsError,
    Unauthenticated,
    UnexpectedAnswer,
    Unreachable,
)
from tests.cli.harness import served
from tests.client.both import EVENTS, RUN, Flaky, asynchronous, event, problem, synchronous
from tests.servers import free_port
from tests.support import GUARD_S

CERTIFICATE = Path(__file__).parents[1] / "webhooks" / "receiver.example.pem"
KEY = "ofr_a-key-that-nothing-shows"


@pytest.mark.parametrize("ending", ["drop", "close"])
def test_a_broken_stream_goes_on_after_the_last_event(connect, ending):
    flaky = Flaky((2, ending), (0, ending), (1, ending), (1, "close"))
    noted = []
    with served(flaky.app) as url, connect(url, "secret", on_retry=noted.append) as client:
        seen = list(client.follow(RUN))
    assert [each.seq for each in seen] == [1, 2, 3, 4]
    assert flaky.resumed_from == [None, "2", "2", "3"]
    assert [(each.run_id, each.after) for each in noted] == [(RUN, 2), (RUN, 2), (RUN, 3)]
    assert isinstance(seen[2], StepCompleted)
    assert (seen[2].step, seen[2].duration_ms) == ("write", 3.0)
    assert isinstance(seen[3], RunCompleted)
    assert seen[3].result == seen[3].data["result"] == {"text": "done"}


def test_a_request_that_got_no_event_is_sent_again_under_one_key(connect):
    flaky = Flaky((0, "drop"), (0, 503), (2, "drop"), (2, "close"))
    with served(flaky.app) as url, connect(url) as client:
        assert client.run("explain", {"q": 1}, class_="batch", metadata={"a": "b"}) == {"text": "done"}
    assert len({headers["idempotency-key"] for headers in flaky.headers}) == 1
    assert len(flaky.headers) == 3
    assert flaky.bodies == [{"input": {"q": 1}, "class": "batch", "metadata": {"a": "b"}, "follow": True}] * 3
    assert flaky.resumed_from == ["2"]


def test_a_silent_connection_is_given_up(connect):
    flaky = Flaky((2, "hang"), (2, "close"))
    with served(flaky.app) as url, connect(url, silence=0.3) as client:
        assert [each.seq for each in client.follow(RUN)] == [1, 2, 3, 4]


def test_a_large_result_is_fetched(connect):
    large = event(4, "run.completed", result_url=f"/v1/runs/{RUN}/result")
    with served(Flaky((4, "close"), log=[*EVENTS[:3], large]).app) as url, connect(url) as client:
        assert client.run("explain", {}) == {"large": True}


def test_documents_keep_what_this_version_does_not_know(connect):
    with served(Flaky().app) as url, connect(url, "secret") as client:
        shown = client.get(RUN)
    assert (shown.id, shown.status, shown.created_at.year) == (RUN, "running", 2026)
    assert shown["later"] == shown.data["later"] == {"than": "this client"}
    assert not shown.ended


def test_events_of_an_unknown_kind_come_with_their_data(connect):
    log = [EVENTS[0], event(2, "step.pondered", depth=3), event(3, "run.completed", result=1)]
    with served(Flaky((3, "close"), log=log).app) as url, connect(url) as client:
        seen = list(client.stream("explain", {}))
    assert (seen[1].type, seen[1].data) == ("step.pondered", {"depth": 3})


@pytest.mark.parametrize("predicted", [None, 900.0, {"p50": 900.0, "p95": None}])
def test_a_route_of_any_version_is_typed(predicted):
    route = {"path": "deep", "reasons": ["slow"], "predicted_ms": predicted}
    found = read_event(event(1, "run.accepted", route=route).partition(b"data: ")[2]).route
    assert (found.path, found.by, found.confidence) == ("deep", "", 0)
    assert found.predicted_ms == (Predicted(p50=900.0) if isinstance(predicted, dict) else predicted)


def test_what_events_hold_is_typed_too(connect):
    error = {"code": "step-failed", "message": "no", "where": {"file": "a.py", "line": 3, "function": "f"}, "new": 1}
    log = [EVENTS[0], event(2, "step.failed", step="a", key="a-1", error=error), event(3, "run.failed", error=error)]
    with served(Flaky((3, "close"), log=log).app) as url, connect(url) as client:
        accepted, step, run = client.stream("explain", {})
    assert (accepted.route.reasons, step.error, run.data["error"]) == ([], run.error, error)
    assert (run.error.where.line, run.error["where"]["line"], run.error["code"]) == (3, 3, "step-failed")
    with pytest.raises(KeyError):
        run.error["new"]


@pytest.mark.parametrize("body", core_events.EVENTS)
def test_each_event_has_what_its_type_adds_as_attributes(body):
    kind = KINDS[str(body.__struct_config__.tag)]
    assert set(body.__struct_encode_fields__) <= set(kind.__struct_encode_fields__)


def test_a_refusal_is_the_package_s_own_error_with_its_document(connect):
    with served(Flaky().app) as url, connect(url, KEY) as client, pytest.raises(Unauthenticated) as caught:
        client.get(RUN)
    assert (str(caught.value), caught.value.problem.status, caught.value.problem["title"]) == ("it is 401", 401, "T")


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(403, "forbidden", Forbidden), (418, "teapot", RequestError), (500, "x", OfframpError)]
)
def test_codes_that_are_not_known_are_the_usual_error_of_their_status(connect, status, code, kind):
    async def refuse(request):
        return problem(status, code)

    app = Starlette(routes=[Route("/{path:path}", refuse)])
    with served(app) as url, connect(url) as client, pytest.raises(OfframpError) as caught:
        client.get(RUN)
    assert type(caught.value) is kind


GARBAGE = [
    Response(b"<html>hello</html>", media_type="text/html"),
    Response(b"\xff\x00\xfe" * 1000, media_type="application/json"),
    Response(b"[" * 100_000, media_type="application/json"),
    Response(b'{"id": 3}', media_type="application/json"),
    Response(b"data: {}\n\n", media_type="text/event-stream"),
    Response(b"data: " + b"x" * 17_000_000, media_type="text/event-stream"),
    Response(b"data: " + EVENTS[0] + b"\n\n", media_type="text/event-stream"),
    Response(b"", 302, {"Location": "https://login.example/"}),
    Response(b"<html>no</html>", 404),
]


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_gateway_is_told_at_once(connect, answer):
    async def garbage(request):
        return answer

    app = Starlette(routes=[Route("/{path:path}", garbage, methods=["GET", "POST"])])
    with served(app) as url, connect(url) as client:
        for call in (lambda: client.get(RUN), lambda: list(client.follow(RUN)), lambda: client.run("p", {})):
            with pytest.raises(UnexpectedAnswer, match=url):
                call()


def test_a_proxy_without_its_gateway_is_waited_for_and_named(connect):
    asked = []

    async def proxy(request):
        asked.append(request)
        return PlainTextResponse("Bad Gateway", 502)

    app = Starlette(routes=[Route("/{path:path}", proxy)])
    tells = pytest.raises(Unreachable, match="answered 502 Bad Gateway")
    with served(app) as url, connect(url, patience=0.5) as client, tells:
        client.get(RUN)
    assert len(asked) > 1


def test_without_a_gateway_it_gives_up_after_its_patience(connect):
    url = f"http://127.0.0.1:{free_port()}"
    noted = []
    with connect(url, patience=0.5, on_retry=noted.append) as client, pytest.raises(Unreachable, match=url) as caught:
        client.get(RUN)
    assert [each.failures for each in noted] == list(range(1, len(noted) + 1))
    assert "gave up after" in caught.value.__notes__[0]
    assert not noted[0].answered


def test_a_certificate_that_is_not_trusted_is_refused_at_once(connect):
    tells = pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED")
    with served(Flaky().app, CERTIFICATE) as url, connect(url, "secret") as client, tells:
        client.get(RUN)


def test_a_key_is_in_no_error_no_log_and_no_representation(connect, caplog):
    caplog.set_level(logging.DEBUG)
    with served(Flaky((1, "drop")).app) as url, connect(url, KEY, patience=0.0) as client:
        shown = [repr(client)]
        for call in (lambda: client.get(RUN), lambda: list(client.follow(RUN)), lambda: client.submit("p", {})):
            try:
                call()
            except OfframpError as error:
                shown += traceback.format_exception(error)
                shown.append(repr(vars(error)))
    assert len(shown) > 6
    assert KEY not in "".join(shown) + caplog.text


@pytest.mark.parametrize("key", ["secret\nkey", "schlüssel-geheim", "two secret words"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(connect, key):
    with pytest.raises(SettingsError) as caught, connect("http://127.0.0.1:1", key):
        pass
    assert "secret" not in str(caught.value) + repr(caught.value.__cause__)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://[::1", "http://x/?q=1"])
def test_what_is_no_address_is_refused(connect, url):
    with pytest.raises(SettingsError, match="address"), connect(url):
        pass


def test_a_password_in_the_address_is_not_shown(connect):
    with connect("http://user:geheim@gateway.example/agents/") as client:
        assert repr(client).endswith("Client('http://gateway.example/agents')")
    with pytest.raises(SettingsError) as caught, connect("ftp://user:geheim@gateway.example"):
        pass
    assert "geheim" not in str(caught.value)


def test_the_environment_says_where_and_who(monkeypatch):
    with served(Flaky().app) as url:
        monkeypatch.setenv("OFFRAMP_URL", url)
        monkeypatch.setenv("OFFRAMP_API_KEY", "secret")
        with offramp.Client() as client:
            assert client.get(RUN).status == "running"
        with offramp.Client(key="") as client, pytest.raises(Unauthenticated):
            client.get(RUN)


@pytest.mark.parametrize(("kind", "http"), [(synchronous, httpx.Client), (asynchronous, httpx.AsyncClient)])
def test_an_httpx_client_of_one_s_own_sends_the_requests_and_is_closed(kind, http):
    asked = []

    def answer(request):
        asked.append(request)
        return httpx.Response(200, json={"id": RUN, "status": "queued"})

    given = http(transport=httpx.MockTransport(answer), headers={"X-Tenant": "a"})
    with kind("http://gateway.example/agents", "secret", http_client=given) as client:
        assert client.submit("p", wait=2.5).id == RUN
    (request,) = asked
    assert str(request.url) == "http://gateway.example/agents/v1/pipelines/p/runs"
    assert (request.headers["x-tenant"], request.headers["authorization"]) == ("a", "Bearer secret")
    assert (request.headers["prefer"], request.content) == ("wait=3", b'{"input":{}}')
    assert request.extensions["timeout"]["read"] == 77.5
    assert given.is_closed


class Asked(pydantic.BaseModel):
    question: str
    on: date


def test_an_input_may_be_an_object():
    @dataclass
    class Plain:
        question: str
        on: date

    for made in (Asked, Plain):
        body = body_of("p", made(question="é", on=date(2026, 1, 2)), {"budget": None})
        assert msgspec.json.encode(body) == '{"input":{"question":"é","on":"2026-01-02"}}'.encode()


def test_a_long_list_is_asked_for_in_pages_that_a_gateway_has(connect):
    async def page(request):
        limit, after = int(request.query_params["limit"]), int(request.query_params.get("after", 0))
        runs = [{"id": f"run_{after + number}", "status": "failed"} for number in range(limit)]
        return JSONResponse({"runs": runs, "has_more": True, "after": str(after + limit)}, 200 if limit <= 100 else 422)

    with served(Starlette(routes=[Route("/v1/runs", page)])) as url, connect(url) as client:
        found = client.list(limit=230, status="failed")
    assert [each.id for each in found] == [f"run_{number}" for number in range(230)]
    assert (found.after, len(found.data["runs"])) == ("230", 230)


def test_plain_http_reads_no_certificates(connect, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "absent.pem")
    with connect("http://gateway.example") as client:
        assert "gateway.example" in repr(client)


def test_wrong_use_is_told_before_anything_is_sent(connect):
    with connect("http://127.0.0.1:1", patience=0.0) as client:
        with pytest.raises(TypeError, match="its input, a dict"):
            client.run("p", question="why?")
        with pytest.raises(TypeError, match="did you mean 'session_id'"):
            client.stream("p", {}, sesion_id="s")
        with pytest.raises(OfframpError, match="input of pipeline"):
            client.stream("p", {"question": object()})
        with pytest.raises(RequestError, match="class_"):
            client.submit("p", {}, class_="a", **{"class": "b"})
        with pytest.raises(RequestError, match="idempotency key"):
            client.submit("p", {}, idempotency_key="é")
        with pytest.raises(RequestError, match="wait"):
            client.submit("p", {}, wait=-1)
        for run in ("", None, 3):
            with pytest.raises(RequestError, match="its id"):
                client.cancel(run)


def test_a_path_leads_to_no_other_host(connect):
    asked = []

    async def keep(request):
        asked.append(str(request.url))
        return JSONResponse({})

    other = Starlette(routes=[Route("/{path:path}", keep)])
    with served(other) as url, connect("http://127.0.0.1:1", "secret", patience=0.0) as client:
        there = url.removeprefix("http://")
        for path in (f"@{there}/x", f"//{there}/x", ".example/x", "0/x", "v1/slo", ""):
            with pytest.raises(RequestError, match="a path begins with one slash, such as /v1/slo"):
                client.request("GET", path)
        for path, params in (("/v1/\x00", {}), ("/v1/\udcff", {}), ("/v1/runs", {"q": "x" * 70_000})):
            with pytest.raises(
                RequestError, match=f"a request for {ascii(path)[:5]}.* has an impossible path or query"
            ):
                client.request("GET", path, params=params)
    assert asked == []


def hanging():
    """A gateway whose stream hangs after two events; `/left` answers once it sees that the reader has left."""
    flaky = Flaky((2, "hang"))

    async def left(request):
        await flaky.left.wait()
        return PlainTextResponse("left")

    flaky.app.router.routes.append(Route("/left", left))
    return flaky


@pytest.mark.parametrize("how", ["leave", "close"])
def test_leaving_a_stream_or_the_client_closes_its_connection(connect, how):
    with served(hanging().app) as url, connect(url) as client:
        stream = client.follow(RUN)
        assert [next(stream).seq, next(stream).seq] == [1, 2]
        if how == "leave":
            stream.close()
        else:
            client.close() if isinstance(client, offramp.Client) else client.aclose()
        assert has_left(url)
        stream.close()


def has_left(url):
    return httpx.get(url + "/left", timeout=GUARD_S, trust_env=False).text == "left"


async def test_a_cancelled_reader_closes_its_connection():
    with served(hanging().app) as url:
        async with offramp.AsyncClient(url) as client:
            two = asyncio.Event()

            async def read():
                async for each in client.follow(RUN):
                    if each.seq == 2:
                        two.set()

            task = asyncio.create_task(read())
            await asyncio.wait_for(two.wait(), GUARD_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(has_left, url)
