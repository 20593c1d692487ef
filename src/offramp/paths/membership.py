"""A process as a member of the engine that drives its deep runs."""

from __future__ import annotations

from typing import Protocol

from offramp.paths.health import Taking
from offramp.paths.parts import Part
from offramp.paths.process import Process
from offramp.ports.engine import Engine


class JoinedEngine(Engine, Taking, Protocol):
    """An engine that this process is a member of."""

    async def open(self) -> None:
        """Join."""

    async def stop_taking(self) -> None:
        """Take no further run."""

    async def close(self) -> None:
        """Leave."""

    async def retire(self, owner: str) -> int:
        """Release what a dead process held."""

    def has_room(self) -> None:
        """A run ended here."""


class Membership(Part):
    """Joins the engine, takes no further run from it, leaves it.

    Args:
        process: the member.
        engine: which it joins; its coroutines run on the control loop.
    """

    def __init__(self, process: Process, engine: JoinedEngine) -> None:
        self._control = process.control
        self._engine = engine
        self._is_open = False

    async def start(self) -> None:
        self._is_open = True
        await self._control.run(self._engine.open())

    async def drain(self) -> None:
        await self._engine.stop_taking()

    async def close(self) -> None:
        if self._is_open:
            await self._control.run(self._engine.close())
