"""The service as real processes whose runs are in Redis."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests import valkey
from tests.cli.harness import offramp, running
from tests.cli.test_check import APP, unfinished

SECRET = "s3cr3t"

pytestmark = pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))


@pytest.fixture
def store(tmp_path):
    """A server with a password: its URL."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = valkey.Server(folder, "--requirepass", SECRET, "--appendonly", "yes")
    yield f"redis://:{SECRET}@127.0.0.1:{server.port}/0?prefix=desk"
    server.kill()


def test_a_run_outlives_its_worker_and_nobody_is_told_the_password(project, store):
    env = {"OFFRAMP_STORE": store}
    with running("serve", "desk.py", "--port", "0", "--workers", "1", cwd=project, env=env) as gateway:
        url = {"OFFRAMP_URL": gateway.wait_for(r"at (http://[\d.:]+),")[1]}
        worker = int(gateway.wait_for(r"worker 1 started \(pid (\d+)\)")[1])
        gateway.wait_for("worker 1  ready in .* data in redis://127.0.0.1:")
        if (arguments := Path(f"/proc/{worker}/cmdline")).exists():
            assert SECRET not in arguments.read_text()
        audit = json.dumps({"gates": ["one", "two"]})
        run = json.loads(offramp("submit", "audit", "-i", audit, "--async", cwd=project, env=url).stdout)["id"]
        with running("follow", run, cwd=project, env=url) as reader:
            reader.wait_for("▸ wait_for")
            (project / "one").touch()
            reader.wait_for("✓ wait_for")
            reader.wait_for("▸ wait_for")
            os.kill(worker, signal.SIGKILL)
            gateway.wait_for(r"worker 1 \(pid \d+\) died: SIGKILL .* 1 run taken back")
            (project / "two").touch()
            code, result, _ = reader.end()
        assert (code, json.loads(result)[0]) == (0, worker)
        assert json.loads(result)[1] != worker
        gateway.send(signal.SIGTERM)
        code, out, said = gateway.end()
    assert code == 0
    assert SECRET not in out + said
    assert not list(project.rglob("*.db"))


@pytest.mark.parametrize("command", [("serve", "desk.py", "--port", "0"), ("worker", "desk.py")])
def test_without_its_store_nothing_starts(project, command):
    done = offramp(*command, cwd=project, env={"OFFRAMP_STORE": f"redis://:{SECRET}@127.0.0.1:1"})
    assert done.returncode == 2
    assert "Redis at redis://127.0.0.1:1/0 cannot be reached" in done.stderr
    assert SECRET not in done.stderr


def test_check_looks_into_the_store(project, store):
    done = offramp("check", "desk.py", "--store", store, cwd=project)
    assert (done.returncode, done.stderr) == (0, "0 unfinished runs, 0 of them would break\n")


async def test_check_finds_the_runs_of_a_store_that_depend_on_the_order_of_a_set(tmp_path, store):
    await unfinished(tmp_path, "stuck", 1, store=store, count=2)
    done = offramp("check", APP, "--store", store, cwd=tmp_path)
    assert done.returncode == 1
    assert "under one hash seed of two: does the body iterate over a set?" in done.stderr
    assert SECRET not in done.stderr
