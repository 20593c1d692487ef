import json
import socket
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from offramp.cli.client import RECONNECTS_MAX, Gateway, Refused, backoff_s, problem_line
from offramp.cli.output import CommandError
from tests.cli.harness import offramp, served

CERTIFICATE = Path(__file__).parents[1] / "webhooks" / "receiver.example.pem"
RUN = "run_01JD3Q8Z5V9W6K2M4N7P0R1S2T"


def event(seq: int, kind: str, **data) -> bytes:
    body = {"type": kind, "run_id": RUN, "seq": seq, "at": f"2026-11-21T10:00:0{seq}.000Z", **data}
    return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(body)}\n\n".encode()


EVENTS = [
    event(1, "run.accepted", pipeline="explain", path="fast", **{"class": "default"}, route={"reasons": []}),
    event(2, "step.started", step="write", key="write-1", attempt=1),
    event(3, "step.completed", step="write", key="write-1", attempt=1, duration_ms=3.0),
    event(4, "run.completed", result={"text": "done"}),
]


class Flaky:
    """A gateway whose streams break as told: each entry says how many events a connection gets, and how it ends."""

    def __init__(self, *connections: tuple[int, str]) -> None:
        self.connections = list(connections)
        self.resumed_from: list[str | None] = []
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        routes = [
            Route("/v1/pipelines/{name}/runs", self.submit, methods=["POST"]),
            Route("/v1/runs/{id}/events", self.events),
            Route("/v1/runs/{id}/result", self.result),
            Route("/v1/runs/{id}", self.show),
        ]
        self.app = Starlette(routes=routes)

    async def submit(self, request):
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        return self.stream(0) if "event-stream" in request.headers["accept"] else self.problem(500)

    async def events(self, request):
        self.resumed_from.append(request.headers.get("last-event-id"))
        return self.stream(int(request.headers.get("last-event-id", 0)))

    async def result(self, request):
        return JSONResponse({"large": True})

    async def show(self, request):
        if request.headers.get("authorization") != "Bearer secret":
            return self.problem(401)
        return JSONResponse({"id": RUN, "status": "running", "path": "deep", "created_at": "2026-11-21T10:00:00.000Z"})

    def problem(self, status):
        return JSONResponse({"detail": f"it is {status}"}, status, media_type="application/problem+json")

    def stream(self, after):
        count, ending = self.connections.pop(0) if self.connections else (0, "close")
        if ending == "503":
            return JSONResponse({"detail": "too much"}, 503, {"Retry-After": "0"})

        async def parts():
            yield b"retry: 10\n\n: heartbeat\n\n"
            for part in EVENTS[after : after + count]:
                yield part
            if ending == "drop":
                raise ConnectionError

        return StreamingResponse(parts(), media_type="text/event-stream")


def followed(flaky: Flaky, after: int = 0):
    pauses: list[float] = []
    with served(flaky.app) as url, Gateway(url, sleep=pauses.append) as gateway:
        return [found.seq for found in gateway.follow(RUN, after)], pauses


@pytest.mark.parametrize("ending", ["drop", "close"])
def test_a_broken_stream_is_resumed_after_the_last_event(ending):
    flaky = Flaky((2, ending), (0, ending), (1, ending), (1, "close"))
    seen, pauses = followed(flaky)
    assert seen == [1, 2, 3, 4]
    assert flaky.resumed_from == [None, "2", "2", "3"]
    assert len(pauses) == 3


def test_a_gateway_that_is_restarting_is_waited_for():
    seen, pauses = followed(Flaky((1, "drop"), (0, "503"), (3, "close")))
    assert seen == [1, 2, 3, 4]
    assert pauses[1] == 0.0


def test_a_stream_that_never_goes_on_is_given_up_with_how_to_go_on():
    flaky = Flaky((2, "drop"))
    with pytest.raises(Refused, match=f"offramp follow {RUN}"):
        followed(flaky)
    assert len(flaky.resumed_from) == RECONNECTS_MAX + 1


def test_backoff_grows_to_a_bound_and_heeds_the_server():
    assert [backoff_s(n) for n in (1, 2, 3)] == pytest.approx([0.2, 0.4, 0.8])
    assert backoff_s(50) == 5.0
    assert backoff_s(1, retry_ms=2000) == 2.0
    assert backoff_s(1, retry_ms=60_000) == 5.0


