"""Lets pages of allowed origins use a surface: answers preflight requests and adds headers to answers (Fetch, CORS).

Starlette's middleware owns the protocol. This decides for which surface, and puts a refusal in the surface's form.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import SAFELISTED_HEADERS, CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope

from offramp.gateway.problems import OriginRefused
from offramp.gateway.reply import Answer, Reply
from offramp.gateway.surface import SOCKET, Surface

SHOWN = 100
"""Characters that a refusal shows of what a page asked for."""


class Sharing:
    """What pages of allowed origins may do with one surface.

    Args:
        surface: a surface with `cross_origin`.
        origins: the allowed ones.
    """

    def __init__(self, surface: Surface, origins: Collection[str]) -> None:
        allowed = surface.cross_origin
        if allowed is None:
            raise ValueError("the surface is not shared with pages of other origins")
        methods = {route.method for route in surface.routes} - {SOCKET}
        self._methods = sorted(methods | {"HEAD"} if "GET" in methods else methods)  # each GET route serves HEAD
        self._headers = allowed.headers
        self._options: dict[str, Any] = {
            "allow_origins": origins,
            "allow_methods": self._methods,
            "allow_headers": allowed.headers,
            "expose_headers": allowed.exposed,
            # Browsers ask in addition when a public page calls a private address, as a gateway under development has.
            "allow_private_network": True,
        }

    def around(self, answer: Answer) -> ASGIApp:
        """The answer to a request that is no preflight, with the headers that let the page read it."""
        return CORSMiddleware(answer, **self._options)

    async def preflight(self, scope: Scope, receive: Receive) -> Reply:
        """The answer to a preflight.

        Raises:
            OriginRefused: the origin is not allowed, or it asks for a method or header that the surface does not take.
        """
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await CORSMiddleware(_unreached, **self._options)(scope, receive, keep)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
        if sent[0]["status"] >= 400:
            raise OriginRefused(self._refusal(HTTPConnection(scope).headers, sent[1]["body"]))
        shared = {name: value for name, value in headers.items() if name.startswith(("access-control-", "vary"))}
        return Reply(204, b"", shared)

    def _refusal(self, asked: Headers, says: bytes) -> str:
        """What of a preflight is refused, by the middleware's words, and what is allowed."""
        refused = []
        if b"origin" in says:
            refused.append(f"the origin {asked['origin'][:SHOWN]!r}")
        if b"method" in says:
            refused.append(f"the method {asked['access-control-request-method'][:SHOWN]!r}")
        if b"headers" in says:
            known = {name.lower() for name in (*SAFELISTED_HEADERS, *self._headers)}
            names = [name.strip() for name in asked["access-control-request-headers"].split(",")]
            unknown = next(name for name in names if name.lower() not in known)
            refused.append(f"the header {unknown[:SHOWN]!r}")
        return (
            f"not allowed: {', '.join(refused)}; pages may use this API if OFFRAMP_CORS_ORIGINS has their origin, with "
            f"the methods {', '.join(self._methods)} and the headers {', '.join(self._headers)}"
        )


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks, before a page's request, whether the page may send it."""
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    headers = HTTPConnection(scope).headers
    return "origin" in headers and "access-control-request-method" in headers


async def _unreached(*_: Any) -> None:
    raise AssertionError("the middleware answers a preflight itself")
