"""Passes signals and cancellation requests from the store on to workflows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from offramp.core.failure import failure_of
from offramp.core.run import Outcome, RunRecord
from offramp.engines.temporal.body import WAKE
from offramp.engines.temporal.connection import Connection
from offramp.engines.temporal.hop import RPC_TIMEOUT_S
from offramp.errors import LeaseLost, RunCancelled, StoreError
from offramp.ports.bodies import BodyHost
from offramp.ports.clock import Clock
from offramp.ports.parts import Part
from offramp.ports.store import AssignedRuns, Runs

logger = logging.getLogger("offramp")


class Notices(Part):
    """Passes on the notices of one process at once, and periodically those that another process could not send.

    Args:
        connection: the connection to Temporal.
        store: runs.
        leases: of the same store.
        clock: time.
        host: ends a run that has no workflow.
        every_s: how often to look for notices that were not passed on.
    """

    def __init__(
        self, connection: Connection, store: Runs, leases: AssignedRuns, clock: Clock, host: BodyHost, every_s: float
    ) -> None:
        self._connection = connection
        self._store = store
        self._leases = leases
        self._clock = clock
        self._host = host
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to look periodically."""
        self._task = asyncio.create_task(self._pass_on_pending())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def pass_on(self, record: RunRecord) -> None:
        """Notify a run's workflow of its signals and cancellation; one that has not begun reads them then."""
        client = await self._connection.client()
        handle = client.get_workflow_handle(record.id)
        timeout = timedelta(seconds=RPC_TIMEOUT_S)
        try:
            if record.cancel_requested:
                await handle.cancel(rpc_timeout=timeout)
                found = await handle.describe(rpc_timeout=timeout)
                # A workflow that an operator terminated accepts a cancellation, and does nothing.
                if found.status not in {WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW}:
                    await self._end_without_workflow(record.id)
            else:
                await handle.signal(WAKE, rpc_timeout=timeout)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                logger.error("%s could not be notified yet: %s", record.id, error)  # noqa: TRY400 - tried again
                return
            if record.cancel_requested:
                await self._end_without_workflow(record.id)
        await self._leases.acknowledge_notice(record.id)

    async def _end_without_workflow(self, run_id: str) -> None:
        """End a run with a cancellation request whose workflow has not begun or was terminated by an operator."""
        claim = await self._leases.assign_to_engine(run_id, self._clock.time())
        if claim is not None:
            outcome = Outcome("cancelled", error=failure_of(RunCancelled("the run was cancelled")))
            with contextlib.suppress(LeaseLost):
                await self._host.conclude(claim, outcome)

    async def _pass_on_pending(self) -> None:
        """Pass on the notices that a process could not, as it died or Temporal was unavailable."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                for run_id in await self._leases.pending_notices():
                    record = await self._store.get(run_id)
                    if record is not None:
                        await self.pass_on(record)
            except StoreError as error:
                logger.error("%s", error)  # noqa: TRY400 - an operator's matter
            except Exception:  # the next look may succeed, and runs wait for it
                logger.exception("notices could not be passed on")
