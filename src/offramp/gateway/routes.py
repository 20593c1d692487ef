"""Which path and method goes to which endpoint, and what a path that is not served gets. One table."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from starlette.routing import compile_path
from starlette.types import Scope

from offramp.core.names import did_you_mean
from offramp.gateway import catalog, docs, health, levels, openapi, runs, signals, streams, ws
from offramp.gateway.access import Guard
from offramp.gateway.call import Call
from offramp.gateway.problems import MethodNotAllowed, UnknownPath, UpgradeRequired
from offramp.gateway.reply import Answer

Endpoint = Callable[[Call], Awaitable[Answer]]
SOCKET = "WEBSOCKET"
UNMATCHED = "unmatched"
PATH_LENGTH_SHOWN = 200


class Route(NamedTuple):
    """One endpoint.

    `needs_service` is False where it answers even while nothing is started. `guard` says who may ask.
    """

    method: str
    template: str
    endpoint: Endpoint
    needs_service: bool = True
    guard: Guard = "key"


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/pipelines/{name}/runs", runs.submit),
    Route("GET", "/v1/runs/{run_id}", runs.show),
    Route("GET", "/v1/runs/{run_id}/events", streams.events),
    Route("GET", "/v1/runs/{run_id}/result", runs.result),
    Route(SOCKET, "/v1/runs/{run_id}/ws", ws.socket),
    Route("POST", "/v1/runs/{run_id}/cancel", runs.cancel),
    Route("POST", "/v1/runs/{run_id}/signals/{name}", signals.send),
    Route("GET", "/v1/runs", runs.listing),
    Route("GET", "/v1/pipelines", catalog.pipelines),
    Route("GET", "/v1/pipelines/{name}", catalog.pipeline),
    Route("GET", "/v1/slo", levels.report),
    Route("GET", "/healthz", health.alive, needs_service=False, guard="health"),
    Route("GET", "/readyz", health.ready, guard="health"),
    Route("GET", "/metrics", health.metrics, needs_service=False, guard="operator"),
    Route("GET", "/openapi.json", openapi.document, guard="public"),
    Route("GET", "/docs", docs.page, needs_service=False, guard="public"),
)


class Table:
    """The routes, compiled; `find` is linear in their number, which is small and ordered by use.

    Attributes:
        guards: who may ask for what, by the template of the path.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        paths: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = paths.setdefault(route.template, {})
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route
        self._paths: list[tuple[re.Pattern[str], dict[str, Route]]] = [
            (compile_path(template)[0], methods) for template, methods in paths.items()
        ]
        self.guards: dict[str, Guard] = {route.template: route.guard for route in routes}
        self._templates = [template for template, methods in paths.items() if SOCKET not in methods]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, Any]]:
        """The route, and what its template took from the path.

        Raises:
            UnknownPath: nothing is served there.
            MethodNotAllowed: only other methods are.
            UpgradeRequired: only WebSockets are.
        """
        for pattern, methods in self._paths:
            match = pattern.match(path)
            if match is None:
                continue
            route = methods.get(method)
            if route is not None:
                return route, match.groupdict()
            if SOCKET in methods and method in {"GET", "HEAD"}:
                raise UpgradeRequired("connect here with a WebSocket; for HTTP use the run's events")
            if method != SOCKET:
                allow = ", ".join(sorted(methods)).replace(SOCKET, "GET")
                raise MethodNotAllowed(f"{method} is not allowed here; use {allow}", allow)
        shown = path[:PATH_LENGTH_SHOWN]
        raise UnknownPath(f"nothing is served at {shown!r}; {did_you_mean(shown, self._templates)}")


def mounted_at(scope: Scope) -> tuple[str, str]:
    """The prefix this gateway is reached under, and the path below it.

    Servers and Starlette put the prefix into `path` as well as into `root_path`; behind a proxy that strips its
    own prefix, `path` has only what Starlette added.
    """
    root = scope.get("root_path", "").rstrip("/")
    path: str = scope["path"]
    if not root:
        return "", path
    mount = root.removeprefix(scope.get("app_root_path", "").rstrip("/"))
    for prefix in (root, mount):
        if prefix and (path == prefix or path.startswith(prefix + "/")):
            return quote(root), path[len(prefix) :] or "/"
    return quote(root), path
