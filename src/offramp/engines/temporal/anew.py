"""Restarts the workflow of a body that does not repeat its history, from the run's journal, which decides.

Temporal matches commands by their order, a journal matches calls by their key. So the code that all engines share
judges a body that Temporal calls nondeterministic: the run continues if the journal fits, and otherwise ends `failed`
with `divergence`, which names both calls. Only the history is discarded.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.common import RawValue, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowInstanceDetails

from offramp.core.journal import mark
from offramp.engines.temporal.connection import RETRY_EVERY_S, Connection
from offramp.engines.temporal.hop import RPC_TIMEOUT_S, Hop
from offramp.engines.temporal.payloads import Start, read
from offramp.errors import ObjectsUnavailable, StoreError
from offramp.ports.store import Store

if TYPE_CHECKING:
    from temporalio.bridge.proto.workflow_activation import WorkflowActivation
    from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

logger = logging.getLogger("offramp")

_SAID = re.compile(r'\[TMPRL1100\][^"]*')


class Strayed(NamedTuple):
    """A workflow whose body did not repeat its history; `execution` is Temporal's id of that history."""

    run_id: str
    execution: str
    why: str


class WatchedRunner(UnsandboxedWorkflowRunner):
    """Temporal's own runner without its sandbox; reports bodies that differ from their history.

    Args:
        strayed: called with each such body, from any thread.
    """

    def __init__(self, strayed: Callable[[Strayed], object]) -> None:
        self._strayed = strayed

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See `WorkflowRunner`."""
        return _Watched(super().create_instance(det), self._strayed)


class _Watched(WorkflowInstance):
    def __init__(self, instance: WorkflowInstance, strayed: Callable[[Strayed], object]) -> None:
        self._instance = instance
        self._strayed = strayed

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        for job in act.jobs:
            if job.HasField("remove_from_cache"):
                removed = job.remove_from_cache
                if removed.reason == type(removed).EvictionReason.NONDETERMINISM:
                    info = self._instance.get_info()
                    found = _SAID.search(removed.message)
                    why = removed.message if found is None else found[0]
                    self._strayed(Strayed(info.workflow_id, info.run_id, why))
        return self._instance.activate(act)

    def get_serialization_context(self, command_info: Any) -> Any:
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self._instance.get_external_store_context(command_info)

    def get_info(self) -> Any:
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()


class Anew:
    """Restarts workflows, in one process, on its control loop."""

    def __init__(self, connection: Connection, hop: Hop, store: Store) -> None:
        self._connection = connection
        self._hop = hop
        self._store = store
        self._under_way: set[str] = set()

    async def begin(self, strayed: Strayed) -> None:
        """Restart the workflow from the journal. If this process dies meanwhile, Temporal gives the task to another."""
        if strayed.execution in self._under_way:
            return
        self._under_way.add(strayed.execution)
        try:
            while not await self._begun(strayed):  # noqa: ASYNC110 - nothing tells of Temporal's return
                await asyncio.sleep(RETRY_EVERY_S)
        finally:
            self._under_way.discard(strayed.execution)

    async def _begun(self, strayed: Strayed) -> bool:
        try:
            client = await self._connection.client()
            record = await self._store.get(strayed.run_id)
            newest = await client.get_workflow_handle(strayed.run_id).describe(rpc_timeout=_RPC_TIMEOUT)
            if record is None or record.finished or newest.run_id != strayed.execution:
                return True
            diverged = "%s differs from its Temporal history and restarts from its journal: %s"
            logger.warning(diverged, strayed.run_id, strayed.why)
            start = await _known_start(client, strayed)
            await self._hop.begin(client, record, start, conflict=WorkflowIDConflictPolicy.TERMINATE_EXISTING)
        except (RPCError, StoreError, ObjectsUnavailable) as error:
            if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                return True
            logger.error("%s cannot be restarted yet: %s", strayed.run_id, error)  # noqa: TRY400 - tried again
            return False
        return True


_RPC_TIMEOUT = timedelta(seconds=RPC_TIMEOUT_S)


async def _known_start(client: Client, strayed: Strayed) -> Start:
    """The start of the new history: that of the old one, with the order in which its body saw results."""
    start: Start | None = None
    calls: dict[int, str] = {}
    seen: list[str] = []
    handle = client.get_workflow_handle(strayed.run_id, run_id=strayed.execution)
    async for event in handle.fetch_history_events(rpc_timeout=_RPC_TIMEOUT):
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            start = read(RawValue(event.workflow_execution_started_event_attributes.input.payloads[0]), Start)
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            calls[event.event_id] = event.activity_task_scheduled_event_attributes.activity_id
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            seen.append(mark(calls[event.activity_task_completed_event_attributes.scheduled_event_id]))
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            seen.append(mark(calls[event.activity_task_failed_event_attributes.scheduled_event_id]))
    assert start is not None, "a history without its start"  # noqa: S101 - Temporal has none
    return msgspec.structs.replace(start, fresh=False, keyed=True, anew=True, seen=seen)
