"""What a worker says of itself to probes: alive whatever is unavailable, ready only while it takes runs."""

from __future__ import annotations

import json
import re
import signal
import threading

import httpx
import pytest

from offramp import App
from offramp.gateway import probes as module
from offramp.gateway.probes import probes
from offramp.settings import Settings
from offramp.wiring import build
from tests.cli.harness import running
from tests.support import GUARD_S, member

APP = App("desk")
DESK = """
from offramp import App

app = App("desk")

@app.pipeline
async def echo(word: str) -> str:
    return word
"""


def asked(service, path):
    """Status and, of a problem, its detail."""
    page = probes(service.readiness)[path]()
    assert ("cache-control", "no-store") in page.headers or page.status != 200
    return page.status, json.loads(page.body).get("detail", "")


async def test_a_worker_is_ready_from_its_joining_to_its_drain(tmp_path):
    service = build(APP, Settings(data=str(tmp_path)), role="worker")
    try:
        assert asked(service, "/healthz")[0] == 200
        status, why = asked(service, "/readyz")
        assert (status, "has not joined" in why) == (503, True)
        await service.start()
        assert asked(service, "/readyz") == (200, "")
        await service.drain()
        assert asked(service, "/readyz") == (503, "stopping")
        assert asked(service, "/healthz")[0] == 200
    finally:
        await service.stop()


async def test_a_worker_whose_lease_ran_out_is_alive_and_not_ready(tmp_path):
    async with member(APP, tmp_path, "worker") as worker:
        worker.engine.seat.hold(worker.process.clock.monotonic())  # as if no renewal had come through since
        status, why = asked(worker, "/readyz")
        assert (status, "its lease ran out" in why) == (503, True)
        assert asked(worker, "/healthz")[0] == 200


async def test_a_gateway_takes_no_deep_runs(tmp_path):
    async with member(APP, tmp_path, "gateway") as gateway:
        assert asked(gateway, "/readyz")[0] == 503


async def test_a_control_loop_that_stands_still_is_not_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TURN_S_MAX", 0.05)
    async with member(APP, tmp_path, "worker") as worker:
        entered, gate = threading.Event(), threading.Event()
        worker.process.control.call(lambda: (entered.set(), gate.wait(GUARD_S)))
        assert entered.wait(GUARD_S)
        status, why = asked(worker, "/healthz")
        gate.set()
        assert (status, "control loop has not answered" in why) == (503, True)


def get(url):
    answer = httpx.get(url, trust_env=False, timeout=10)
    return answer.status_code, answer.json().get("status"), answer.headers["content-type"]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "desk.py").write_text(DESK)
    return tmp_path


def served(command):
    return re.search(r"(http://[\d.:]+)/metrics", command.wait_for("metrics at").string)[1]


def test_a_worker_process_answers_probes(project):
    options = ("--engine", "embedded:data", "--worker-metrics", "0")
    with running("worker", "desk.py", *options, cwd=project) as command:
        url = served(command)
        command.wait_for("ready in")
        assert get(f"{url}/healthz") == (200, "ok", "application/json")
        assert get(f"{url}/readyz") == (200, "ready", "application/json")
        command.send(signal.SIGTERM)
        assert command.end()[0] == 0


def test_a_worker_without_its_engine_is_alive(project):
    """Another process would not bring Temporal back."""
    pytest.importorskip("temporalio")
    options = ("--engine", "temporal://127.0.0.1:1/default", "--data", "data", "--worker-metrics", "0")
    with running("worker", "desk.py", *options, cwd=project) as command:
        url = served(command)
        command.wait_for("cannot be reached")
        assert get(f"{url}/healthz")[0] == 200
        assert get(f"{url}/readyz") == (503, 503, "application/problem+json")
        command.send(signal.SIGTERM)
        assert command.end()[0] == 0
