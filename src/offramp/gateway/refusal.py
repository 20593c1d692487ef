"""The answer to a refused WebSocket handshake: an HTTP answer if the server can send one, else a close code."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from offramp.errors import RequestError
from offramp.gateway.problems import Problem
from offramp.gateway.reply import Reply

REASON_BYTES_MAX = 120
"""A close frame holds 125 bytes, two of them the code (RFC 6455, 5.5)."""

INTERNAL, MALFORMED, UNAUTHENTICATED, FORBIDDEN, UNKNOWN, GONE = 1011, 4400, 4401, 4403, 4404, 4410
_CLOSE_OF_STATUS = {
    400: MALFORMED,
    422: MALFORMED,
    403: FORBIDDEN,
    404: UNKNOWN,
    410: GONE,
    401: UNAUTHENTICATED,
    421: 4421,
    429: 4429,
    503: 1013,
}


class Denied:
    """A refused handshake.

    Args:
        problem: why.
        reply: the same, rendered by the surface.
    """

    def __init__(self, problem: Problem, reply: Reply) -> None:
        self.status = reply.status
        self._reply = reply
        self._reason = problem.detail if issubclass(problem.kind, RequestError) else "internal error"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse it."""
        await receive()
        if "websocket.http.response" in scope.get("extensions", {}):
            await self._reply(scope, receive, send)
            return
        await send({"type": "websocket.accept"})
        await send(close_message(_CLOSE_OF_STATUS.get(self.status, INTERNAL), self._reason))


def close_message(code: int, reason: str) -> Message:
    """The close of a WebSocket, its reason cut to what a frame holds."""
    cut = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
    return {"type": "websocket.close", "code": code, "reason": cut}
