"""Server-sent events: a run's frames, encoded by a surface, sent in batches until the run ends or the reader leaves.

Owns the headers, heartbeats and bounds of a stream, and the watch for a disconnect. Must not decode or change an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, closing
from typing import Any, Protocol, TypeVar

from prometheus_client import Counter
from starlette.types import Receive, Scope, Send

from offramp.core.events import Frame
from offramp.errors import RunGone
from offramp.gateway.call import Call, ClientGone
from offramp.gateway.reply import Headers
from offramp.gateway.slots import Slot

STALL_S_MAX = 60.0
"""How long a reader may take no bytes before its stream ends."""

PIECE_BYTES_MAX = 32 * 1024
"""Bytes given to the server at a time, which waits before the next while the reader takes nothing."""

HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
DEMOTED = "run.demoted"

logger = logging.getLogger("offramp.gateway")
T = TypeVar("T")


class Encoder(Protocol):
    """Turns a run's events into what the clients of one surface read. Each stream has its own, which may keep state.

    Attributes:
        opening: sent before any event.
        heartbeat: sent when there is no event for a while.
    """

    @property
    def opening(self) -> bytes: ...

    @property
    def heartbeat(self) -> bytes: ...

    def encode(self, frames: Sequence[Frame]) -> tuple[bytes, int, bool]:
        """Encode frames up to and with the first that ends the stream.

        Returns:
            The bytes, how many events they hold, and whether the stream ends with them.
        """
        ...


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Return the result of `work`; cancel it if the client leaves first.

    Servers do not raise from `send` after a disconnect; only `receive` reports it.

    Raises:
        ClientGone: the client left first.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Stalled(Exception):
    """The client takes no bytes."""


class EventStream:
    """The answer that streams a run's events.

    Args:
        call: the request.
        run_id: the run whose events are sent.
        after: the number of the last event that the reader has.
        encoder: encodes the events, and ends the stream.
        follow: continue with events as they come; else end after the newest.
        started_run: this request created the run, so the run's `on_disconnect` applies if the client leaves.
        headers: more headers.
        slot: its room, released at its end.
    """

    status = 200

    def __init__(
        self,
        call: Call,
        run_id: str,
        after: int,
        encoder: Encoder,
        *,
        follow: bool = True,
        started_run: bool = False,
        headers: Headers | None = None,
        slot: Slot,
    ) -> None:
        self._slot = slot
        self._call = call
        self._run_id = run_id
        self._after = after
        self._encoder = encoder
        self._follow_on = follow
        self._started_run = started_run
        self._headers = HEADERS + (headers or [])
        self._complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the end, or until the client leaves."""
        try:
            await self._stream(scope, receive, send)
        finally:
            self._slot.release()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self._headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        with self._call.meter.streaming("sse") as sent:
            try:
                await unless_gone(self._pump(send, sent), receive)
            except ClientGone:
                self._left()
            except _Stalled:
                logger.info("a reader of %s took no bytes for %g s; its stream ends", self._run_id, STALL_S_MAX)
                self._left()
            except Exception:
                # The headers are sent. The reader sees an incomplete answer and reconnects for the rest.
                logger.exception("the stream of %s failed", self._run_id)

    def _left(self) -> None:
        if self._started_run and not self._complete:
            self._call.service.disconnected(self._run_id)

    async def _pump(self, send: Send, sent: Counter) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                with closing(Sender(send, limit)) as sender:
                    await self._follow(sender, sent)
        except TimeoutError as error:
            if limit.expired():
                raise _Stalled from error
            raise

    def _batches(self, idle: float) -> AsyncGenerator[list[Frame], None]:
        """What is sent; an empty list after `idle` seconds without anything."""
        return self._call.service.follow(self._run_id, self._after, idle)

    async def _follow(self, send: Sender, sent: Counter) -> None:
        service, encoder = self._call.service, self._encoder
        idle = service.settings.heartbeat if self._follow_on else 0.0
        await send(encoder.opening)
        try:
            async with aclosing(self._batches(idle)) as batches:
                async for frames in batches:
                    if self._call.revoked:
                        logger.info("a reader of %s no longer has a valid API key; its stream ends", self._run_id)
                        break
                    if not frames:
                        if not self._follow_on:
                            break
                        await send(encoder.heartbeat)
                        continue
                    chunk, count, ended = encoder.encode(frames)
                    del frames  # a reader that takes nothing holds one copy
                    self._complete = ended
                    await send(chunk, more=not ended)
                    sent.inc(count)
                    if ended:
                        return
        except RunGone:
            logger.info("the events of %s were removed before a reader had read them all", self._run_id)
        # The stream ends without a terminal event, at a drain for example: the reader resumes after its last event.
        self._complete = True
        await send(b"", more=False)


class Sender:
    """Sends parts of a body and detects a client that takes nothing. A check a minute costs less than a timer per part.

    Args:
        send: ASGI's.
        limit: expires when the client has taken nothing for `STALL_S_MAX`.
    """

    def __init__(self, send: Send, limit: asyncio.Timeout) -> None:
        self._send = send
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer = self._loop.call_later(STALL_S_MAX, self._check)

    async def __call__(self, body: bytes, *, more: bool = True) -> None:
        try:
            last = max(0, len(body) - 1) // PIECE_BYTES_MAX * PIECE_BYTES_MAX
            for start in range(0, last, PIECE_BYTES_MAX):
                await self._give(body[start : start + PIECE_BYTES_MAX], more=True)
            await self._give(body[last:] if last else body, more=more)
        except OSError as error:
            raise ClientGone from error

    async def _give(self, piece: bytes, *, more: bool) -> None:
        self._since = self._loop.time()
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})
        self._since = None

    def _check(self) -> None:
        now = self._loop.time()
        due = (now if self._since is None else self._since) + STALL_S_MAX
        if due <= now:
            self._limit.reschedule(now)
        else:
            self._timer = self._loop.call_at(due, self._check)

    def close(self) -> None:
        """Stop checking."""
        self._timer.cancel()
