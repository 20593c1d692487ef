"""A toy limiter before attempts, a toy breaker around them, and an app with a step in each lane."""

from __future__ import annotations

import asyncio
from collections import deque

from offramp import App, Retry, current_run
from offramp.core.attempts import Failed
from offramp.execution.context import current
from tests.support import Signal

app = App("seams")
BACKUP = "backup"


def _use(fails):
    """What a step does: fail so many times, then say in which attempt and with which target it succeeds."""
    number = current_run().attempt
    if number <= fails:
        raise ValueError(f"attempt {number} failed")
    return f"{number} {current.get().target}"


@app.step(retry=Retry(attempts=3, base=0.0), timeout=30)
async def loop(fails: int) -> str:
    return _use(fails)


@app.step(retry=Retry(attempts=3, base=0.0), timeout=30)
def thread(fails: int) -> str:
    return _use(fails)


@app.step(retry=Retry(attempts=3, base=0.0), timeout=30, lane="process")
def process(fails: int) -> str:
    return _use(fails)


STEPS = {"loop": loop, "thread": thread, "process": process}
LANES = list(STEPS)


@app.pipeline(budget=60)
async def fast(lane: str, fails: int = 0) -> str:
    return await STEPS[lane](fails)


@app.pipeline(budget=0)
async def deep(lane: str, fails: int = 0) -> str:
    return await STEPS[lane](fails)


class Limiter:
    """Admits one attempt for each permit, in order; used on one loop, but for `grant`."""

    def __init__(self, permits=0):
        self.free = permits
        self.asked = []
        self.given_up = 0
        self.waits = Signal()
        self.gave_up = Signal()
        self._waiting = deque()

    async def admit(self, asked, says):
        self.asked.append(asked)
        if self.free:
            self.free -= 1
            return self._give_back
        says("a permit")
        self._loop = asyncio.get_running_loop()
        permit = self._loop.create_future()
        self._waiting.append(permit)
        self.waits.set()
        try:
            await permit
        except BaseException:
            self.given_up += 1
            if permit.done() and not permit.cancelled():
                self._give_back()
            self.gave_up.set()
            raise
        return self._give_back

    def _give_back(self):
        while self._waiting:
            permit = self._waiting.popleft()
            if not permit.done():
                permit.set_result(None)
                return
        self.free += 1

    def grant(self):
        """One more permit, from any thread."""
        self._loop.call_soon_threadsafe(self._give_back)


class CircuitOpen(Exception):
    """The breaker did not let the attempt through."""


class Breaker:
    """Counts failures; after two of them it refuses the attempt, or picks another target where there is one."""

    def __init__(self, backup=None):
        self.backup = backup
        self.asked = []
        self.failures = 0

    async def around(self, asked, run):
        self.asked.append(asked)
        is_open = self.failures >= 2
        if is_open and self.backup is None:
            return Failed(CircuitOpen(f"{self.failures} failures"))
        outcome = await run(self.backup if is_open else None)
        self.failures += isinstance(outcome, Failed)
        return outcome
