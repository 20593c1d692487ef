"""What the servers that tests start share: a port, a wait until they answer, and an end with the test process."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import random
import shutil
import socket
import tempfile
import time

PORTS = (20_000, 30_000)
"""Below the ephemeral ports: polling one of those before the server is up can connect to itself."""
SHARES = 10
"""Processes that run tests at a time, each with ports of its own."""


@functools.cache
def _ports():
    """This process's share, from anywhere in it on: what runs beside these tests may use the same ones.

    A port that was free a moment ago may be another process's by the time a server binds it, so no two processes ever
    look at the same one; and one that a server has left for a while, to come back to it, is not given away.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    share = range(*PORTS)[worker::SHARES]
    start = random.SystemRandom().randrange(len(share))
    return itertools.cycle([*share[start:], *share[:start]])


def free_port(below=PORTS[1]):
    """One that this process was not given before, smaller than `below` if that is given."""
    for port in itertools.islice(_ports(), len(range(*PORTS)) // SHARES):
        with socket.socket() as probe:
            try:
                if port < below:
                    probe.bind(("127.0.0.1", port))
                    return port
            except OSError:
                continue
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
