"""FastAPI sites under uvicorn: the example's handlers and mounted gateway, and the first run of a fresh process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.harness import offramp
from tests.gateway.wire import parse_sse

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STARTS = int(os.environ.get("COLD_STARTS", "2"))
TEXT = "My invoice is wrong"
RUNS = "/agents/v1/pipelines/triage/runs"


@contextlib.contextmanager
def served(folder: Path, site: str = "fastapi_desk:site", code: Path = EXAMPLES):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(code), "--port", str(port), site]
    environment = {**os.environ, "OFFRAMP_DATA": str(folder / "data")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            ends_at = time.monotonic() + 60
            while not is_ready(client):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < ends_at, (folder / "log").read_text()
                time.sleep(0.02)
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait(30)


def is_ready(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/agents/readyz").status_code == 200
    return False


def test_handlers_answer_and_the_mounted_gateway_streams(tmp_path):
    with served(tmp_path) as client:
        answer = client.post("/tickets", json={"text": TEXT}).json()
        assert answer == {"kind": "billing", "reply": f"Thank you. The billing team looks at this: {TEXT}"}
        later = client.post("/tickets/later", json={"text": "Hello"})
        assert later.status_code == 202
        events = parse_sse(client.get(later.json()["events"]).content)[0]
        assert json.loads(events[-1][2])["result"]["kind"] == "general"
        body, accept = {"input": {"text": TEXT}}, {"Accept": "text/event-stream"}
        kinds = [kind for _, kind, _ in parse_sse(client.post(RUNS, json=body, headers=accept).content)[0]]
        assert (kinds[0], kinds[-1]) == ("run.accepted", "run.completed")
        assert kinds.count("step.delta") == len(answer["reply"].split())


@pytest.mark.parametrize("start", range(STARTS))
class TestTheFirstRunOfAFreshGatewayKeepsItsBudget:
    """`make cold-starts` makes 20 of each."""

    def test_of_the_example(self, tmp_path, start):
        with served(tmp_path) as client:
            check_fast(client.post(RUNS, json={"input": {"text": TEXT}}), start)

    def test_of_the_template(self, tmp_path, start):
        assert offramp("init", "new", "--template", "fastapi", cwd=tmp_path).returncode == 0
        with served(tmp_path, "main:api", tmp_path / "new") as client:
            check_fast(client.post("/agents/v1/pipelines/research/runs", json={"input": {"question": "Why?"}}), start)


def check_fast(answer: httpx.Response, start: int) -> None:
    document = answer.json()
    assert (document["status"], document["path"], document["demotion"]) == ("completed", "fast", None), (
        start,
        document,
    )
