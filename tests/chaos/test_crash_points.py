"""`offramp serve` is killed before and after the commit of each kind of write, under a load that makes all of them.

Afterwards everything that was acknowledged ends by itself, and the invariants are checked from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from offramp.stores.sqlite.crash_points import MARK, POINTS, VARIABLE
from tests.chaos.client import Asked, Client, Seen
from tests.chaos.invariants import violations
from tests.chaos.serving import GUARD_S, Serving

RECOVERY_S = 10.0
REACHED_WITHIN_S = 20.0

# Grouped to start fewer processes: one service goes through the points of its line one after the other.
GATEWAY = [
    ("submit", "event", "step"),
    ("sync", "adopt", "demoted"),
    ("deliver", "release", "park"),
    ("claim", "finish", "cancel"),
    ("signal", "register", "retire", "purge"),
]
WORKER = [("claim", "event", "step"), ("sync", "park", "finish"), ("release", "register")]


def load() -> list[Asked]:
    """A run of each kind that makes a write of its own."""
    return [
        Asked("fan", {"branches": 3, "seconds": 0.02}),
        Asked("sequence", {"steps": 4, "seconds": 0.15}, sla="brief"),
        Asked("sequence", {"steps": 4, "seconds": 0.1}, "deep", leaves_after=3),
        Asked("pays", {"steps": 2, "seconds": 0.05}, "deep"),
        Asked("approval", {}, "deep"),
        Asked("approval", {"seconds": 0.2}, sla="brief"),
        Asked("endless", {}, "deep", cancel_after=5),
    ]


class Attack:
    """A service that is brought down at one point after the other, while clients go on as if nothing happened."""

    def __init__(self, home: Path, client: Client, serving: Serving) -> None:
        self.home = home
        self.serving = serving
        self.seen: list[Seen] = []
        self._client = client
        self._clients: list[asyncio.Task[None]] = []

    async def crash_at(self, role: str, point: str, when: str) -> None:
        """Start, let clients come, and wait until the point was reached."""
        mark = self.home / f"reached-{role}-{point}-{when}"
        serving = self.serving
        serving.start(**{VARIABLE: f"{role}/{point}.{when}", MARK: str(mark), "OFFRAMP_PURGE_EVERY": "1"})
        if not await self._until(lambda: mark.exists() or serving.is_up(), GUARD_S):
            raise AssertionError(f"not ready in {GUARD_S} s:\n{serving.log.read_text()}")
        for asked in load():
            seen = Seen(asked)
            self.seen.append(seen)
            self._clients.append(asyncio.create_task(self._through(seen)))
        if (role, point) == ("worker", "release"):
            await asyncio.sleep(0.3)
            for pid in serving.worker_pids():
                os.kill(pid, signal.SIGTERM)
        elif point == "retire" and not mark.exists():  # else: whoever a crash before this one left behind
            serving.kill(serving.worker_pids()[0])
        reached = await self._until(mark.exists, REACHED_WITHIN_S)
        assert reached, f"{mark.name} within {REACHED_WITHIN_S} s:\n{serving.log.read_text()}"
        await self._until(lambda: mark.read_text() != "", GUARD_S)
        await asyncio.to_thread(serving.crashed, int(mark.read_text()))
        if role == "worker":
            # Its supervisor restarts it. Only the next start arms the next point.
            assert await asyncio.to_thread(serving.terminate) == 0, serving.log.read_text()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        ends_at = time.monotonic() + seconds
        while not await asyncio.to_thread(condition):
            if time.monotonic() > ends_at:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _through(self, seen: Seen) -> None:
        following = asyncio.ensure_future(self._client.follow(seen))
        if seen.asked.pipeline == "approval":
            while seen.run is None and not following.done():
                await asyncio.wait([following], timeout=0.02)
            await asyncio.wait([following], timeout=0.4)  # it is parked meanwhile
            await self._client.signal(str(seen.run), "approved", "yes")
            await self._client.signal(str(seen.run), "released", "now")
        await following

    async def recover(self) -> None:
        """Start without any crash: everything ends by itself, soon."""
        await asyncio.to_thread(self.serving.start)
        await asyncio.to_thread(self.serving.wait_until_up)
        _, late = await asyncio.wait(self._clients, timeout=RECOVERY_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for seen in self.seen:
            if seen.run is not None:
                await self._client.look_back(seen)
        assert await asyncio.to_thread(self.serving.terminate) == 0, self.serving.log.read_text()


@contextlib.asynccontextmanager
async def attack(home: Path):
    serving = Serving(home)
    try:
        async with Client(serving.url) as client:
            yield Attack(home, client, serving)
    finally:
        serving.close()


pytestmark = pytest.mark.timeout(300)  # each start of a service takes about a second of a core

CASES = [("gateway", points) for points in GATEWAY] + [("worker", points) for points in WORKER]


@pytest.mark.parametrize(("role", "points"), CASES, ids=[f"{role}-{'-'.join(points)}" for role, points in CASES])
async def test_a_crash_at_any_write_loses_and_repeats_nothing(tmp_path, role, points):
    async with attack(tmp_path) as under:
        for point in points:
            for when in ("before", "after"):
                await under.crash_at(role, point, when)
        await under.recover()
    found = violations(tmp_path, under.seen, under.serving.interruptions, under.serving.silent())
    assert not found, "\n".join(found)


def test_every_point_is_a_place_to_crash():
    assert {point for points in GATEWAY for point in points} == set(POINTS)


def test_a_point_that_is_not_there_is_refused_by_name(tmp_path):
    serving = Serving(tmp_path)
    try:
        serving.start(**{VARIABLE: "gateway/adobt.after"})
        assert serving._process.wait(GUARD_S) == 2
        told = serving.log.read_text()
        assert "adobt" in told
        assert "'adopt'" in told
        with pytest.raises(httpx.TransportError):
            httpx.get(serving.url)
    finally:
        serving.close()
