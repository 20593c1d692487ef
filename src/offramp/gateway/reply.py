"""The answers that endpoints return: a status, and the ASGI messages to send.

Owns the encoding and headers of whole (not streamed) answers. Knows nothing about runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]

JSON = "application/json"
_NO_CONTENT = 204
"""Has no Content-Length (RFC 9110, 8.6)."""
_encode = msgspec.json.Encoder().encode


class Answer(Protocol):
    """An endpoint's answer; its `status` is known before anything is sent."""

    @property
    def status(self) -> int: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Reply:
    """A whole answer with its body."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> None:
        self.status = status
        self.body = body
        self.headers: Headers = []
        if status != _NO_CONTENT:
            self.headers += [
                (b"content-type", content_type.encode("latin-1")),
                (b"content-length", b"%d" % len(body)),
            ]
        for name, value in (headers or {}).items():
            self.headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; HEAD gets the headers of GET without the body (RFC 9110, 9.3.2)."""
        body = b"" if scope.get("method") == "HEAD" else self.body
        if scope["type"] == "websocket":
            # The denial of a handshake (ASGI extension websocket.http.response).
            await send({"type": "websocket.http.response.start", "status": self.status, "headers": self.headers})
            await send({"type": "websocket.http.response.body", "body": body})
            return
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": body})


def json_reply(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Reply:
    """`value` as JSON."""
    return Reply(status, _encode(value), headers)
