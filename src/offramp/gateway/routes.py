"""Which surface, path and method go to which endpoint, and what a path that is not served gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.routing import compile_path
from starlette.types import Scope

from offramp.core.names import did_you_mean
from offramp.gateway.access import Rule
from offramp.gateway.problems import MethodNotAllowed, UnknownPath, UpgradeRequired
from offramp.gateway.surface import SOCKET, Route, Surface

UNMATCHED = "unmatched"
PATH_LENGTH_SHOWN = 200


class Table:
    """The routes of all surfaces, compiled; `find` is linear in their number, which is small and ordered by use.

    Args:
        surfaces: the first one also answers for paths that belong to none.

    Attributes:
        rules: which requests are admitted, by method and template of the path.

    Raises:
        ValueError: two surfaces have the same route.
    """

    def __init__(self, surfaces: Sequence[Surface]) -> None:
        paths: dict[str, dict[str, tuple[Surface, Route]]] = {}
        for surface in surfaces:
            for route in surface.routes:
                methods = paths.setdefault(route.template, {})
                if route.method in methods:
                    raise ValueError(f"two surfaces serve {route.method} {route.template}")
                methods[route.method] = surface, route
                if route.method == "GET":
                    methods["HEAD"] = surface, route
        self._surfaces = tuple(surfaces)
        self._paths = [(compile_path(template)[0], methods) for template, methods in paths.items()]
        self.rules: dict[tuple[str, str], Rule] = {
            (route.method, route.template): route.rule for each in surfaces for route in each.routes
        }
        self._templates = [template for template, methods in paths.items() if SOCKET not in methods]

    def owner(self, path: str) -> Surface:
        """The surface that renders errors for `path` as long as no route is known."""
        return max(self._surfaces, key=lambda surface: surface.covers(path))

    def find(self, method: str, path: str) -> tuple[Surface, Route, dict[str, Any]]:
        """The route with its surface, and what its template took from the path.

        Raises:
            UnknownPath: nothing is served there.
            MethodNotAllowed: only other methods are.
            UpgradeRequired: only WebSockets are.
        """
        for pattern, methods in self._paths:
            match = pattern.match(path)
            if match is None:
                continue
            if method in methods:
                return *methods[method], match.groupdict()
            if SOCKET in methods and method in {"GET", "HEAD"}:
                raise UpgradeRequired("connect here with a WebSocket; for HTTP use the run's events")
            if method != SOCKET:
                allow = ", ".join(sorted(methods)).replace(SOCKET, "GET")
                raise MethodNotAllowed(f"{method} is not allowed here; use {allow}", allow)
        shown = path[:PATH_LENGTH_SHOWN]
        raise UnknownPath(f"nothing is served at {shown!r}; {did_you_mean(shown, self._templates)}")


def mounted_at(scope: Scope, root_path: str = "") -> tuple[str, str]:
    """The prefix under which clients reach this gateway, and the path below it.

    `root_path`, the gateway's own, begins the prefix unless the server says so too; the path may begin with it.
    """
    prefix, path = _mounted_at(scope)
    if root_path and not _is_below(root_path, prefix):
        prefix = root_path + prefix
        if _is_below(root_path, path):
            path = path[len(root_path) :] or "/"
    return prefix, path


def _is_below(prefix: str, path: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


def _mounted_at(scope: Scope) -> tuple[str, str]:
    """The same without the gateway's own.

    Servers and Starlette put the prefix into both `path` and `root_path`. Behind a proxy that strips its own prefix,
    `path` contains only what Starlette added.
    """
    root = scope.get("root_path", "").rstrip("/")
    path: str = scope["path"]
    if not root:
        return "", path
    mount = root.removeprefix(scope.get("app_root_path", "").rstrip("/"))
    for prefix in (root, mount):
        if prefix and _is_below(prefix, path):
            return quote(root), path[len(prefix) :] or "/"
    return quote(root), path
