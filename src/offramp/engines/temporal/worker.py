"""Executes bodies and steps in this process for Temporal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from temporalio.client import Client
from temporalio.worker import Worker

from offramp.engines.leased.taking import Taking
from offramp.engines.temporal.connection import CLOSE_S_MAX, RETRY_EVERY_S, Connection
from offramp.ports.parts import Part

logger = logging.getLogger("offramp")


class BodyWorker(Part):
    """One process's worker. While it polls Temporal, this process takes runs and hands them over.

    Args:
        connection: the connection to Temporal.
        taking: the claim loop of this process.
        new_worker: makes one of Temporal's workers.
    """

    def __init__(self, connection: Connection, taking: Taking, new_worker: Callable[[Client], Worker]) -> None:
        self._connection = connection
        self._taking = taking
        self._new_worker = new_worker
        self._worker: Worker | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Execute bodies and steps as soon as Temporal is reachable."""
        self._task = asyncio.create_task(self._work())

    async def drain(self) -> None:
        """Take no more work; steps under way get their grace to end, then other workers have them."""
        self._stopping = True
        if self._worker is not None:
            await self._worker.shutdown()

    async def close(self) -> None:
        """Leave Temporal."""
        with contextlib.suppress(TimeoutError):  # Temporal is unavailable, and learns nothing
            async with asyncio.timeout(CLOSE_S_MAX):
                await self.drain()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        """Execute until `drain`; another worker replaces one that fails."""
        while not self._stopping:
            try:
                await self._poll(await self._connection.client())
            except Exception as error:  # noqa: BLE001 - whatever it is, runs wait for a worker
                logger.error("the worker for Temporal failed: %s; starting another", error)  # noqa: TRY400
            if not self._stopping:
                await self._taking.pause()
                await asyncio.sleep(RETRY_EVERY_S)

    async def _poll(self, client: Client) -> None:
        """Poll Temporal with one worker, and take runs meanwhile, until it ends."""
        worker = self._new_worker(client)
        await self._taking.begin()  # first: if the store refuses, no worker has begun anything
        if self._stopping:
            return
        self._worker = worker
        try:
            await worker.run()
        finally:
            self._worker = None
