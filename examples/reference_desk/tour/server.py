"""The server of the demonstration: a real `offramp serve`, started, waited for, and stopped again."""

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

START_SECONDS_MAX = 30.0
"""Longest time until the server is ready."""

STOP_SECONDS_MAX = 20.0
"""Longest time for the server to drain and exit after SIGTERM."""

# Below 32768: above, the system assigns ports to outgoing connections.
_PORTS = range(20_000, 32_000)
_PORT_TRIES_MAX = 50
_LOG_LINES_SHOWN = 20


class ServerError(Exception):
    """The server failed to start; the message ends with its last lines of output."""


@dataclass
class Server:
    """A running server; `log` is the file its output goes to."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    stop_problem: str | None = field(default=None, init=False)

    def wait_until_ready(self) -> float:
        """Return the seconds until `/readyz` returned 200. Raises ServerError if the server exits or is slow."""
        started = time.monotonic()
        while (waited := time.monotonic() - started) < START_SECONDS_MAX:
            if self.process.poll() is not None:
                message = f"the server exited with code {self.process.returncode} before it was ready"
                raise ServerError(self.with_log(message))
            if _answers(f"{self.url}/readyz"):
                return waited
            time.sleep(0.05)
        message = f"the server was not ready within {START_SECONDS_MAX:.0f} s"
        raise ServerError(self.with_log(message))

    def stop(self) -> None:
        """Send SIGTERM and wait; kill the server if it does not exit. `stop_problem` describes any problem."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.stop_problem = self.with_log(f"the server did not stop within {STOP_SECONDS_MAX:.0f} s of SIGTERM")
        else:
            if code != 0:
                self.stop_problem = self.with_log(f"the server stopped with exit code {code}, expected 0")

    def with_log(self, message: str) -> str:
        """Append the server's last lines of output to a message."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        return "\n".join([f"{message}; its last output:", *(f"  {line}" for line in lines or ["(none)"])])


def command(target: str, port: int, data: Path, options: Sequence[str] = ()) -> list[str]:
    """Return the command that a person would type, with this Python."""
    serve = [sys.executable, "-m", "offramp", "serve", target]
    return [*serve, "--port", str(port), "--data", str(data), "--workers", "1", *options]


@contextmanager
def running(arguments: Sequence[str], *, port: int, folder: Path, log: Path, env: dict[str, str]) -> Iterator[Server]:
    """Run the server for the duration of the block, and stop it however the block ends."""
    with log.open("wb") as output:
        # In its own session, so that Ctrl-C reaches only this process and the server stops once.
        process = subprocess.Popen(  # noqa: S603 (our own command)
            arguments, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(process=process, url=f"http://127.0.0.1:{port}", log=log)
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """Return a free port."""
    for port in random.sample(_PORTS, _PORT_TRIES_MAX):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    message = f"found no free port between {_PORTS.start} and {_PORTS.stop} in {_PORT_TRIES_MAX} tries"
    raise ServerError(message)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).is_success
    except httpx.TransportError:
        return False
