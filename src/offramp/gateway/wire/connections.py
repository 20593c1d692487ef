"""The bounds of a connection, and the answers to requests that do not reach the application.

Owns the bounds on size and time while a request arrives. uvicorn and websockets parse HTTP; this turns their refusals
into problem documents.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Response
from websockets.server import ServerProtocol

from offramp.errors import Overloaded, RequestError
from offramp.gateway.problems import (
    HeadTooLarge,
    MethodNotAllowed,
    NotReady,
    RequestTimeout,
    UpgradeRequired,
    problem,
)
from offramp.gateway.reply import Reply
from offramp.gateway.wire.lingering import LingeringTransport

HEAD_BYTES_MAX = 64 * 1024
"""The maximum for a request's line and headers, and for the framing of a chunked body; past it 431."""
HEAD_S_MAX = 20.0
"""How long a connection may take to send a request's line and headers."""
CROWDED_HEAD_S_MAX = 0.5
"""The same past the connection limit: probes wait behind connections that send nothing."""
BODY_S_MAX = 20.0
"""How long a body may take to arrive, plus one second per `BODY_BYTES_PER_S_MIN` received; past it 408."""
BODY_BYTES_PER_S_MIN = 4096
SOCKET_MESSAGE_BYTES_MAX = 64 * 1024
WRITE_BUFFER_BYTES = 16 * 1024
"""Bytes of an answer that the client has not taken, past which no more is written."""

_PROBES = {b"/healthz", b"/readyz"}
"""Paths that are answered past the connection limit."""
_INVALID_TEXT = 1007
_CROWDED = (
    "this process has all connections open that its limit on open files allows (ulimit -n); try another gateway, "
    "or try again later"
)


class _ErrorsOnly(logging.LoggerAdapter[logging.Logger]):
    """A logger for uvicorn that drops the lines which any client can cause."""

    level = logging.ERROR

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - overrides
        return level >= self.level and super().isEnabledFor(level)


_log = _ErrorsOnly(logging.getLogger("offramp.gateway"), {})


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with bounds: a head's size, the time that head and body take.

    Args:
        crowded: whether the connection that was just made is past the limit.
    """

    def __init__(self, *args: Any, crowded: Callable[[], bool] = lambda: False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowded = crowded
        self._is_crowded = False
        self.logger = _log  # type: ignore[assignment]
        self._head_bytes: int | None = 0
        """None while a body arrives."""
        self._body_bytes = 0
        self._idle_bytes = 0
        """Received since the body last grew: trailers and the framing of chunks."""
        self._body_began_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._method = self._version = b""
        self._is_refused = False
        self._is_ignored = False
        """The request asks for another protocol: it is parsed again without that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._lingering = LingeringTransport(transport, self._may_be_sending)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        self._is_crowded = self._crowded()
        self._start_timer(CROWDED_HEAD_S_MAX if self._is_crowded else HEAD_S_MAX)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._lingering.lost()
        super().connection_lost(exc)

    def _may_be_sending(self) -> bool:
        """Whether the client is in the middle of a request, or sends bytes that are not read."""
        return self._head_bytes != 0 or self._is_refused or self._is_crowded

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        if self._head_bytes is None:
            self._idle_bytes += len(data)
        else:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        # Still in the head: the bytes of a body do not count.
        if max(self._head_bytes or 0, self._idle_bytes) > HEAD_BYTES_MAX:
            self._refuse(_head_too_large())
        elif self._timer is None and self._head_bytes != 0:
            self._start_timer(BODY_S_MAX if self._head_bytes is None else HEAD_S_MAX)

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._method == b"CONNECT":
                    self._refuse(RequestError("CONNECT is for proxies; this is not a proxy"))
                    return
                if self._should_upgrade():
                    if self._is_answering():
                        self._refuse(RequestError("a WebSocket needs its own connection"))
                    else:
                        # A WebSocket reads on until it is closed.
                        self.transport = LingeringTransport(self._lingering.own, lambda: False)  # type: ignore[assignment]
                        self.handle_websocket_upgrade()
                    return
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                ours = error.__context__  # an error that a callback raised
                unknown = RequestError("the bytes received are not an HTTP request (RFC 9112)")
                self._refuse(ours if isinstance(ours, RequestError) else unknown)
                return
            else:
                return

    def _without_upgrade(self) -> bytes:
        """The head of a request without its wish for another protocol, which a server may ignore (RFC 9110, 7.8).

        Java's client asks for HTTP/2 with every first request. The parser then takes the body for bytes after the
        upgrade, so it has to parse the request again.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        fields = [field for field in self.headers if field[0] not in {b"upgrade", b"connection", b"http2-settings"}]
        options = b",".join(value.lower() for name, value in self.headers if name == b"connection").split(b",")
        fields += [(b"connection", option) for each in options if (option := each.strip()) in {b"close", b"keep-alive"}]
        line = b"%b %b HTTP/%b\r\n" % (self._method, self.url, self._version)
        return line + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is not a header of the request, and the application already has the headers.
        if self._head_bytes is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_crowded and self.url.partition(b"?")[0] not in _PROBES:
            raise Overloaded(_CROWDED)
        # One read may have brought the whole head, with the bytes that follow it.
        if len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers) > HEAD_BYTES_MAX:
            raise _head_too_large()
        self._method, self._version = self.parser.get_method(), self.parser.get_http_version().encode()
        self._is_ignored = self.parser.should_upgrade() and (self._method == b"CONNECT" or not self._should_upgrade())
        if not self._is_ignored:
            super().on_headers_complete()
            if self._version == b"1.0" and not self.parser.should_upgrade():
                _end_with_connection(self.cycle)
            if self._is_crowded:
                self.cycle.keep_alive = False
        self._head_bytes, self._body_bytes, self._idle_bytes = None, 0, 0
        self._body_began_at = self.loop.time()
        self._stop_timer()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_ignored:
            super().on_message_complete()
        self._head_bytes, self._idle_bytes = 0, 0
        self._stop_timer()

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._is_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        self._timer = None
        if self.flow.read_paused or self.pipeline or (self._head_bytes is not None and self._is_answering()):
            # The client is not slow: the previous answer is still being sent.
            self._start_timer(HEAD_S_MAX)
        elif self._is_crowded and self._head_bytes is not None:
            self._make_room()
        elif self._head_bytes == 0:
            self.transport.close()
        elif self._head_bytes is not None:
            self._refuse(RequestTimeout(f"the request line and headers did not arrive within {HEAD_S_MAX:g} s"))
        else:
            self._judge_body()

    def _make_room(self) -> None:
        """Close at once: every byte was read, and others wait for its place."""
        if self._head_bytes:
            self.transport.write(_encoded(problem(Overloaded(_CROWDED)), self.server_state.default_headers))
        self._lingering.own.close()

    def _judge_body(self) -> None:
        allowed_s = BODY_S_MAX + self._body_bytes / BODY_BYTES_PER_S_MIN
        left_s = self._body_began_at + allowed_s - self.loop.time()
        if left_s > 0 and self._is_answering():
            self._start_timer(min(left_s, BODY_S_MAX))
            return
        self._refuse(
            RequestTimeout(
                f"the body did not arrive within {BODY_S_MAX:g} s plus a second for every {BODY_BYTES_PER_S_MIN} bytes"
            )
        )

    def _is_answering(self) -> bool:
        """Whether the application handles a request, or its answer is being sent."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: RequestError) -> None:
        """Answer and close, unless the client would take the answer for another request's or for a part of it."""
        answering, is_next = self._is_answering(), self._head_bytes is not None
        if answering and is_next:
            # The previous request is still answered.
            self.cycle.keep_alive = False
            self._is_refused = True
            return
        if is_next or (answering and not self.cycle.response_started and not self.pipeline):
            self.transport.write(_encoded(problem(error), self.server_state.default_headers))
        self.transport.close()


