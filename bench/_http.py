"""A lean HTTP/1.1 client over asyncio's transports: whole answers and event streams, with minimal parsing.

Trusts the server: answers carry a content-length or are chunked, and an event stream's chunks end with a blank line.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import NamedTuple, cast

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_EVENT = b"\ndata: "
_DELTA = b"event: step.delta\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Answer(NamedTuple):
    """A whole answer; `ended` is when its last byte arrived."""

    status: int
    body: bytes
    ended: float


class Streamed(NamedTuple):
    """The result of an event stream; times by `time.perf_counter()`."""

    began: float
    first_event: float
    first_delta: float
    events: int
    ended: float


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time; `events` counts the stream's events so far."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._done: asyncio.Future[float] | None = None
        self._streams = False
        self._reset()

    def _reset(self) -> None:
        self._received.clear()
        self._tail = b""
        self._needed: int | None = None
        self.events = 0
        self._first_event = self._first_delta = 0.0

    @property
    def answered(self) -> bool:
        """Whether the answer to the last request has begun."""
        return bool(self._received)

    @property
    def is_open(self) -> bool:
        """Whether the server still keeps it open; it closes connections that are idle for long."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        if self._streams:
            self._streamed(data)
            return
        self._received += data
        if self._needed is None:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(self._received[:head])
            self._needed = head + 4 + (int(length[1]) if length else 0)
        if len(self._received) >= self._needed:
            self._end()

    def _streamed(self, data: bytes) -> None:
        seen = self._tail + data
        self.events += seen.count(_EVENT)
        if not self._first_event and self.events:
            self._first_event = time.perf_counter()
        if not self._first_delta and _DELTA in seen:
            self._first_delta = time.perf_counter()
        if not self._received:
            self._received += data[:16]  # the status line
        if seen.endswith(_LAST_CHUNK) or (b"HTTP/1.1 4" in self._received or b"HTTP/1.1 5" in self._received):
            self._end()
        # Shorter than any pattern, so that no match is counted twice.
        self._tail = seen[-(len(_EVENT) - 1) :]

    def _end(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(time.perf_counter())

    async def _exchange(self, request: bytes, *, streams: bool) -> float:
        assert self._transport is not None
        self._reset()
        self._streams = streams
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done

    async def whole(self, request: bytes) -> Answer:
        """Send a request and read its whole answer."""
        ended = await self._exchange(request, streams=False)
        head = self._received.find(b"\r\n\r\n")
        return Answer(int(self._received[9:12]), bytes(self._received[head + 4 :]), ended)

    async def stream(self, request: bytes) -> Streamed:
        """Send a request and read its event stream to the end.

        Raises:
            RuntimeError: the answer was not a stream.
        """
        began = time.perf_counter()
        ended = await self._exchange(request, streams=True)
        if not self._received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not a stream: {bytes(self._received)!r}")
        return Streamed(began, self._first_event, self._first_delta, self.events, ended)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def connect(port: int) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % path.encode()


def post(path: str, body: bytes, headers: bytes = b"") -> bytes:
    """A POST of JSON; `headers` is whole lines."""
    return (
        b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
        % (path.encode(), headers, len(body), body)
    )
