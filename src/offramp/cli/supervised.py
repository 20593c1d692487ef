"""A gateway with worker processes, which start after its service and drain together with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from offramp.cli.scaler import Scaler
from offramp.cli.supervisor import Supervisor
from offramp.core.scaling import NONE, Span
from offramp.gateway.asgi import Gateway
from offramp.paths.crew import Keeping, Look
from offramp.ports.commit import call_threadsafe

if TYPE_CHECKING:
    from offramp.gateway.access import Access
    from offramp.paths.service import Service


class SupervisedGateway(Gateway):
    """Starts and stops its workers with its service.

    Args:
        service_factory: makes the service.
        supervisor_factory: makes the supervisor from the function that takes back the runs of a dead worker.
        access: admits requests.
        root_path: the prefix under which a proxy serves it.
        span: the bounds within which the number of workers follows the queue.
    """

    def __init__(
        self,
        service_factory: Callable[[], Service],
        supervisor_factory: Callable[[Callable[[str], Awaitable[int]]], Supervisor],
        access: Access | None = None,
        root_path: str = "",
        *,
        span: Span = NONE,
    ) -> None:
        super().__init__(service_factory, access, root_path=root_path)
        self._supervisor = supervisor_factory(self._retire)
        self._span = span
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Start the service, and the workers as soon as it has joined: all get ready at the same time."""
        self._loop = asyncio.get_running_loop()
        try:
            await super().open()
        except BaseException:
            await self._supervisor.stop()
            raise

    def _has_joined(self, service: Service) -> None:
        super()._has_joined(service)
        metrics, supervisor = service.metrics, self._supervisor
        supervisor.on_start, supervisor.on_end = metrics.worker_started, metrics.worker_ended
        supervisor.start()

        def changed(count: int) -> None:
            metrics.workers_wanted(count)
            service.crew.keeping = Keeping(count, self._span)

        changed(supervisor.count)
        if self._span.scales:
            scaler = Scaler(supervisor, self._span, service.settings.workers_idle, changed)
            service.roster.starting = scaler.starting

            def looked(look: Look) -> None:
                scaler.look(look)
                service.roster.starting = scaler.starting

            service.crew.on_look = lambda look: self._in_loop(lambda: looked(look))

    def present(self, ids: Collection[str]) -> None:
        """Report the processes that hold a lease; callable from any thread."""
        self._in_loop(lambda: self._supervisor.present(ids))

    def _in_loop(self, call: Callable[[], object]) -> None:
        if self._loop is not None:
            call_threadsafe(self._loop, call)

    async def drain(self) -> None:
        """Drain the service and the workers together; until all have left, everything can still be read."""
        ended = await asyncio.gather(super().drain(), self._supervisor.stop(), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def close(self) -> None:
        """Drain, then stop the service; until then it takes back the runs of a killed worker."""
        try:
            await self.drain()
        finally:
            await super().close()

    async def _retire(self, owner: str) -> int:
        service = self.service or self._beginning
        return 0 if service is None else await service.retire(owner)
