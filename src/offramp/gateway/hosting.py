"""The life of the service behind a gateway, and the runs that code of the same process starts in it.

Knows nothing of HTTP. A server's lifespan, a parent application's, or the first request starts the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from offramp.errors import LoopMismatch, NotStarted
from offramp.gateway.notice import StopNotice
from offramp.gateway.problems import NotReady
from offramp.paths.local import Handle, LocalRuntime

if TYPE_CHECKING:
    from offramp.paths.service import Service

_LAZY = (
    "the first request starts the gateway, because no lifespan did: it waits for the start, and nothing drains the "
    "gateway with its parent. Give the parent its lifespan: FastAPI(lifespan=gateway.lifespan), or enter "
    "gateway.lifespan() in the parent's own"
)
logger = logging.getLogger("offramp.gateway")


class Hosted:
    """A service that is started and stopped with a server or a parent application.

    Args:
        service_factory: makes the service; called at each start.
        drains_on_signal: whether the drain begins at the server's signal to stop, or with its lifespan's end.
    """

    def __init__(self, service_factory: Callable[[], Service], *, drains_on_signal: bool = False) -> None:
        self._make = service_factory
        self._notice = StopNotice(self._stopping) if drains_on_signal else None
        self._draining: asyncio.Task[None] | None = None
        self.on_joined: Callable[[], object] = lambda: None
        """Called once the service has joined the others; it may still have to get ready."""
        self._service: Service | None = None
        self._beginning: Service | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._holders = 0
        self._was_closed = False

    @property
    def service(self) -> Service | None:
        """The service while it runs, else None."""
        return self._service

    async def open(self) -> None:
        """Start the service unless it runs; it runs until `close` has been called as often as `open`."""
        self._holders += 1
        try:
            self._was_closed = False
            await self._started()
        except BaseException:
            self._holders -= 1
            self._was_closed = not self._holders
            raise

    @property
    def opening(self) -> str | None:
        """What a start by `open` does now, None while none is under way."""
        if self._service is not None or not self._holders:
            return None
        warming = getattr(self._beginning, "warming", None)
        return "starting" if warming is None else f"starting: {warming.doing}"

    async def close(self) -> None:
        """Undo one `open`; the last one drains and stops the service, whose streams end first."""
        self._holders = max(0, self._holders - 1)
        if self._holders:
            return
        self._was_closed = True
        async with self._lock:
            service = self._service
            if service is None:
                return
            try:
                await service.stop()
            finally:
                if self._notice is not None:
                    self._notice.leave()
                self._service = None
                self._left()

    async def drain(self) -> None:
        """Accept no more runs, hand over the running ones and end their streams; everything can still be read."""
        if self._service is not None:
            await self._service.drain()

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Run the service with a parent: `FastAPI(lifespan=gateway.lifespan)`.

        A parent with a lifespan of its own enters it there: `async with gateway.lifespan(): ...`. It may be entered
        more than once.
        """
        await self.open()
        try:
            yield
        finally:
            await self.close()

    async def start(self, pipeline: str, /, **inputs: Any) -> Handle:
        """Start a run from code beside the gateway, such as a handler of the parent, on the path the router chooses.

        It belongs to no tenant. The run does not end with the caller: a handler that is cancelled leaves it running.

        Args:
            pipeline: its name.
            inputs: its arguments.

        Raises:
            NotStarted: the gateway does not run.
            UnknownPipeline: no pipeline has that name.
            InputError: the arguments do not match its signature.
            Overloaded: the gateway drains, or has no room.
            LoopMismatch: it runs on another event loop.
        """
        if self._service is None:
            raise NotStarted(
                f"start({pipeline!r}): the gateway does not run. Its lifespan starts it: "
                "FastAPI(lifespan=gateway.lifespan), or `async with gateway.lifespan():` in the parent's own"
            )
        return await LocalRuntime(await self._started()).start(pipeline, **inputs)

    async def run(self, pipeline: str, /, **inputs: Any) -> Any:
        """Start a run as `start` does, and wait for its end, also beyond a demotion.

        Returns:
            The pipeline's value, typed as annotated.

        Raises:
            Exception: as `start`, and as `Handle.result`.
        """
        return await (await self.start(pipeline, **inputs)).result()

    async def _started(self) -> Service:
        if self._service is None:
            self._require_open()
            async with self._lock:
                if self._service is None:
                    self._require_open()
                    if not self._holders:
                        logger.warning(_LAZY)
                    service = self._beginning = self._make()
                    self._made(service)
                    await self._begin(service)
                    self._loop, self._service = asyncio.get_running_loop(), service
                    self._joined(service)
                    if self._notice is not None:
                        self._notice.watch()
        if self._loop is not asyncio.get_running_loop():
            raise LoopMismatch(
                "the gateway was started on another event loop; in tests, use TestClient(app) as a context manager"
            )
        return self._service

    def _stopping(self, reason: str) -> None:
        logger.info("%s: draining", reason)
        self._draining = asyncio.create_task(self._drain_now())

    async def _drain_now(self) -> None:
        try:
            await self.drain()
        except Exception:
            logger.exception("the drain failed; another process recovers the remaining runs")

    def _require_open(self) -> None:
        if self._was_closed:
            raise NotReady("the gateway is stopping; try again, another one accepts new requests")

    async def _begin(self, service: Service) -> None:
        try:
            await service.start()
        except BaseException:
            with contextlib.suppress(Exception):
                await service.stop()
            raise
        finally:
            self._beginning = None

    def _made(self, service: Service) -> None:
        """Take what is needed from a service that starts now."""
        service.on_joined = lambda: self._has_joined(service)

    def _has_joined(self, _service: Service) -> None:
        """Go on while the service gets ready."""
        self.on_joined()

    def _joined(self, service: Service) -> None:
        """Take what is needed from a service that runs from now on."""

    def _left(self) -> None:
        """Let go of the service, which has stopped."""
