"""How the conformance suites open the adapters of this folder; see docs/contributing/adapters.md.

python -m offramp.conformance examples.adapters.harness:MEMORY examples.adapters.harness:ONE_PROCESS
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from examples.adapters.engine import LOOK_EVERY_S, OneProcessEngine
from offramp.conformance.harness import Capabilities, EngineHarness, HostOf, StoreHarness, StoreInstance
from offramp.core.shares import Tenancy
from offramp.errors import NotSupported
from offramp.ports.parts import close_all, drain_all, start_all
from offramp.stores.memory import MemoryStore
from offramp.testing import FakeClock

TURNS = 20
"""Of the event loop, after which everything has happened that needs no more time."""


class OpenMemory:
    """The store as one process has it open."""

    def __init__(self) -> None:
        self.store = self.leases = MemoryStore()
        self.outbox = self.store.outbox

    async def close(self) -> None:
        await self.store.close()


class Memory:
    """The store in memory, which no second process reaches and which dies with its process."""

    name = "memory"
    capabilities: Capabilities = frozenset({"signals", "purge", "webhooks"})

    async def open(self) -> OpenMemory:
        return OpenMemory()

    async def reopen(self, instance: StoreInstance) -> OpenMemory:
        raise NotSupported("a store in memory has one process")

    async def crash(self, instance: StoreInstance) -> OpenMemory:
        raise NotSupported("a store in memory leaves nothing behind")


class Process:
    """The process that runs the engine."""

    def __init__(self, engine: OneProcessEngine, store: MemoryStore) -> None:
        self.engine = engine
        self.store = store

    async def stop(self) -> None:
        await drain_all(self.engine.parts)
        await close_all(self.engine.parts)

    async def kill(self) -> None:
        raise NotSupported("there is no other process to see it")

    mute = kill


class Site:
    """Fresh data under a clock that jumps."""

    notice_s = LOOK_EVERY_S
    takeover_s = 2 * LOOK_EVERY_S
    queue_max = 12
    queue_limits: ClassVar[dict[str, int]] = {"scarce": 3}

    def __init__(self) -> None:
        self.tenancy = Tenancy(0.5)
        self._clock = FakeClock()
        self._processes: list[Process] = []

    def now(self) -> float:
        return self._clock.time()

    async def advance(self, seconds: float) -> None:
        end = self.now() + seconds
        while self.now() < end:
            self._clock.advance(min(LOOK_EVERY_S, end - self.now()))
            for _ in range(TURNS):
                await asyncio.sleep(0)

    async def join(self, owner: str, host_of: HostOf, *, works: bool = True) -> Process:
        if self._processes:
            raise NotSupported("this engine has one process")
        store = MemoryStore()
        host = host_of(store)
        store.on_lost(host.lost)
        engine = OneProcessEngine(owner, store, store, self._clock, host, works=works)
        engine.queue_max, engine.tenancy = self.queue_max, self.tenancy
        engine.queue_limits = self.queue_limits
        await start_all(engine.parts)
        self._processes.append(Process(engine, store))
        return self._processes[0]

    async def close(self) -> None:
        for process in self._processes:
            await process.stop()


class OneProcess:
    """The engine of this folder."""

    name = "one process"
    capabilities: Capabilities = frozenset({"signals"})

    async def open(self) -> Site:
        return Site()


MEMORY: StoreHarness = Memory()
ONE_PROCESS: EngineHarness = OneProcess()
