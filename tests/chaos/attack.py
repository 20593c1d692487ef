"""A service that is brought down at one named point after the other, under load, and has to recover by itself.

What it asserts does not depend on how fast the machine is: a point that was not reached is tried for again, and only
what was really killed is expected to be gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from offramp.stores.sqlite.crash_points import MARK, VARIABLE
from tests.chaos.client import Asked, Client, Seen
from tests.chaos.invariants import violations
from tests.chaos.serving import GUARD_S, Serving


class Attack:
    """Crashes, while clients go on as if nothing happened.

    Args:
        client: what arrives.
        serving: what is brought down.
        load: what clients ask for before each crash; it makes the writes at which the service is brought down.
    """

    def __init__(self, client: Client, serving: Serving, load: Callable[[], Sequence[Asked]]) -> None:
        self.serving = serving
        self.seen: list[Seen] = []
        self._client = client
        self.load = load
        self._clients: list[asyncio.Task[None]] = []

    async def crash_at(self, role: str, point: str, when: str) -> None:
        """Start, and let clients come until the point was reached."""
        serving = self.serving
        mark = serving.home / f"reached-{role}-{point}-{when}"
        serving.start(**{VARIABLE: f"{role}/{point}.{when}", MARK: str(mark), "OFFRAMP_PURGE_EVERY": "1"})
        await self.until(lambda: mark.exists() or serving.is_up() or not serving.alive)
        assert mark.exists() or serving.alive, f"not ready:\n{serving.log.read_text()}"
        ends_at = time.monotonic() + GUARD_S
        while not mark.exists():
            assert time.monotonic() < ends_at, f"{mark.name} within {GUARD_S} s:\n{serving.log.read_text()}"
            here = self.come()
            stopped = await self._provoke(role, point, here)
            try:
                await self.until(lambda here=here: mark.exists() or (here and all(task.done() for _, task in here)))
            finally:
                for pid in stopped:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
        await self.until(lambda: mark.read_text() != "")
        await asyncio.to_thread(serving.crashed, int(mark.read_text()))
        if role == "worker":
            # Its supervisor restarts it. Only the next start arms the next point.
            assert await asyncio.to_thread(serving.terminate) == 0, serving.log.read_text()

    def come(self) -> list[tuple[Seen, asyncio.Task[None]]]:
        """Let clients come: what each sees, and the task that follows its run to the end."""
        here = []
        for asked in self.load():
            seen = Seen(asked)
            here.append((seen, asyncio.create_task(self._through(seen))))
        self.seen += [seen for seen, _ in here]
        self._clients += [task for _, task in here]
        return here

    async def _provoke(self, role: str, point: str, here: list[tuple[Seen, asyncio.Task[None]]]) -> list[int]:
        """Some writes are made only when something happens to a worker: the ids of the workers it stopped."""
        if (role, point) == ("gateway", "claim"):
            # It claims what is cancelled before a worker has begun it.
            stopped = self.serving.worker_pids()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            here += self.come()
            return stopped
        if (role, point) not in {("worker", "release"), ("worker", "survive"), ("gateway", "retire")}:
            return []
        await self.until(lambda: any(seen.asked.how == "deep" and seen.first("step.started") for seen, _ in here))
        for pid in self.serving.worker_pids():
            if point == "release":
                os.kill(pid, signal.SIGTERM)
            else:
                self.serving.kill(pid)
        return []

    async def until(self, condition: Callable[[], object]) -> bool:
        """Whether it comes about."""
        ends_at = time.monotonic() + GUARD_S
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

    async def recover(self, within_s: float) -> None:
        """Start without any crash: everything ends by itself, and all of it is announced."""
        await asyncio.to_thread(self.serving.start)
        await asyncio.to_thread(self.serving.wait_until_up)
        _, late = await asyncio.wait(self._clients, timeout=within_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self.until(lambda: not self.serving.left_to_announce())
        for seen in self.seen:
            if seen.outcome is not None:
                await self._client.look_back(seen)
        assert await asyncio.to_thread(self.serving.terminate) == 0, self.serving.log.read_text()

    def violations(self) -> list[str]:
        """Everything that is not as it must be; after `recover`."""
        return violations(self.serving.home, self.seen, self.serving.interruptions, self.serving.silent())


@contextlib.asynccontextmanager
async def attack(home: Path, load: Callable[[], Sequence[Asked]], **settings: object) -> AsyncIterator[Attack]:
    """An attack on a service in this folder."""
    serving = Serving(home, **settings)
    try:
        async with Client(serving.url) as client:
            yield Attack(client, serving, load)
    finally:
        serving.close()
