import json
import socket

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.cli.harness import offramp, served
from tests.client.both import EVENTS, RUN, Flaky, event, problem


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


def test_a_large_result_is_fetched(tmp_path):
    large = event(4, "run.completed", result_url=f"/v1/runs/{RUN}/result")
    with served(Flaky((4, "close"), log=[*EVENTS[:3], large]).app) as url:
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
    assert done.stderr.startswith(f"offramp: no gateway answers at {url}: ")
    assert done.stderr.endswith("; start a gateway with 'offramp serve MODULE:APP' or give --url\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://[::1"])
def test_what_is_no_address_is_wrong_usage(tmp_path, url):
    done = offramp("show", RUN, "--url", url, cwd=tmp_path)
    assert done.returncode == 2
    assert "is not an address" in done.stderr


def test_a_problem_is_one_line_with_each_wrong_field(tmp_path):
    async def refuse(request):
        return problem(422, "input", errors=[{"pointer": "/input/q", "message": "expected\nstr"}])

    routes = [Route("/{path:path}", refuse, methods=["POST"])]
    with served(Starlette(routes=routes)) as url:
        done = offramp("submit", "explain", "--url", url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "offramp: it is 422; /input/q: expected str\n")


def test_a_run_whose_events_are_gone_is_not_asked_for_again(tmp_path):
    flaky = Flaky((2, "drop"), (0, 410))
    with served(flaky.app) as url:
        done = offramp("follow", RUN, "--url", url, cwd=tmp_path)
    assert done.returncode == 3
    assert "resuming after event 2" in done.stderr
    assert done.stderr.endswith("offramp: it is 410\n")


def test_what_is_no_gateway_is_told(tmp_path):
    async def hello(request):
        return JSONResponse({"hello": "world"})

    routes = [Route("/{path:path}", hello)]
    with served(Starlette(routes=routes)) as url:
        for command in ("show", "follow", "cancel"):
            done = offramp(command, RUN, "--url", url, cwd=tmp_path)
            assert done.returncode == 3
            assert len(done.stderr.splitlines()) == 1
