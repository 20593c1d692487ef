"""What the manifests start, started here: with their arguments and variables, asked by their probes, and stopped.

Valkey is real; only addresses, ports and keys are others.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time

import httpx
import pytest

from tests import valkey
from tests.cli.harness import WAIT_S, running
from tests.deploy.files import ROOT
from tests.deploy.manifests import container, environment, hook_s, pod

KEY = "prometheus:a-key-for-this-test-alone"
pytestmark = pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))


@pytest.fixture
def server(tmp_path):
    (tmp_path / "valkey").mkdir()
    made = valkey.Server(tmp_path / "valkey")
    yield made
    with contextlib.suppress(ProcessLookupError):  # a test may have done it
        made.kill()


@pytest.fixture
def started(tmp_path, server):
    """Starts the one container of a role."""
    store = server.url("desk")

    def start(role, **more):
        here = {"OFFRAMP_DATA": str(tmp_path), "OFFRAMP_STORE": store, "OFFRAMP_OBJECTS": "", "HOME": str(tmp_path)}
        here |= {"OFFRAMP_PORT": "0", "OFFRAMP_API_KEYS": KEY} if role == "gateway" else {}
        here |= {"OFFRAMP_WORKER_METRICS": "0.0.0.0:0"} if role == "worker" else {}
        return running(*container(role)["args"], cwd=ROOT / "examples", env=environment(role) | here | more)

    return start


def address(command, pattern):
    port = re.search(r"http://0\.0\.0\.0:(\d+)", command.wait_for(pattern).string)[1]
    return f"http://127.0.0.1:{port}"


def asked(role, probe, url):
    path = container(role)[f"{probe}Probe"]["httpGet"]["path"]
    return httpx.get(f"{url}{path}", trust_env=False, timeout=WAIT_S).status_code


def until(status, role, probe, url):
    ends_at = time.monotonic() + WAIT_S
    while asked(role, probe, url) != status:
        assert time.monotonic() < ends_at, f"{probe} of {role} did not become {status}"
        time.sleep(0.05)


def test_pods_become_ready_are_scraped_and_leave_in_time(started):
    with started("gateway") as gateway, started("worker") as worker:
        url, probes = address(gateway, "to read and try at"), address(worker, "metrics at")
        for probe in ("startup", "liveness", "readiness"):
            until(200, "worker", probe, probes)
            until(200, "gateway", probe, url)
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


def test_a_store_that_is_away_makes_nobody_restart_a_pod(started, server):
    """It would not come back by that; who is routed to is another matter."""
    with started("gateway", OFFRAMP_LEASE="1") as gateway, started("worker", OFFRAMP_LEASE="1") as worker:
        pods = {"gateway": address(gateway, "to read and try at"), "worker": address(worker, "metrics at")}
        for role, url in pods.items():
            until(200, role, "readiness", url)
        server.kill()
        for role, url in pods.items():
            until(503, role, "readiness", url)
            assert asked(role, "liveness", url) == 200
        server.start()
        for role, url in pods.items():
            until(200, role, "readiness", url)


def test_pods_leave_in_order_while_the_store_is_away(started, server):
    with started("gateway") as gateway, started("worker") as worker:
        url = address(gateway, "to read and try at")
        until(200, "gateway", "readiness", url)
        server.kill()
        for command in (gateway, worker):
            command.send(signal.SIGTERM)
        for command in (gateway, worker):
            code, _, stderr = command.end()
            assert code == 0, stderr
            assert "the drain failed" not in stderr
