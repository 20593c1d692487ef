"""A run over a WebSocket: the events of a stream, one JSON text per message; the client may send `{"type": "cancel"}`.

Owns close codes and the bounds in both directions. Must not buffer more than one batch for a slow reader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Literal

import msgspec
from prometheus_client import Counter
from starlette.types import Message, Receive, Scope, Send

from offramp.core.events import Frame
from offramp.errors import Forbidden, OfframpError, RunConflict, RunGone
from offramp.gateway.access import chosen_subprotocol
from offramp.gateway.call import Call
from offramp.gateway.negotiation import position
from offramp.gateway.refusal import FORBIDDEN, GONE, INTERNAL, MALFORMED, UNAUTHENTICATED, close_message
from offramp.gateway.reply import Answer
from offramp.gateway.slots import Slot
from offramp.gateway.surface import OPERATING

MESSAGE_BYTES_MAX = 4096
"""The largest incoming message."""
SLOW_S_MAX = 30.0
"""How long a reader may take for one batch of events."""
CLOSE_S_MAX = 5.0

NORMAL, RESTART, TOO_BIG = 1000, 1012, 1009
SLOW = 4408

logger = logging.getLogger("offramp.gateway")


class _Cancel(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["cancel"]


_decode = msgspec.json.Decoder(_Cancel).decode


class _Close(Exception):
    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


async def socket(call: Call) -> Answer:
    """`GET /v1/runs/{run_id}/ws`."""
    after = position(None, call.query("starting_after").get("starting_after"))
    record = await call.followed()
    return EventSocket(call, record.id, after, call.open_stream())


class EventSocket:
    """Sends a run's events after number `after` to a WebSocket; `slot` is its room."""

    status = 101

    def __init__(self, call: Call, run_id: str, after: int, slot: Slot) -> None:
        self._slot = slot
        self._call = call
        self._run_id = run_id
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the run ends, or the client leaves or breaks a rule."""
        try:
            await self._talk(scope, receive, send)
        finally:
            self._slot.release()

    async def _talk(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept", "subprotocol": chosen_subprotocol(scope.get("subprotocols", []))})
        with self._call.meter.streaming("websocket") as sent:
            close = await self._both_directions(receive, send, sent)
        if close is not None:
            # A reader that takes nothing does not take the close frame either: the server then drops the connection.
            with suppress(TimeoutError, OSError, RuntimeError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    await send(close_message(close.code, close.reason))

    async def _both_directions(self, receive: Receive, send: Send, sent: Counter) -> _Close | None:
        """The close to send; None if the client has left."""
        tasks = {asyncio.create_task(self._outgoing(send, sent)), asyncio.create_task(self._incoming(receive))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        except _Close as close:
            return close
        except OSError:
            return None
        except Exception:
            logger.exception("the WebSocket of %s failed", self._run_id)
            return _Close(INTERNAL, "internal error; connect again with ?starting_after=")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return None

    async def _outgoing(self, send: Send, sent: Counter) -> None:
        last = self._after
        service = self._call.service
        try:
            async with aclosing(service.follow(self._run_id, self._after, service.settings.heartbeat)) as batches:
                async for frames in batches:
                    self._require_good_key()
                    last = await _send_all(send, frames, last)
                    sent.inc(len(frames))
                    if frames and frames[-1].terminal:
                        raise _Close(NORMAL)
        except RunGone:
            raise _Close(GONE, "the events were removed when their retention ended") from None
        record = await service.get(self._run_id, self._call.tenant)
        if record.finished and not record.purged:
            # The reader already had the terminal event when it connected.
            raise _Close(NORMAL)
        raise _Close(RESTART, f"the gateway is stopping: connect again with ?starting_after={last}")

    def _require_good_key(self) -> None:
        if self._call.revoked:
            raise _Close(UNAUTHENTICATED, "the API key is no longer valid")

    async def _incoming(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._execute(message)

    async def _execute(self, message: Message) -> None:
        text = message.get("text")
        if text is None:
            raise _Close(MALFORMED, 'messages are JSON text: {"type": "cancel"}')
        if len(text) > MESSAGE_BYTES_MAX:
            raise _Close(TOO_BIG, f"a message has at most {MESSAGE_BYTES_MAX} bytes")
        try:
            _decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise _Close(MALFORMED, 'the only message is {"type": "cancel"}') from None
        self._require_good_key()
        try:
            self._call.require(OPERATING)
        except Forbidden as error:
            raise _Close(FORBIDDEN, str(error)) from None
        try:
            await self._call.service.cancel(self._run_id, self._call.tenant)
        except RunConflict:
            # The run has ended in the meantime; its terminal event follows.
            return
        except OfframpError as error:
            logger.warning("%s could not be cancelled: %s", self._run_id, error)
            raise _Close(INTERNAL, "the run could not be cancelled; try again") from error


async def _send_all(send: Send, frames: Sequence[Frame], last: int) -> int:
    """Send the frames and return the number of the last one."""
    try:
        async with asyncio.timeout(SLOW_S_MAX):
            for frame in frames:
                await send({"type": "websocket.send", "text": frame.data.decode()})
                last = frame.seq
    except TimeoutError:
        raise _Close(SLOW, f"too slow: connect again with ?starting_after={last}") from None
    return last