def test_submit_goes_on_where_its_own_stream_broke(tmp_path):
    flaky = Flaky((2, "drop"), (2, "close"))
    with served(flaky.app) as url:
        done = offramp(
            "submit", "explain", "-i", '{"q": 1}', "--follow", "--session", "s", "--class", "batch", "--budget", "2",
            "-m", "a=b=c", "--idempotency-key", "k", "--url", url, cwd=tmp_path,
        )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)) == (0, {"text": "done"})
    assert "resuming" in done.stderr
    assert flaky.resumed_from == ["2"]
    assert flaky.bodies == [
        {
            "input": {"q": 1},
            "session_id": "s",
            "class": "batch",
            "metadata": {"a": "b=c"},
            "budget": 2.0,
            "follow": True,
        }
    ]
    assert flaky.headers[0]["idempotency-key"] == "k"


def test_a_large_result_is_fetched(tmp_path, monkeypatch):
    large = event(4, "run.completed", result_url=f"/v1/runs/{RUN}/result")
    monkeypatch.setitem(globals(), "EVENTS", [*EVENTS[:3], large])
    with served(Flaky((4, "close")).app) as url:
        done = offramp("follow", RUN, "--url", url, cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"large": True})


def test_keys_are_sent_and_asked_for(tmp_path):
    with served(Flaky().app) as url:
        refused = offramp("show", RUN, "--url", url, cwd=tmp_path)
        shown = offramp("show", RUN, cwd=tmp_path, env={"OFFRAMP_URL": url, "OFFRAMP_API_KEY": "secret"})
    assert refused.returncode == 3
    assert refused.stderr == "offramp: it is 401; give --api-key or OFFRAMP_API_KEY\n"
    assert shown.returncode == 0
    assert "running" in shown.stdout


def test_a_list_is_as_long_as_asked_for_however_short_the_gateway_s_pages_are(tmp_path):
    def run(number):
        return {"id": f"run_{number}", "status": "completed", "path": "deep", "created_at": "2026-11-21T10:00:00.000Z"}

    pages = {
        None: ([run(1)], "run_2"),
        "run_2": ([], "run_3"),
        "run_3": ([run(4), run(5)], "run_5"),
        "run_5": ([], None),
    }
    asked = []

    async def listing(request):
        asked.append(request.query_params.get("limit"))
        runs, after = pages[request.query_params.get("after")]
        return JSONResponse({"runs": runs, "has_more": after is not None, "after": after})

    with served(Starlette(routes=[Route("/v1/runs", listing)])) as url:
        first = offramp("list", "--limit", "3", "--json", "--url", url, cwd=tmp_path)
        rest = offramp("list", "--limit", "9", "--json", "--url", url, cwd=tmp_path)
    page = json.loads(first.stdout)
    assert ([each["id"] for each in page["runs"]], page["after"]) == (["run_1", "run_4", "run_5"], "run_5")
    assert asked == ["3", "2", "2", "9", "8", "8", "6"]
    assert json.loads(rest.stdout)["has_more"] is False


def test_without_a_gateway_one_line_says_what_to_do(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = offramp("list", "--url", url, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr == f"offramp: no gateway at {url}: start one with 'offramp serve MODULE:APP' or give --url\n"


def test_a_certificate_that_is_not_trusted_is_refused():
    with served(Flaky().app, CERTIFICATE) as url, Gateway(url, "secret") as gateway, pytest.raises(Refused) as caught:
        gateway.document(RUN)
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.__cause__)


def test_plain_http_reads_no_certificates(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "absent.pem")
    with Gateway("http://gateway.example") as gateway:
        assert gateway.url == "http://gateway.example"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://[::1"])
def test_what_is_no_address_is_wrong_usage(url):
    with pytest.raises(CommandError) as caught:
        Gateway(url)
    assert caught.value.code == 2


def test_a_problem_is_one_line_with_each_wrong_field():
    body = {"detail": "the input does not fit", "errors": [{"pointer": "/input/q", "message": "expected\nstr"}]}
    assert problem_line(422, json.dumps(body).encode()) == "the input does not fit; /input/q: expected str"
    assert problem_line(502, b"<html>", "Bad Gateway") == "the gateway answered 502 Bad Gateway"
    assert problem_line(400, b'{"title": "Malformed"}') == "Malformed"


def test_what_is_no_gateway_is_told(tmp_path):
    async def hello(request):
        return JSONResponse({"hello": "world"})

    routes = [Route("/{path:path}", hello)]
    with served(Starlette(routes=routes)) as url:
        for command in ("show", "follow", "cancel"):
            done = offramp(command, RUN, "--url", url, cwd=tmp_path)
            assert done.returncode == 3
            assert len(done.stderr.splitlines()) == 1
