"""The harnesses of the limits: in one process, and over the socket of a coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

from offramp.errors import NotSupported
from offramp.execution.clock import SystemClock
from offramp.limits.client import SocketLimits
from offramp.limits.local import LocalLimits
from tests.support import eventually


class _AloneSite:
    def __init__(self, make):
        self._make = make
        self._made = None

    async def join(self):
        if self._made is not None:
            raise NotSupported("limits in one process are not shared; use a data directory")
        self._made = self._make()
        return self._made

    async def kill(self, _limits):
        raise NotSupported("its limits die with this process")

    async def crash(self):
        raise NotSupported("its limits die with this process")

    async def close(self):
        if self._made is not None:
            self._made.close()


class Alone:
    """One process that is alone."""

    name = "alone"
    capabilities = frozenset()

    def __init__(self, made=LocalLimits):
        self._made = made

    async def meet(self, specs, classes):
        return _AloneSite(lambda: self._made(specs, classes, SystemClock()))


class _SocketSite:
    def __init__(self, make):
        self._folder = Path(tempfile.mkdtemp(prefix="offramp-limits-"))
        self._make = make
        self._joined = []

    async def join(self):
        limits = self._make(self._folder)
        limits.start()
        self._joined.append(limits)
        return limits

    async def kill(self, limits):
        """What a coordinator sees of a death: its connection ends."""
        await asyncio.to_thread(limits.close)

    async def crash(self):
        (pid,) = {limits.pid for limits in self._joined if limits.pid is not None}
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: all(limits.pid != pid for limits in self._joined))

    async def close(self):
        pids = {limits.pid for limits in self._joined} - {None}
        for limits in self._joined:
            await asyncio.to_thread(limits.close)
        for pid in pids:  # it would wait for another process, some seconds
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        await eventually(lambda: not any(map(lives, pids)))
        shutil.rmtree(self._folder)


def lives(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Socket:
    """Processes that share a data directory: several in this one, each with a connection of its own."""

    name = "socket"
    capabilities = frozenset({"shared", "successor"})

    def __init__(self, made=SocketLimits):
        self._made = made

    async def meet(self, specs, classes):
        clock = SystemClock()
        return _SocketSite(lambda folder: self._made(folder, specs, classes, clock, clock.time()))


ALONE = Alone()
SOCKET = Socket()
LIMITS = [ALONE, SOCKET]
