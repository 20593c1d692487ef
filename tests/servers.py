"""What the servers that tests start share: a port, a wait until they answer, and an end with the test process."""

from __future__ import annotations

import atexit
import random
import shutil
import socket
import tempfile
import time

PORTS = (20_000, 30_000)
"""Below the ephemeral ports: polling one of those before the server is up can connect to itself."""


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


def wait_for(process, answers, log, what, within_s, every_s=0.05):
    """Until the server answers; fails with the end of its log if it ends instead, or takes too long."""
    ends = time.monotonic() + within_s
    while not answers():
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < ends, f"the {what} server was not ready in time"
        time.sleep(every_s)


def until_exit(make, name):
    """A server that is killed, and its folder removed, when this process ends."""
    folder = tempfile.mkdtemp(prefix=f"offramp-{name}-")
    made = make(folder)

    def stop():
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return made
