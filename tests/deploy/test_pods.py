"""What the manifests start, started here: with their arguments and variables, asked by their probes, and stopped."""

from __future__ import annotations

import re
import signal
import time

import httpx
import pytest

from tests.cli.harness import WAIT_S, running
from tests.deploy.files import ROOT
from tests.deploy.manifests import container, environment, hook_s, pod

KEY = "prometheus:a-key-for-this-test-alone"


@pytest.fixture
def started(tmp_path):
    """Starts the one container of a role; what another machine would be there for is on this one."""

    def start(role):
        here = {"OFFRAMP_DATA": str(tmp_path), "OFFRAMP_STORE": "", "HOME": str(tmp_path)}
        here |= {"OFFRAMP_PORT": "0", "OFFRAMP_API_KEYS": KEY} if role == "gateway" else {}
        here |= {"OFFRAMP_WORKER_METRICS": "0.0.0.0:0"} if role == "worker" else {}
        return running(*container(role)["args"], cwd=ROOT / "examples", env=environment(role) | here)

    return start


def address(command, pattern):
    port = re.search(r"http://0\.0\.0\.0:(\d+)", command.wait_for(pattern).string)[1]
    return f"http://127.0.0.1:{port}"


def passes(role, probe, url):
    """The probe's own patience, but for a slow machine."""
    asked = container(role)[f"{probe}Probe"]
    ends_at = time.monotonic() + WAIT_S
    while True:
        answer = httpx.get(f"{url}{asked['httpGet']['path']}", trust_env=False, timeout=WAIT_S)
        if answer.status_code == 200:
            return True
        assert time.monotonic() < ends_at, answer.text
        time.sleep(0.05)


def test_pods_become_ready_are_scraped_and_leave_in_time(started):
    with started("gateway") as gateway, started("worker") as worker:
        url, probes = address(gateway, "to read and try at"), address(worker, "metrics at")
        for probe in ("startup", "liveness", "readiness"):
            assert passes("worker", probe, probes)
            assert passes("gateway", probe, url)
        assert "offramp_runs_live" in httpx.get(f"{probes}/metrics", trust_env=False).text
        assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 401
        given = {"Authorization": f"Bearer {KEY.partition(':')[2]}"}
        assert "offramp_http_requests" in httpx.get(f"{url}/metrics", headers=given, trust_env=False).text
        for role, command in (("gateway", gateway), ("worker", worker)):
            grace_s = pod(role)["terminationGracePeriodSeconds"]
            asked_at = time.monotonic()
            command.send(signal.SIGTERM)
            code, _, stderr = command.end()
            assert code == 0, stderr
            assert time.monotonic() - asked_at < grace_s - hook_s(role)
