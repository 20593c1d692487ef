"""The connection to a Temporal service: one client per process, made when first needed, however long that takes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from datetime import timedelta
from typing import NamedTuple

from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, GetSystemInfoRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError

from offramp.core.run import RunRecord
from offramp.engines.temporal.address import Address
from offramp.engines.temporal.objects import converter
from offramp.ports.blobs import Blobs
from offramp.ports.parts import Part

logger = logging.getLogger("offramp")

RETRY_EVERY_S = 0.5
"""The interval between attempts to reach Temporal."""
CLOSE_S_MAX = 2.0
"""The time after its drain in which a process may still send to Temporal, or leave it."""
BACKLOG_S_MAX = 5.0
"""The time in which Temporal has to say how many steps wait."""
ATTRIBUTES = {name: SearchAttributeKey.for_keyword(f"Offramp{name}") for name in ("Session", "Class", "Tenant")}
"""Search attributes in Temporal's UI, beside the workflow's type (the pipeline's name) and id (the run's id)."""


class Connection(Part):
    """A process's client.

    Args:
        address: the address of the service.
        api_key: empty if the service needs none.
        identity: the name of this process in Temporal.
        blobs: the store of payloads that are too large; None without one.
    """

    def __init__(self, address: Address, api_key: str, identity: str, blobs: Blobs | None = None) -> None:
        self._blobs = blobs
        self._address = address
        self._api_key = api_key
        self._identity = identity
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self.attributes: list[str] = []
        """The search attributes that the namespace has."""
        self._task: asyncio.Task[Client] | None = None

    async def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self.client())

    async def close(self) -> None:
        """Stop trying to connect."""
        if self._task is not None:
            self._task.cancel()

    @property
    def known(self) -> Client | None:
        """The client, None until it is made."""
        return self._client

    async def client(self) -> Client:
        """The client; waits while Temporal is unavailable."""
        async with self._connecting:
            reported = False
            while self._client is None:
                try:
                    client = await connect(self._address, self._api_key, self._identity, self._blobs)
                    self.attributes = await _attributes_of(client, add=True)
                    self._client = client
                except (RPCError, RuntimeError) as error:
                    if not reported:
                        where = self._address.target
                        logger.error("Temporal at %s cannot be reached: %s; trying again", where, error)  # noqa: TRY400
                    reported = True
                    await asyncio.sleep(RETRY_EVERY_S)
        return self._client

    def forget_attributes(self) -> bool:
        """Set no more search attributes; False if none were set before."""
        known, self.attributes = self.attributes, []
        return bool(known)

    def found_by(self, record: RunRecord) -> TypedSearchAttributes:
        """The search attributes of a run, limited to those that the namespace has."""
        values = {"Session": record.session_id, "Class": record.sla, "Tenant": record.tenant}
        return TypedSearchAttributes(
            [SearchAttributePair(ATTRIBUTES[name], value) for name in self.attributes if (value := values[name])]
        )


async def connect(address: Address, api_key: str, identity: str | None = None, blobs: Blobs | None = None) -> Client:
    """One attempt to connect.

    Raises:
        RuntimeError: the service cannot be reached.
        RPCError: the service refuses.
    """
    return await Client.connect(
        address.target,
        namespace=address.namespace,
        api_key=api_key or None,
        tls=address.tls_config() if address.tls else (None if api_key else False),
        data_converter=converter(blobs),
        identity=identity,
        runtime=_runtime(),
    )


async def backlog(client: Client, task_queue: str) -> int:
    """How many steps wait in a task queue, about; Temporal counts each of its partitions.

    Raises:
        RPCError: the service does not answer.
    """
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        report_stats=True,
    )
    answer = await client.workflow_service.describe_task_queue(request, timeout=timedelta(seconds=BACKLOG_S_MAX))
    return answer.stats.approximate_backlog_count


class Survey(NamedTuple):
    """A service: its version, the pollers of the task queue, and which of our search attributes it has."""

    version: str
    pollers: list[str]
    attributes: list[str]


async def survey(address: Address, api_key: str, within_s: float) -> Survey:
    """Inspect a service without changing it.

    Raises:
        RuntimeError: it cannot be reached, or refuses.
        TimeoutError: it does not answer in time.
    """
    async with asyncio.timeout(within_s):
        client = await connect(address, api_key)
        timeout = timedelta(seconds=within_s)
        service = client.workflow_service
        info = await service.get_system_info(GetSystemInfoRequest(), timeout=timeout)
        queue = await service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace,
                task_queue=TaskQueue(name=address.task_queue),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
            ),
            timeout=timeout,
        )
        pollers = sorted({poller.identity for poller in queue.pollers})
        return Survey(info.server_version, pollers, await _attributes_of(client, add=False))


@functools.cache
def _runtime() -> Runtime:
    """Temporal's runtime: one per process, as it brings threads and metrics; it logs through the process's logging."""
    where = LogForwardingConfig(logging.getLogger("offramp.temporal"))
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="ERROR", forwarding=where)))


async def _attributes_of(client: Client, *, add: bool) -> list[str]:
    """Which of our search attributes the namespace has; `add` adds the missing ones, if permitted."""
    wanted = {key.name: name for name, key in ATTRIBUTES.items()}
    with contextlib.suppress(RPCError):
        operator = client.operator_service
        listed = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        missing = set(wanted) - set(listed.custom_attributes)
        if missing and add:
            kinds = dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
            await operator.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes=kinds)
            )
            missing = set()
        return [name for key, name in wanted.items() if key not in missing]
    if add:
        logger.info("Temporal cannot search runs by session, class and tenant: its search attributes cannot be set")
    return []
