"""The ASGI application: alone, mounted in another one, or inside `offramp serve`.

Owns a request's way: find the route, admit it, call its endpoint, meter and send the answer. `hosting.py` owns the
service's life.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from offramp.core.keys import Key, shown_tenant
from offramp.core.quotas import Quota
from offramp.core.run import is_run_id
from offramp.core.shares import Tenancy
from offramp.errors import InputError
from offramp.gateway.access import Access, Rule
from offramp.gateway.call import Call, ClientGone
from offramp.gateway.cors import Sharing, is_preflight
from offramp.gateway.health import OPERATIONS
from offramp.gateway.hosting import Hosted
from offramp.gateway.metering import Meter
from offramp.gateway.native.surface import NATIVE
from offramp.gateway.problems import NotReady, explain
from offramp.gateway.quota_fields import WithQuota
from offramp.gateway.refusal import Denied
from offramp.gateway.reply import Answer
from offramp.gateway.routes import UNMATCHED, Table, mounted_at
from offramp.gateway.surface import SOCKET, Route, Surface
from offramp.gateway.tickets import Tickets, withdraw
from offramp.ports import readers

if TYPE_CHECKING:
    from offramp.paths.service import Service
    from offramp.telemetry.tracing import RequestTrace, Tracing

CLIENT_GONE_STATUS = 499
"""In metrics only: the client left before the answer began (nginx's number)."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", SOCKET})
logger = logging.getLogger("offramp.gateway")


class Gateway(Hosted):
    """An ASGI application that serves the pipelines of one service.

    At top level the server's lifespan starts and drains the service. Parents do not forward theirs to what they mount:
    pass the parent `lifespan=gateway.lifespan`. Without it the first request starts the service, with a warning.

    Args:
        service_factory: makes the service; called at each start.
        access: admits requests; by default every one.
        surfaces: more protocols to serve, beside the native API.
        drains_on_signal: whether the drain begins at the server's signal to stop, or with its lifespan's end.
        root_path: the prefix under which a proxy serves it.

    Attributes:
        access: admits requests, and counts open streams.
    """

    def __init__(
        self,
        service_factory: Callable[[], Service],
        access: Access | None = None,
        surfaces: Sequence[Surface] = (),
        *,
        drains_on_signal: bool = False,
        root_path: str = "",
    ) -> None:
        super().__init__(service_factory, drains_on_signal=drains_on_signal)
        self.access = access or Access()
        self._root_path = root_path
        self._table = Table((NATIVE, *surfaces, OPERATIONS))
        shared = [surface for surface in (NATIVE, *surfaces) if surface.cross_origin is not None]
        self._sharing = [(surface, Sharing(surface, self.access.origins)) for surface in shared]
        self._tickets = Tickets(self.access)
        self._meter = Meter()
        self._tracing: Tracing | None = None

    def _made(self, service: Service) -> None:
        super()._made(service)
        self.access.divide(getattr(service, "tenancy", Tenancy()))

    def _joined(self, service: Service) -> None:
        self._meter.show()
        self._meter.include(getattr(service, "collectors", ()))
        self._tracing = getattr(service, "tracing", None)

    def _left(self) -> None:
        self._meter.include(())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, WebSocket or lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        request = _Request(scope, self._table, self._root_path)
        answer: Answer
        refused: Exception | None = None
        try:
            answer = await self._answer(request, receive)
        except ClientGone:
            self._answered(request, CLIENT_GONE_STATUS)
            if request.trace is not None:
                request.trace.end(CLIENT_GONE_STATUS)
            return
        except Exception as error:  # noqa: BLE001 - the caller gets an answer for every error
            problem, refused = explain(error), error
            reply = request.surface.render(problem)
            answer = Denied(problem, reply) if request.method == SOCKET else reply
            self._trace(request)
        if request.quota is not None and self._service is not None:
            answer = WithQuota(answer, request.quota, self._service, refused)
        self._answered(request, answer.status)
        try:
            sharing = None if is_preflight(scope) else self._shares(request)
            await (answer if sharing is None else sharing.around(answer))(scope, receive, send)
        finally:
            if request.trace is not None:
                request.trace.end(answer.status)

    async def _answer(self, request: _Request, receive: Receive) -> Answer:
        scope = request.scope
        sharing = self._shares(request)
        if sharing is not None and is_preflight(scope):
            return await sharing.preflight(scope, receive)
        request.surface, route, scope["path_params"] = self._table.find(request.method, request.path)
        request.template, request.route = route.template, request.prefix + route.template
        connection = HTTPConnection(scope)
        key = await self._admit(request, route, connection)
        readers.tenant.set(None if key is None else key.tenant)
        if not route.waits and self.opening is not None:
            raise NotReady(self.opening)
        service = await self._started() if route.needs_service else self._service
        self._trace(request)
        call = Call(
            connection,
            receive,
            request.prefix,
            self._meter,
            service,
            self.access,
            self._table.rules,
            key,
            request.trace,
        )
        if request.trace is not None:
            request.trace.of_tenant(shown_tenant(call.tenant))
        return await route.endpoint(call)

    async def _admit(self, request: _Request, route: Route, connection: HTTPConnection) -> Key | None:
        """The key of an admitted request, or the one that its ticket was made with."""
        given = request.tickets if "authorization" not in connection.headers else ()
        if given and route.takes_ticket:
            self.access.admit(connection, Rule("public"))
            return await self._tickets.redeem(given, connection.path_params["run_id"], await self._started())
        key = self.access.admit(connection, route.rule)
        request.quota = None if key is None else key.quota
        if request.tickets and not route.takes_ticket:
            message = "a ticket opens only the events and the WebSocket of its run"
            raise InputError(message, [("/query/ticket", message)])
        return key

    def _shares(self, request: _Request) -> Sharing | None:
        """What pages of other origins may use of the request's surface, if they may."""
        if not self.access.origins or not request.surface.covers(request.path):
            return None
        return next((sharing for surface, sharing in self._sharing if surface is request.surface), None)

    def _trace(self, request: _Request) -> None:
        """Open the request's span, once, if its path is below its surface."""
        if self._tracing is None or request.trace is not None or not request.surface.covers(request.path):
            return
        scope, method = request.scope, "GET" if request.method == SOCKET else _shown(request.method)
        request.trace = self._tracing.request(scope, method, request.route, request.began_ns)
        run_id = scope.get("path_params", {}).get("run_id", "")
        if is_run_id(run_id):
            request.trace.of_run(run_id)

    def _answered(self, request: _Request, status: int) -> None:
        self._meter.answered(_shown(request.method), request.template, status, time.perf_counter() - request.began)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol (ASGI specification, Lifespan)."""
        await receive()
        try:
            await self.open()
        except Exception as error:
            logger.exception("the gateway did not start")
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self.close()
        except Exception as error:
            logger.exception("the gateway did not stop cleanly")
            await send({"type": "lifespan.shutdown.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.shutdown.complete"})


class _Request:
    """One request on its way: when it began, its surface and route, its key's limits, and its span if it has one."""

    def __init__(self, scope: Scope, table: Table, root_path: str) -> None:
        self.scope = scope
        self.tickets = withdraw(scope)
        self.prefix, self.path = mounted_at(scope, root_path)
        self.surface = table.owner(self.path)
        self.method: str = SOCKET if scope["type"] == "websocket" else scope["method"]
        self.template = UNMATCHED
        self.route: str | None = None
        self.quota: Quota | None = None
        self.trace: RequestTrace | None = None
        self.began = time.perf_counter()
        self.began_ns = time.time_ns()


def _shown(method: str) -> str:
    """A method as a label; clients could invent any number of others."""
    return method if method in _METHODS else "other"


def create_asgi(
    service_factory: Callable[[], Service],
    access: Access | None = None,
    *,
    drains_on_signal: bool = False,
    root_path: str = "",
) -> Gateway:
    """The gateway of the service that `service_factory` makes; see `Gateway`."""
    return Gateway(service_factory, access, drains_on_signal=drains_on_signal, root_path=root_path)
