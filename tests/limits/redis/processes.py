"""Processes that share limits over a server: several in this one, each with its own connections, and real ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path

from offramp.core.limits.spec import resource_spec
from offramp.limits.redis import RedisLimits
from offramp.limits.redis.scripts import QUIET_S
from offramp.ports.limits import Ask, Granted, Refused, Waits
from offramp.stores.redis.address import Address
from tests.support import GUARD_S, eventually

ROOT = Path(__file__).resolve().parents[3]
NAME = "openai"
SOON_S = 1.5
"""In the place of `QUIET_S`."""


def limit(**given):
    return (resource_spec(NAME, **given),)


TWO = limit(concurrency=2)


class Answers:
    """What one ask was answered."""

    def __init__(self, permit_id):
        self.id = permit_id
        self.all = []

    def __call__(self, answer):
        self.all.append(answer)

    def _first(self, kind):
        return next((each for each in self.all if isinstance(each, kind)), None)

    @property
    def granted(self):
        return self._first(Granted)

    @property
    def refused(self):
        return self._first(Refused)

    @property
    def waits(self):
        return self._first(Waits)

    async def grant(self):
        await eventually(lambda: self.granted)

    async def refusal(self):
        await eventually(lambda: self.refused)
        return self.refused

    async def wait(self):
        await eventually(lambda: self.waits)
        return self.waits


class Place:
    """A store on a server, whose processes end with the test."""

    def __init__(self, server):
        self.server = server
        self.url = server.url()
        self.address = Address.parse(self.url)
        self.clients = self.address.key_of("lim", "clients")
        self._joined, self._peers = [], []
        self._numbers = itertools.count()

    async def settled(self):
        """Until the server no longer counts as new, after which its missing data may have been lost."""
        with self.server.client() as client:
            await eventually(lambda: client.info("server")["uptime_in_seconds"] >= QUIET_S)

    def join(self, specs=TWO, *, classes=None, port=None, **given):
        """A process, in this one."""
        url = self.url if port is None else self.url.replace(f":{self.server.port}/", f":{port}/")
        made = RedisLimits(Address.parse(url), specs, classes or {}, **given)
        self._joined.append(made)
        return made

    def ask(self, limits, resource=NAME, **given):
        """Ask for a permit."""
        answers = Answers(f"run-{next(self._numbers):06}")
        limits.ask(Ask(id=answers.id, resource=resource, **given), answers)
        return answers

    async def level(self, limits, name=NAME):
        return next(level for level in await limits.levels() if level.name == name)

    def expire(self, *owners):
        """The leases of these processes are over, as far as the server knows."""
        with self.server.client() as client:
            for own in owners:
                client.zadd(self.clients, {own: 1.0}, xx=True)

    async def peer(self, count, **spec):
        """A process of its own that asks for permits; returns once it has them."""
        made = await Peer.start(self.url, count, spec)
        self._peers.append(made)
        return made

    async def close(self):
        for peer in self._peers:
            await peer.kill()
        for limits in self._joined:
            await asyncio.to_thread(limits.close)


class Peer:
    """A process of its own: `python -m tests.limits.redis.peer`."""

    def __init__(self, process):
        self._process = process
        self.pid = process.pid
        self.own = ""

    @classmethod
    async def start(cls, url, count, spec):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.limits.redis.peer", url, str(count), json.dumps(spec)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        made = cls(process)
        made.own = await made.line()
        for _ in range(count):
            assert await made.line() == "granted"
        return made

    async def line(self):
        async with asyncio.timeout(GUARD_S):
            return (await self._process.stdout.readline()).decode().strip()

    async def says(self, word):
        self._process.stdin.write(f"{word}\n".encode())
        await self._process.stdin.drain()
        return await self.line()

    def signal(self, number):
        os.kill(self.pid, number)

    async def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


KILL, STOP, CONTINUE = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
