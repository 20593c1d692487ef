"""Steps that processes died with, while they execute in this one: the worst beside no other that has any deaths.

Of those that were in flight in a process that died, one may have killed it. Alone it does so again, the others do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from offramp.core.claims import SUSPECT_DEATHS


class Quarantine:
    """Used on one loop."""

    def __init__(self) -> None:
        self._inside: list[int] = []
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def place(self, deaths: int) -> AsyncIterator[None]:
        """Wait until a step with so many deaths may begin; it ends with the block."""
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
