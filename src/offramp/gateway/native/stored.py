"""Streams a result from object storage part by part, holding only the part that the client has not taken yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing

from starlette.types import Receive, Scope, Send

from offramp.core.reference import Reference
from offramp.core.run import RunRecord
from offramp.errors import ObjectLost, RunGone
from offramp.gateway.call import Call, ClientGone
from offramp.gateway.reply import JSON, Headers
from offramp.gateway.slots import Slot
from offramp.gateway.streams import STALL_S_MAX, Sender, unless_gone

logger = logging.getLogger("offramp.gateway")


class StoredResult:
    """The answer.

    Args:
        run_id: the run.
        reference: the stored result.
        first: its first part.
        parts: the other parts.
        slot: its room, released at its end.
    """

    status = 200

    def __init__(
        self, run_id: str, reference: Reference, first: bytes, parts: AsyncGenerator[bytes, None], slot: Slot
    ) -> None:
        self.headers: Headers = [
            (b"content-type", JSON.encode()),
            (b"content-length", b"%d" % reference.size),
        ]
        self._run_id = run_id
        self._size = reference.size
        self._first = first
        self._parts = parts
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until the client leaves or takes nothing for `STALL_S_MAX`."""
        try:
            async with aclosing(self._parts):
                await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
                if scope["method"] == "HEAD":
                    await send({"type": "http.response.body", "body": b""})
                    return
                await unless_gone(self._pump(send), receive)
        except ClientGone:
            pass
        except TimeoutError:
            logger.info(
                "a client took no bytes of the result of %s for %g s; its answer ends", self._run_id, STALL_S_MAX
            )
        except Exception:
            # The headers are sent. The client sees fewer bytes than Content-Length, so the result is incomplete.
            logger.exception("sending the result of %s failed", self._run_id)
        finally:
            self._slot.release()

    async def _pump(self, send: Send) -> None:
        async with asyncio.timeout(None) as limit:
            with closing(Sender(send, limit)) as sender:
                part, self._first = self._first, b""
                left = self._size
                while True:
                    left -= len(part)
                    await sender(part, more=left > 0)
                    if left <= 0:
                        return
                    part = await anext(self._parts)


async def stored_result(call: Call, record: RunRecord, reference: Reference) -> StoredResult:
    """Open a run's stored result.

    Raises:
        TenantLimit: the tenant has its maximum of streams open in this process.
        RunGone: its retention has ended.
        ObjectLost: it is missing before its retention has ended.
        ObjectsUnavailable: object storage cannot be read now.
    """
    slot = call.open_stream()
    parts = call.service.result_parts(reference)
    try:
        first = await anext(parts)
    except ObjectLost:
        slot.release()
        # A purge removes the objects of a run before its record.
        if call.service.is_due(record):
            raise RunGone(f"the result of {record.id} was removed when its retention ended") from None
        raise
    except BaseException:
        slot.release()
        raise
    return StoredResult(record.id, reference, first, parts, slot)
