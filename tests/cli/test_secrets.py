"""Secrets are planted in the environment; steps look for them in every lane, their children and every role."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path

import pytest

from offramp.cli.secrets import VARIABLES, for_worker, received, withdraw
from offramp.settings import Settings
from tests import valkey
from tests.cli.harness import offramp, running

PLANTED = "planted0123456789"
APP = """
import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

from offramp import App

app = App("looks")
CHILD = "import os, json; print(json.dumps(dict(os.environ)))"


def environments() -> list[str]:
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    shell = subprocess.run("env", shell=True, capture_output=True, text=True, check=True).stdout
    return [repr(dict(os.environ)), child, shell]


@app.step
async def on_loop() -> list[str]:
    return environments()


@app.step
def in_thread() -> list[str]:
    return environments()


@app.step(lane="process")
def in_process() -> list[str]:
    own = Path("/proc/self/environ")
    return [*environments(), own.read_text() if own.exists() else ""]


@app.step
def arguments() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if "offramp" in text or "spawn_main" in text:
            found.append(text)
    return found


@app.pipeline
async def look() -> list[list[str]]:
    return [await step() for step in (on_loop, in_thread, in_process, arguments)]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "looks.py").write_text(APP)
    return tmp_path


@pytest.fixture
def planted(tmp_path):
    """Every secret that can be given, each so that the service works with it."""
    if reason := valkey.missing():
        pytest.skip(reason)
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = valkey.Server(folder, "--requirepass", PLANTED, "--appendonly", "yes")
    yield {
        "OFFRAMP_STORE": f"redis://:{PLANTED}@127.0.0.1:{server.port}/0?prefix=looks",
        "OFFRAMP_API_KEYS": f"ann:{PLANTED}",
        "OFFRAMP_API_KEY": PLANTED,
        "OFFRAMP_TEMPORAL_API_KEY": PLANTED,
        "OFFRAMP_WEBHOOK_SECRET": f"whsec_{base64.b64encode(PLANTED.encode() * 2).decode()}",
    }
    server.kill()


def assert_unseen(result, planted):
    seen = json.loads(result)
    assert [len(each) > 0 for each in seen] == [True] * 4
    assert "PATH" in seen[0][1], "the environment was looked at"
    everything = "\n".join(text for each in seen for text in each)
    for name in VARIABLES:
        assert name not in everything
    for secret in (PLANTED, planted["OFFRAMP_WEBHOOK_SECRET"].removeprefix("whsec_")):
        assert secret not in everything


def test_no_step_of_a_gateway_or_its_worker_sees_a_secret(project, planted):
    url = {"OFFRAMP_API_KEY": PLANTED}
    with running("serve", "looks.py", "--port", "0", cwd=project, env=planted) as gateway:
        url["OFFRAMP_URL"] = gateway.wait_for(r"at (http://[\d.:]+),")[1]
        worker = int(gateway.wait_for(r"worker 1 started \(pid (\d+)\)")[1])
        gateway.wait_for("worker 1  ready in")
        for options in ((), ("--async",)):
            done = offramp("submit", "look", "-i", "{}", *options, "--follow", cwd=project, env=url)
            assert done.returncode == 0, done.stderr
            assert_unseen(done.stdout, planted)
        if (environment := Path(f"/proc/{worker}/environ")).exists():
            assert PLANTED not in environment.read_text()


def test_no_step_of_a_worker_that_was_started_by_hand_sees_a_secret(project, planted):
    gateway = running("serve", "looks.py", "--port", "0", "--workers", "0", cwd=project, env=planted)
    with gateway as serving, running("worker", "looks.py", cwd=project, env=planted) as worker:
        url = {"OFFRAMP_URL": serving.wait_for(r"at (http://[\d.:]+),")[1], "OFFRAMP_API_KEY": PLANTED}
        worker.wait_for("ready in")
        done = offramp("submit", "look", "-i", "{}", "--async", "--follow", cwd=project, env=url)
        assert done.returncode == 0, done.stderr
        assert_unseen(done.stdout, planted)


def test_every_secret_setting_is_withdrawn_and_nothing_else():
    environment = dict.fromkeys([*VARIABLES, "OFFRAMP_DATA", "PATH"], "x")
    withdraw(environment)
    assert environment == {"OFFRAMP_DATA": "x", "PATH": "x"}
    assert {"OFFRAMP_STORE", "OFFRAMP_API_KEYS", "OFFRAMP_WEBHOOK_SECRET", "OFFRAMP_TEMPORAL_API_KEY"} <= set(VARIABLES)


def test_a_worker_is_told_what_it_needs_and_its_pipe_goes_on():
    settings = Settings(store="redis://:pw@h/0", temporal_api_key="t", api_keys="ann:" + "k" * 20)
    line = for_worker(settings)
    assert b"k" * 20 not in line
    read, write = os.pipe()
    threading.Thread(target=lambda: (os.write(write, line + b"more"), os.close(write))).start()
    assert received(read) == {"store": "redis://:pw@h/0", "temporal_api_key": "t"}
    assert os.read(read, 10) == b"more"
    assert received(read) == {}
    os.close(read)
