"""`app.asgi()` under other servers: a stop of the server is a drain, with streams that end in order."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.gateway.site import app
from tests.gateway.wire import parse_sse
from tests.support import eventually

ROOT = Path(__file__).resolve().parents[2]
PORT, TARGET = "PORT", "TARGET"
SERVERS = {
    "uvicorn": ["uvicorn", "--port", PORT, TARGET],
    "uvicorn with workers": ["uvicorn", "--port", PORT, "--workers", "2", TARGET],
    "gunicorn": ["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", f"127.0.0.1:{PORT}", TARGET],
    "hypercorn": ["hypercorn", "-b", f"127.0.0.1:{PORT}", "--graceful-timeout", "30", TARGET],
    "granian": ["granian", "--interface", "asgi", "--port", PORT, TARGET],
}
WAIT_S = 30
ENDS = {0, -signal.SIGTERM}
"""Exit codes: uvicorn ends, after its shutdown, by the signal that it got."""


class Site:
    """A server with the site, and the streams of runs that wait in it."""

    def __init__(self, server: str, name: str, folder: Path, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        target = f"tests.gateway.site:{name}"
        command = [part.replace(PORT, port).replace(TARGET, target) for part in SERVERS[server]]
        self.folder = folder
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={**os.environ, "SITE_DATA": str(folder / "data"), **environment},
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{port}" + ("/agents" if name == "site" else "")

    def wait_until_ready(self) -> None:
        ends_at = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends_at, self.log.read_text()
            time.sleep(0.02)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)


@pytest.fixture
def serve(tmp_path):
    sites = []

    def start(server, name, **environment):
        sites.append(Site(server, name, tmp_path, **environment))
        sites[-1].wait_until_ready()
        return sites[-1]

    yield start
    for site in sites:
        site.close()


class Stream(threading.Thread):
    """Reads the stream of a new run to its end."""

    def __init__(self, url: str, gate: Path, *, follow: bool) -> None:
        super().__init__(daemon=True)
        self._url, self._body = url, {"input": {"gate": str(gate)}, "follow": follow}
        self.text = b""
        self.changed = threading.Condition()
        self.start()

    def run(self) -> None:
        url, accept = f"{self._url}/v1/pipelines/wait/runs", {"Accept": "text/event-stream"}
        with httpx.stream("POST", url, json=self._body, headers=accept, timeout=60, trust_env=False) as answer:
            for part in answer.iter_bytes():
                with self.changed:
                    self.text += part
                    self.changed.notify_all()

    def events(self) -> dict[str, dict]:
        whole = self.text[: self.text.rfind(b"\n\n") + 2]
        return {kind: json.loads(data) for _, kind, data in parse_sse(whole)[0]}

    def wait_for(self, kind: str) -> dict:
        with self.changed:
            assert self.changed.wait_for(lambda: kind in self.events(), WAIT_S), self.text
        return self.events()[kind]

    def wait_for_end(self) -> None:
        self.join(WAIT_S)
        assert not self.is_alive(), self.text


@pytest.mark.parametrize(
    ("server", "name"),
    [
        *((server, "site") for server in SERVERS),
        ("uvicorn", "gateway"),
        ("hypercorn", "gateway"),
        ("granian", "gateway"),
    ],
)
def test_at_sigterm_streams_are_demoted_at_once_and_end_with_the_handover_of_their_run(serve, tmp_path, server, name):
    site = serve(server, name)
    gates = [tmp_path / "gate-1", tmp_path / "gate-2"]
    short, following, first = (
        Stream(site.url, gates[1], follow=False),
        Stream(site.url, gates[1], follow=True),
        Stream(site.url, gates[0], follow=True),
    )
    for stream in (short, following, first):
        stream.wait_for("step.started")

    site.process.send_signal(signal.SIGTERM)
    for stream in (short, following, first):
        assert stream.wait_for("run.demoted")["reason"] == "drain"
    short.wait_for_end()
    gates[0].touch()
    first.wait_for_end()
    assert following.is_alive()
    gates[1].touch()
    following.wait_for_end()
    assert site.process.wait(WAIT_S) in ENDS, site.log.read_text()


def test_streams_end_with_the_drain_timeout_at_the_latest(serve, tmp_path):
    site = serve("uvicorn", "gateway", OFFRAMP_DRAIN_TIMEOUT="0.5")
    following = Stream(site.url, tmp_path / "never", follow=True)
    following.wait_for("step.started")
    site.process.send_signal(signal.SIGTERM)
    assert following.wait_for("run.demoted")["reason"] == "drain"
    following.wait_for_end()
    assert "run.completed" not in following.events()
    assert site.process.wait(WAIT_S) in ENDS


class TestHandlers:
    """What becomes of a process's own signal handlers."""

    @pytest.fixture
    def received(self):
        received = []
        before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
        yield received
        signal.signal(signal.SIGTERM, before)

    async def test_the_servers_handler_is_called_too_and_is_back_at_the_end(self, received, tmp_path):
        theirs = signal.getsignal(signal.SIGTERM)
        gateway = app.asgi(data=tmp_path)
        async with gateway.lifespan():
            service = gateway.service
            assert signal.getsignal(signal.SIGTERM) is not theirs
            signal.raise_signal(signal.SIGTERM)
            await eventually(lambda: service.readiness.takes_runs() == (False, "stopping"))
            assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is theirs

    async def test_a_handler_that_replaced_it_meanwhile_stays(self, received, tmp_path):
        async with app.asgi(data=tmp_path).lifespan():
            newer = lambda _number, _frame: None  # noqa: E731
            signal.signal(signal.SIGTERM, newer)
        assert signal.getsignal(signal.SIGTERM) is newer

    @pytest.mark.parametrize("theirs", [signal.SIG_DFL, signal.SIG_IGN])
    async def test_a_signal_that_the_server_does_not_handle_is_left_alone(self, received, tmp_path, theirs):
        signal.signal(signal.SIGTERM, theirs)
        async with app.asgi(data=tmp_path).lifespan():
            assert signal.getsignal(signal.SIGTERM) is theirs

    async def test_it_can_be_switched_off(self, received, tmp_path):
        theirs = signal.getsignal(signal.SIGTERM)
        async with app.asgi(data=tmp_path, drain_on_signal=False).lifespan():
            assert signal.getsignal(signal.SIGTERM) is theirs
