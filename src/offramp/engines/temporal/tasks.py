"""The engine's background tasks for single runs, on the loop that it was started on."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import Any

from offramp.ports.parts import Part

logger = logging.getLogger("offramp")


class Tasks(Part):
    """Starts coroutines from any thread, and cancels those still running when the process leaves."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Accept coroutines from now on."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Cancel what runs."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def begin(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Execute a coroutine soon; a failure is logged. From any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            coroutine.close()
        elif asyncio._get_running_loop() is loop:  # noqa: SLF001 - get_running_loop raises where none is
            self._begin(coroutine)
        else:
            loop.call_soon_threadsafe(self._begin, coroutine)

    def _begin(self, coroutine: Coroutine[Any, Any, object]) -> None:
        # In an empty context: the coroutine does not belong to the body that requested it.
        task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a background task of the engine failed", exc_info=task.exception())
