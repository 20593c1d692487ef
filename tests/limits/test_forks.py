"""A forked child shares nothing with its parent: it has a connection of its own, and holds nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from offramp.ports.limits import Ask, Granted
from tests.limits.processes import NAME
from tests.limits.sites import lives
from tests.support import GUARD_S, eventually

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def in_child(limits, report):
    """One permit; then wait to be killed."""
    granted = threading.Event()
    limits.ask(Ask(id="child", resource=NAME), lambda answer: isinstance(answer, Granted) and granted.set())
    os.write(report, b"granted" if granted.wait(GUARD_S) else b"nothing")
    signal.pause()


async def test_a_fork_asks_for_itself_and_its_death_is_its_own(place):
    limits = place.join()
    pid = await place.connected(limits)
    held = place.ask(limits)
    await held.grant()
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            in_child(limits, writes)
        finally:
            os._exit(1)
    try:
        os.close(writes)
        with os.fdopen(reads, "rb") as report:
            assert report.read(7) == b"granted"
        (level,) = await limits.levels()
        assert (level.in_use, limits.pid) == (2, pid)
    finally:
        os.kill(child, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, child, 0)
    await eventually_in_use(limits, 1)


async def test_a_fork_does_not_keep_the_connection_of_a_dead_parent(place):
    """The parent is a process of its own, whose child lives on."""
    limits = place.join()
    peer = await place.peer(0)
    parent = await place.peer(2)
    await eventually_in_use(limits, 2)
    assert lives(peer.pid)
    parent.stdin.write(b"fork\n")
    child = int((await parent.stdout.readline()).decode())
    try:
        parent.send_signal(signal.SIGKILL)
        await eventually_in_use(limits, 0)
        assert lives(child)
    finally:
        os.kill(child, signal.SIGKILL)


async def eventually_in_use(limits, count):
    async def right():
        (level,) = await limits.levels()
        return level.in_use == count

    await eventually(right)
