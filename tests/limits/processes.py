"""What the tests of the coordinator share: limits of a data directory, and processes that hold permits there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from pathlib import Path

from offramp.core.limits.spec import ResourceSpec
from offramp.execution.clock import SystemClock
from offramp.limits import address
from offramp.limits.client import SocketLimits
from offramp.ports.limits import Ask, Granted, Refused
from tests.limits.sites import lives
from tests.support import GUARD_S, eventually

ROOT = Path(__file__).resolve().parents[2]
NAME = "openai"
THREE = (ResourceSpec(NAME, concurrency=3),)
ONE = (ResourceSpec(NAME, concurrency=1),)


class Answers:
    """What one ask was answered."""

    def __init__(self, permit_id):
        self.id = permit_id
        self.all = []

    def __call__(self, answer):
        self.all.append(answer)

    @property
    def granted(self):
        return any(isinstance(each, Granted) for each in self.all)

    @property
    def refused(self):
        return next((each for each in self.all if isinstance(each, Refused)), None)

    async def grant(self):
        await eventually(lambda: self.granted)


class Place:
    """A data directory, whose processes and coordinators end with the test."""

    def __init__(self, folder):
        self.data = folder
        self.folder = folder / address.FOLDER
        self.clock = SystemClock()
        self._joined = []
        self._peers = []
        self._pids = set()
        self._numbers = itertools.count()

    def join(self, specs=THREE, *, classes=None, declared_at=None, **given):
        """A process, in this one."""
        at = self.clock.time() if declared_at is None else declared_at
        limits = SocketLimits(self.data, specs, classes or {}, self.clock, at, **given)
        limits.start()
        self._joined.append(limits)
        return limits

    async def connected(self, limits, *, not_to=None):
        """The id of the coordinator that it is connected to."""
        await eventually(lambda: limits.pid not in {None, not_to})
        self._pids.add(limits.pid)
        return limits.pid

    def ask(self, limits, **given):
        """Ask for a permit of the resource."""
        answers = Answers(f"run-{next(self._numbers):06}")
        limits.ask(Ask(id=answers.id, resource=NAME, **given), answers)
        return answers

    async def peer(self, count):
        """A process of its own that holds so many permits."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.limits.peer", str(self.data), str(count)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        self._peers.append(process)
        async with asyncio.timeout(GUARD_S):
            for _ in range(count):
                assert await process.stdout.readline() == b"granted\n"
        return process

    async def close(self):
        for process in self._peers:
            if process.returncode is None:
                process.kill()
            await process.wait()
            process.stdin.close()
        self._pids |= {limits.pid for limits in self._joined} - {None}
        if (holder := address.holder(self.data)) is not None:
            self._pids.add(holder)
        for limits in self._joined:
            await asyncio.to_thread(limits.close)
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGTERM)
        await eventually(lambda: not any(map(lives, self._pids)))