def _end_with_connection(cycle: RequestResponseCycle) -> None:
    """Let an answer without Content-Length end with its connection: HTTP/1.0 has no chunks (RFC 9112, 6.1).

    uvicorn sends chunks, or as many bytes as it expects. Here it expects those of each part.
    """
    send, is_bounded = cycle.send, False

    async def unchunked(message: Any) -> None:
        nonlocal is_bounded
        if message["type"] == "http.response.start":
            is_bounded = any(name.lower() == b"content-length" for name, _ in message["headers"])
        if not is_bounded:
            cycle.chunked_encoding = False
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = unchunked  # type: ignore[method-assign]


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the request line and headers have more than {HEAD_BYTES_MAX} bytes")


def _encoded(reply: Reply, more: list[tuple[bytes, bytes]]) -> bytes:
    line = b"HTTP/1.1 %d %b\r\n" % (reply.status, http.HTTPStatus(reply.status).phrase.encode())
    fields = [*more, *reply.headers, (b"connection", b"close")]
    return line + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + reply.body


class BoundedSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol for WebSockets that answers every handshake and logs no frame."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _log  # type: ignore[assignment]
        self.conn = _Handshake(extensions=self.conn.available_extensions, max_size=self.config.ws_max_size, logger=_log)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            # Frames before the answer to the handshake (RFC 6455, 4.1): uvicorn would answer them first.
            self.handshake_complete = self.disconnected = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self.transport.close()
            return
        super().data_received(data)
        if not self.handshake_initiated:
            # The whole head has arrived and is malformed: uvicorn would neither answer nor close.
            answer = b"".join(self.conn.data_to_send())
            self.transport.write(answer or _encoded(problem(_NO_HANDSHAKE), self.default_headers))
            self.transport.close()

    async def send(self, message: Any) -> None:
        try:
            await super().send(message)
        except RuntimeError:
            if self.initial_response is None and self.close_sent:
                # The connection is closed because the client broke the protocol; the sender did nothing wrong.
                raise ClientDisconnected from None
            raise
        if message["type"] == "websocket.http.response.body":
            # Otherwise uvicorn logs an error, because a refusal completes no handshake.
            self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.conn.send_close(_INVALID_TEXT)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()


_REFUSED: dict[int, RequestError] = {
    405: MethodNotAllowed("open a WebSocket with GET", "GET"),
    414: HeadTooLarge("the address of a WebSocket may have at most 8,192 bytes"),
    426: UpgradeRequired("open a WebSocket with 'Upgrade: websocket' and 'Connection: Upgrade'"),
    431: HeadTooLarge("a WebSocket's handshake may have at most 128 headers of at most 8,192 bytes each"),
    500: NotReady("the gateway is stopping; connect to another one"),
}
_NO_HANDSHAKE = RequestError(
    "not a WebSocket handshake (RFC 6455): it needs HTTP/1.1, one Sec-WebSocket-Key of 16 bytes in Base64, and "
    "Sec-WebSocket-Version: 13"
)


class _Handshake(ServerProtocol):
    """websockets' protocol with problem documents for its refusals, whose texts would echo the request."""

    def reject(self, status: http.HTTPStatus | int, text: str) -> Response:
        reply = problem(_REFUSED.get(status, _NO_HANDSHAKE))
        response = super().reject(reply.status, "")
        response.body = reply.body
        for name, value in reply.headers:
            if name in {b"content-type", b"content-length"}:
                del response.headers[name.decode()]
                response.headers[name.decode()] = value.decode()
        return response
