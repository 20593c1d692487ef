"""A real Arize Phoenix on loopback for as long as a test needs it, and what its REST API says.

`make test-phoenix` installs it into an environment of its own: what it needs is no business of ours.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-phoenix" / "bin" / "python"
LOOPBACK = Path(__file__).with_name("loopback.py")
PORTS = range(20_000, 32_768)  # below those that the system gives to clients
START_S = 180.0
STOP_S = 15.0
WAIT_S = 30.0


class Phoenix:
    """A started server; `log` is where its output goes."""

    def __init__(self, process, url, grpc_port, log):
        self.process = process
        self.url = url
        self.grpc_port = grpc_port
        self.log = log
        self._http = httpx.Client(base_url=url, timeout=10.0, trust_env=False)

    def get(self, path, **query):
        """The `data` of an answer; None where there is nothing of the name."""
        answer = self._http.get(f"/v1/{path}", params=query)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        return answer.json()["data"]

    def spans(self, project):
        """The spans of a project, as plain values."""
        return self.get(f"projects/{project}/spans", limit=1000) or []

    def once(self, look):
        """What `found` gives, once that is true: Phoenix stores what it took a little later, and tells nobody."""
        ends_at = time.monotonic() + WAIT_S
        while not (result := look()):
            assert time.monotonic() < ends_at, f"it did not come; the end of Phoenix's log:\n{self.log_end()}"
            time.sleep(0.1)
        return result

    def log_end(self):
        return self.log.read_text(errors="replace")[-4000:]

    def _wait_until_ready(self):
        ends_at = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, f"Phoenix ended:\n{self.log_end()}"
            with contextlib.suppress(httpx.TransportError):
                if self._http.get("/healthz").is_success:
                    return
            assert time.monotonic() < ends_at, f"Phoenix is not ready after {START_S:g} s:\n{self.log_end()}"
            time.sleep(0.2)

    def _close(self):
        self._http.close()
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_S)


@contextlib.contextmanager
def serving_phoenix(folder: Path):
    """Phoenix with its data in this folder."""
    assert PYTHON.exists(), f"{PYTHON.relative_to(ROOT)} is not there: make test-phoenix sets it up"
    http_port, grpc_port = _free_ports(2)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PHOENIX_", "OTEL_", "PYTHON"))}
    settings = {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(http_port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_WORKING_DIR": str(folder / "data"),
        # Nothing but this machine is asked for anything.
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
    }
    log = folder / "phoenix.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PYTHON), str(LOOPBACK)],
            cwd=folder,
            env=plain | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    phoenix = Phoenix(process, f"http://127.0.0.1:{http_port}", grpc_port, log)
    try:
        phoenix._wait_until_ready()
        yield phoenix
    finally:
        phoenix._close()


def _free_ports(count):
    look = []
    for port in random.sample(PORTS, 200):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            look.append(port)
        if len(look) == count:
            return look
    raise AssertionError("no free port")
