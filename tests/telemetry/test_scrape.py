"""Metrics of processes that speak no other HTTP: the small server, and real workers behind a gateway."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time

import httpx
import pytest
from prometheus_client import Counter

from offramp.core.addresses import PORT_MAX, parse_listen
from offramp.errors import SettingsError
from offramp.settings import Settings
from offramp.telemetry.scrape import Page, scraped
from tests.cli.harness import WAIT_S, Running, running
from tests.servers import free_port

AT = re.compile(r"(?:worker (\d)  )?metrics at (http://[\d.:]+/metrics)")
DESK = '''
from offramp import SLA, App

app = App("desk", classes=[SLA("batch", budget=0)])

@app.step
async def shout(word: str) -> str:
    return word.upper()

@app.pipeline(sla="batch")
async def echo(word: str) -> str:
    """Say it."""
    return await shout(word)
'''


@pytest.fixture
def things():
    made = Counter("offramp_test_things", "Things", registry=None)
    made.inc(3)
    return [made]


def get(url, **more):
    return httpx.get(url, trust_env=False, timeout=10, **more)


def test_metrics_are_served_while_the_block_runs(things):
    with scraped(things, "127.0.0.1:0") as server:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        assert "offramp_test_things_total 3.0" in get(url).text
        answer = get(url, headers={"Accept": "application/openmetrics-text"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
    with pytest.raises(httpx.ConnectError):
        get(url)


def test_it_listens_on_ipv6_too(things):
    host = "[::1]" if socket.has_dualstack_ipv6() else "127.0.0.1"
    with scraped(things, f"{host}:0") as server:
        assert get(f"http://{host}:{server.server_port}/metrics").status_code == 200


def test_a_path_that_is_not_served_is_no_success(things):
    """A probe of a misspelt path must not pass."""
    page = Page(200, [("Content-Type", "text/plain")], b"yes")
    with scraped(things, "127.0.0.1:0", pages={"/healthz": lambda: page}) as server:
        base = f"http://127.0.0.1:{server.server_port}"
        assert get(f"{base}/healthz").text == "yes"
        assert httpx.head(f"{base}/healthz", trust_env=False).text == ""
        answer = get(f"{base}/health")
        assert (answer.status_code, answer.text) == (404, "served here: /metrics, /healthz\n")


def test_without_an_address_nothing_is_served(things):
    with scraped(things, "") as server:
        assert server is None


def test_a_port_in_use_is_told_and_stops_nothing(things, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.ERROR, logger="offramp"):
        port = taken.getsockname()[1]
        with scraped(things, f"127.0.0.1:{port}") as server:
            assert server is None
    assert re.search(rf"no metrics here, cannot listen on 127\.0\.0\.1 port {port}: .*in use", caplog.text)


def test_the_index_is_added_to_the_port(things, caplog):
    port = free_port()
    with scraped(things, f"127.0.0.1:{port - 1}", 1) as server:
        assert server.server_port == port
    with scraped(things, f"127.0.0.1:{PORT_MAX}", 1) as server:
        assert server is None
    assert "there is no such port" in caplog.text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("metrics.internal:65535", ("metrics.internal", 65535)),
    ],
)
def test_an_address_to_listen_on(text, address):
    assert parse_listen(text) == address
    assert Settings(worker_metrics=text).worker_metrics == text


@pytest.mark.parametrize("text", ["localhost", "127.0.0.1:", "h:65536", "h:-1", "h:x", "::1:9464", "[nope]:1", "h:٣"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(SettingsError, match="worker_metrics"):
        Settings(worker_metrics=text)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "desk.py").write_text(DESK)
    return tmp_path


def sample(url, name, labels=""):
    """One value of a page of metrics, 0 where it is not there."""
    found = re.search(rf"^{name}{re.escape(labels)} ([\d.e+-]+)$", get(url).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def until(condition):
    """The gateway hears of its workers a moment after they say that they are ready."""
    ends_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_at, "it did not come"
        time.sleep(0.02)


def metrics_of_workers(command: Running, count: int) -> dict[str, str]:
    """The address of each worker's metrics, once all are warm."""
    found, warm = {}, 0
    while len(found) < count or warm < count:
        line = command.wait_for(r"metrics at|ready in").string
        at = AT.search(line)
        if at:
            found[at[1]] = at[2]
        else:
            warm += 1
    return found


def test_workers_of_a_gateway_have_metrics_and_their_starts_are_counted(project):
    with running("serve", "desk.py", "--port", "0", "--workers", "2", "--worker-metrics", "0", cwd=project) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        workers = metrics_of_workers(command, 2)
        assert set(workers) == {"1", "2"}
        run = httpx.post(
            f"{url}/v1/pipelines/echo/runs", json={"input": {"word": "a"}}, trust_env=False, timeout=10
        ).json()
        assert httpx.get(f"{url}/v1/runs/{run['id']}/events", trust_env=False, timeout=10).status_code == 200
        step = '{outcome="completed",pipeline="echo",step="shout"}'
        assert sum(sample(each, "offramp_steps_total", step) for each in workers.values()) == 1
        waited = '{class="batch"}'
        assert sum(sample(each, "offramp_queue_wait_seconds_count", waited) for each in workers.values()) == 1
        metrics = f"{url}/metrics"
        started = '{kind="worker"}'
        until(lambda: sample(metrics, "offramp_cold_start_seconds_count", started) == 2)
        assert sample(metrics, "offramp_workers_wanted") == sample(metrics, "offramp_workers_warm") == 2
        assert sample(metrics, "offramp_cold_start_seconds_sum", started) > 0.1
        pid = next(
            int(found[1]) for line in command.seen if (found := re.search(r"worker 1 started \(pid (\d+)", line))
        )
        os.kill(pid, signal.SIGKILL)
        metrics_of_workers(command, 1)
        until(lambda: sample(metrics, "offramp_cold_start_seconds_count", started) == 3)
        until(lambda: sample(metrics, "offramp_workers_warm") == 2)
        command.send(signal.SIGTERM)
        assert command.end()[0] == 0


def test_a_worker_that_is_started_by_hand_counts_its_own_start(project):
    with running(
        "worker", "desk.py", "--engine", "embedded:data", cwd=project, env={"OFFRAMP_WORKER_METRICS": "127.0.0.1:0"}
    ) as command:
        url = AT.search(command.wait_for("metrics at").string)[2]
        command.wait_for("ready in")
        assert sample(url, "offramp_cold_start_seconds_count", '{kind="worker"}') == 1
        command.send(signal.SIGTERM)
        code, _, stderr = command.end()
        assert code == 0, stderr
    with pytest.raises(httpx.ConnectError):
        get(url)


def test_a_worker_serves_no_metrics_unless_told(project):
    with running("worker", "desk.py", "--engine", "embedded:data", cwd=project) as command:
        command.wait_for("ready in")
        command.send(signal.SIGTERM)
        assert "metrics at" not in command.end()[2]
