"""Isolates suspect steps: the worst of them execute beside no other step that processes have died with.

Any step in flight may have crashed the process; rerunning suspects in isolation identifies the culprit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from offramp.core.claims import SUSPECT_DEATHS


class Quarantine:
    """The suspect steps that execute in this process; used on one loop."""

    def __init__(self) -> None:
        self._inside: list[int] = []
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def place(self, deaths: int) -> AsyncIterator[None]:
        """Wait until a step with so many deaths may begin; it executes in the block."""
        if not deaths:
            yield
            return
        while self._inside and max(deaths, *self._inside) >= SUSPECT_DEATHS:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        self._inside.append(deaths)
        try:
            yield
        finally:
            self._inside.remove(deaths)
            woken, self._waiting = self._waiting, []
            for future in woken:
                if not future.done():
                    future.set_result(None)
