"""Moves a run to its workflow: the process with the lease starts it, and shares the run while steps are in flight.

A shared run changes hands in this order: the workflow starts and waits; this process writes only its steps in flight
from then on; the store gives the run to the engine; a signal lets the workflow continue. If the process dies meanwhile,
either the lease expires and the run is handed over like any other, or the workflow sees that its gateway is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import (
    PinnedVersioningOverride,
    Priority,
    WorkerDeploymentVersion,
    WorkflowIDConflictPolicy,
)
from temporalio.service import RPCError, RPCStatusCode

from offramp.core.run import RunRecord
from offramp.engines.temporal.address import Address
from offramp.engines.temporal.connection import CLOSE_S_MAX, RETRY_EVERY_S, Connection
from offramp.engines.temporal.held import DELIVERED, GO
from offramp.engines.temporal.payloads import Held, Start, raw
from offramp.errors import ObjectsUnavailable, StoreError
from offramp.ports.bodies import PAYLOAD_BYTES_MAX, Facts
from offramp.ports.clock import Clock
from offramp.ports.engine import Sharing
from offramp.ports.parts import Part
from offramp.ports.store import AssignedRuns, Lease

logger = logging.getLogger("offramp")

RPC_TIMEOUT_S = 10.0
SHARE_S_MAX = 2.0
"""The time for Temporal to take a run beside its steps in flight; after that it takes the run once they have ended."""


class Hop(Part, Sharing):
    """Moves the runs of one process; used on its control loop.

    Args:
        connection: the connection to Temporal.
        address: names the task queue.
        leases: the leases of the runs.
        clock: time.
        owner: this process among the leases.
        takes_large: whether payloads may be of any size.
    """

    def __init__(
        self,
        connection: Connection,
        address: Address,
        leases: AssignedRuns,
        clock: Clock,
        owner: str,
        *,
        takes_large: bool = False,
    ) -> None:
        self._input_bytes_max = math.inf if takes_large else PAYLOAD_BYTES_MAX
        self._connection = connection
        self._task_queue = address.task_queue
        # With Worker Versioning, the deployment decides which build a new run begins on.
        self._begins_here = not address.build_id
        self._pinned: PinnedVersioningOverride | None = None
        if address.build_id:
            self._pinned = PinnedVersioningOverride(WorkerDeploymentVersion(address.deployment, address.build_id))
        self._leases = leases
        self._clock = clock
        self._owner = owner
        self._signalling: set[asyncio.Task[None]] = set()

    async def begin(
        self,
        client: Client,
        record: RunRecord,
        start: Start,
        signal: str | None = None,
        within_s: float = RPC_TIMEOUT_S,
        conflict: WorkflowIDConflictPolicy = WorkflowIDConflictPolicy.USE_EXISTING,
    ) -> None:
        """Start a run's workflow, unless it exists; send it the signal, if one is given, in any case.

        A workflow that replaces an existing one (`conflict`) stays with the build of this process.

        A workflow without anything to wait for begins in this process, if it works: its first task comes with the
        answer.

        Raises:
            RPCError: Temporal refuses, or cannot be reached.
            ObjectsUnavailable: a large input cannot be stored.
        """
        await client.start_workflow(
            record.pipeline,
            args=[start, raw(record.input)],
            id=record.id,
            task_queue=self._task_queue,
            id_conflict_policy=conflict,
            search_attributes=self._connection.found_by(record),
            priority=_priority(record),
            start_signal=signal,
            request_eager_start=self._begins_here and signal is None and start.held is None,
            rpc_timeout=timedelta(seconds=within_s),
            versioning_override=self._pinned if start.anew else None,
        )

    async def share(self, record: RunRecord, in_flight: list[str], detach: Callable[[], bool]) -> Lease | None:
        """See the engine port; None while Temporal is unavailable."""
        client = self._connection.known
        if client is None or len(record.input) > self._input_bytes_max:
            return None
        try:
            start = Start(Facts.of(record), fresh=False, held=Held(self._owner, in_flight), keyed=True, timers=True)
            await self.begin(client, record, start, within_s=SHARE_S_MAX)
        except (RPCError, ObjectsUnavailable) as error:
            # If it was started nevertheless, it waits until the run is handed over like any other.
            logger.info("%s will be handed to Temporal once its steps in this process have ended: %s", record.id, error)
            return None
        lease = await self.assigned(record.id) if detach() else None
        self._signal(record.id, GO)
        return lease

    async def assigned(self, run_id: str) -> Lease | None:
        """Assign the run to the engine, however long the store is unavailable; None if it has ended."""
        while True:
            try:
                claim = await self._leases.assign_to_engine(run_id, self._clock.time())
            except StoreError as error:
                logger.error("%s cannot be shared yet: %s", run_id, error)  # noqa: TRY400 - an operator's matter
                await asyncio.sleep(RETRY_EVERY_S)
            else:
                return None if claim is None else claim.lease

    async def delivered(self, run_id: str) -> None:
        """A step has ended here: make its body look at once, as it would after a while by itself."""
        self._signal(run_id, DELIVERED)

    async def close(self) -> None:
        """Wait, for a bounded time, until all signals are sent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                while self._signalling:
                    await asyncio.wait(self._signalling)

    def _signal(self, run_id: str, signal: str) -> None:
        task = asyncio.get_running_loop().create_task(self.send(run_id, signal))
        self._signalling.add(task)
        task.add_done_callback(self._signalling.discard)

    async def send(self, run_id: str, signal: str) -> None:
        """Signal the workflow of a run, until Temporal answers."""
        client = await self._connection.client()
        while True:
            try:
                await client.get_workflow_handle(run_id).signal(signal, rpc_timeout=timedelta(seconds=RPC_TIMEOUT_S))
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return
                await asyncio.sleep(RETRY_EVERY_S)
            else:
                return


def _priority(record: RunRecord) -> Priority:
    """Temporal's priorities are 1 to 5, lower first, 3 by default; tenants get fair shares."""
    return Priority(priority_key=min(5, max(1, 3 - record.priority)), fairness_key=record.tenant or None)
