"""Real services at one data directory: two gateways with a worker each share the limits, whatever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import httpx
import pytest

from offramp.limits import address
from tests.cli.harness import WAIT_S, running
from tests.limits.sites import lives

DESK = """
import asyncio

from offramp import SLA, App

app = App("desk", classes=[SLA("interactive", budget=30.0, priority=10), SLA("batch", budget=0)])
openai = app.resource("openai", concurrency=2)


def mark(sign):
    with open("marks", "a") as file:
        file.write(sign)


@app.step(uses=openai, timeout=60)
async def call(number: int) -> int:
    mark("+")
    await asyncio.sleep(0.02)
    mark("-")
    return number


@app.step(uses=openai, timeout=60, lane="process")
def compute(number: int) -> int:
    mark("+")
    mark("-")
    return number


@app.pipeline(sla="interactive")
async def quick(numbers: list[int]) -> list[int]:
    return list(await asyncio.gather(*(call(number) for number in numbers)))


@app.pipeline(sla="batch")
async def slow(numbers: list[int]) -> list[int]:
    return list(await asyncio.gather(*(call(number) for number in numbers), compute(0)))
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "desk.py").write_text(DESK)
    return tmp_path


@contextlib.contextmanager
def two_gateways(project):
    """Two of `offramp serve`, each with a worker."""
    with contextlib.ExitStack() as stack:
        served = []
        for _ in range(2):
            gateway = stack.enter_context(running("serve", "desk.py", "--port", "0", "--workers", "1", cwd=project))
            gateway.url = gateway.wait_for(r"at (http://[\d.:]+),")[1]
            served.append(gateway)
        for gateway in served:
            until(lambda gateway=gateway: httpx.get(f"{gateway.url}/readyz").status_code == 200)
        yield served


def until(condition):
    ends_at = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.02)
    return found


def submit(gateway, pipeline, count):
    body = {"input": {"numbers": list(range(count))}}
    answer = httpx.post(f"{gateway.url}/v1/pipelines/{pipeline}/runs", json=body, headers={"prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def completed(gateway, run):
    document = httpx.get(f"{gateway.url}/v1/runs/{run}").json()
    assert document["status"] in {"queued", "running", "completed"}, document
    return document["status"] == "completed"


def coordinator(project):
    return until(lambda: address.holder(project / ".offramp"))


def assert_kept(project, calls):
    at_once = most = 0
    marks = (project / "marks").read_text()
    for sign in marks:
        at_once += 1 if sign == "+" else -1
        most = max(most, at_once)
    assert marks.count("+") == calls
    assert most <= 2, f"{most} calls at once"


def test_all_processes_share_them_and_a_killed_coordinator_is_replaced(project):
    with two_gateways(project) as (one, other):
        runs = [submit(gateway, pipeline, 8) for gateway in (one, other) for pipeline in ("quick", "slow")]
        killed = set()
        for _ in range(3):
            seen = len((project / "marks").read_text()) if (project / "marks").exists() else 0
            until(lambda seen=seen: (project / "marks").exists() and len((project / "marks").read_text()) > seen + 4)
            pid = coordinator(project)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            until(lambda killed=killed: coordinator(project) not in killed)
        for run in runs:
            until(lambda run=run: completed(one, run))
        (level,) = httpx.get(f"{other.url}/v1/resources").json()["resources"]
        assert (level["name"], level["in_use"]) == ("openai", 0)
        assert len(killed) == 3
        for gateway in (one, other):
            gateway.send(signal.SIGTERM)
            code, _, stderr = gateway.end()
            assert code == 0, stderr
            assert "Traceback" not in stderr
    assert_kept(project, 4 * 8 + 2)


def test_killed_services_leave_nothing_behind(project):
    with two_gateways(project) as served:
        pid = coordinator(project)
        for gateway in served:
            gateway.send(signal.SIGKILL)
        for gateway in served:
            gateway.end()
    until(lambda: not lives(pid))


def test_an_app_without_resources_starts_no_coordinator(project):
    text = (project / "desk.py").read_text()
    text = text.replace('openai = app.resource("openai", concurrency=2)', "")
    (project / "desk.py").write_text(text.replace("uses=openai, ", ""))
    with running("serve", "desk.py", "--port", "0", "--workers", "1", cwd=project) as gateway:
        gateway.url = gateway.wait_for(r"at (http://[\d.:]+),")[1]
        run = submit(gateway, "slow", 2)
        until(lambda: completed(gateway, run))
        assert httpx.get(f"{gateway.url}/v1/resources").json() == {"resources": []}
    assert not (project / ".offramp" / address.LOCK).exists()
