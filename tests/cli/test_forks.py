"""Steps that fork, in real processes: what serves them goes on, and ends when it is asked to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cli import forking
from tests.cli.conftest import warm
from tests.cli.harness import WAIT_S, running, wait_until_gone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
PROGRAM = str(Path(forking.__file__))
SQUARES = [0, 1, 4, 9, 16]
RESULTS = {
    "pool": SQUARES,
    "pool_on_the_loop": SQUARES,
    "pool_in_the_lane": SQUARES,
    "forked": [5, 6, 1, 0],
    "forked_on_the_loop": [5, 6, 1, 0, 70],
    "forked_in_the_lane": [5, 6, 1, 0],
    "signalled": [-signal.SIGTERM] * 4 + [1, 0],
}


@contextlib.contextmanager
def served(folder, *options):
    with running("serve", PROGRAM, "--port", "0", "--drain-timeout", "5", *options, cwd=folder) as command:
        command.url = command.wait_for(r"at (http://[\d.:]+),")[1]
        yield warm(command)


def follow(gateway, pipeline):
    """The result of a run, followed to its end."""
    body, accept = {"input": {}, "follow": True}, {"Accept": "text/event-stream"}
    answer = httpx.post(f"{gateway.url}/v1/pipelines/{pipeline}/runs", json=body, headers=accept, timeout=WAIT_S)
    last = json.loads(answer.text.rstrip().rpartition("data: ")[2])
    assert "result" in last, answer.text
    return last["result"]


def status(gateway, path):
    return httpx.get(gateway.url + path).status_code


def test_the_gateway_and_its_worker_go_on_after_steps_that_fork_in_every_way(tmp_path):
    with served(tmp_path) as gateway:
        asked = {"input": {}}, {"Prefer": "respond-async"}
        waits = httpx.post(f"{gateway.url}/v1/pipelines/waits/runs", json=asked[0], headers=asked[1]).json()
        for path in ("fast", "deep"):
            for step, expected in RESULTS.items():
                assert (step, follow(gateway, f"{step}-{path}")) == (step, expected)
        assert (status(gateway, "/healthz"), status(gateway, "/readyz")) == (200, 200)
        assert psutil.pid_exists(gateway.worker)
        assert httpx.get(gateway.url + waits["links"]["self"]).json()["status"] == "running"
        gateway.send(signal.SIGTERM)
        code, _, log = gateway.end()
    assert code == 0
    assert "lease was lost" not in log
    assert "died" not in log
    assert log.count("SIGTERM: draining") == 1


def test_a_forked_child_knows_its_run_and_cannot_write_to_it(tmp_path):
    with served(tmp_path) as gateway:
        for path in ("fast", "deep"):
            refused, is_now, run_id = follow(gateway, f"telling-{path}")
            assert "emit() in a process forked by step 'telling': no reader would receive the value" in refused
            assert is_now == "True"
            deltas = httpx.get(f"{gateway.url}/v1/runs/{run_id}/events").text
            assert "step.delta" not in deltas


def sockets(pid):
    return {each for each in psutil.Process(pid).net_connections() if each.laddr}


def wait_until_bare(pid):
    """The child may be seen before it has had its turn."""
    ends_at = time.monotonic() + WAIT_S
    while found := sockets(pid):
        assert time.monotonic() < ends_at, found
        time.sleep(0.02)


def test_a_child_that_outlives_the_gateway_keeps_neither_its_port_nor_its_worker_nor_its_lock(tmp_path):
    with served(tmp_path) as gateway:
        child, parent = follow(gateway, "leaving_one_behind-fast")
        try:
            assert parent == gateway.process.pid
            wait_until_bare(child)
            held = {Path(each.path).parent.name for each in psutil.Process(child).open_files()}
            assert "alive" not in held
            gateway.process.kill()
            gateway.process.wait()
            wait_until_gone(gateway.worker)  # its stdin ended
            port = gateway.url.rpartition(":")[2]
            with running("serve", PROGRAM, "--port", port, cwd=tmp_path) as again:
                again.wait_for(r"at (http://[\d.:]+),")
        finally:
            os.kill(child, signal.SIGKILL)


def test_what_a_worker_started_dies_with_it_lanes_and_their_children_too(tmp_path):
    with served(tmp_path) as gateway:
        child, parent = follow(gateway, "leaving_one_behind-deep")
        assert parent == gateway.worker
        lanes = psutil.Process(gateway.worker).children(recursive=True)
        assert len(lanes) > 1
        os.kill(gateway.worker, signal.SIGKILL)
        for pid in [child, *(lane.pid for lane in lanes)]:
            wait_until_gone(pid)
        warm(gateway)
