"""Shows a key's quota in the header fields of each answer to it (draft-ietf-httpapi-ratelimit-headers-10)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.types import Message, Receive, Scope, Send

from offramp.core.quotas import RATE_POLICY, Quota, fields
from offramp.errors import RateLimited, StoreError
from offramp.gateway.reply import Answer, Headers

if TYPE_CHECKING:
    from offramp.paths.service import Service

_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})
logger = logging.getLogger("offramp.gateway")


class WithQuota:
    """An answer with the fields of a quota; without them while the store cannot be asked.

    They are looked up when the answer is sent, so that what it holds is released whatever happens.

    Args:
        answer: to the request.
        quota: of its key.
        service: knows what of it is in use.
        refused: the error that the answer reports; a `RateLimited` has the time at which a place is free.
    """

    def __init__(self, answer: Answer, quota: Quota, service: Service, refused: Exception | None = None) -> None:
        self._answer = answer
        self._quota = quota
        self._service = service
        self._refused = refused
        self.status = answer.status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def sent(message: Message) -> None:
            if message["type"] in _STARTS:
                message = {**message, "headers": [*message.get("headers", ()), *await self._fields()]}
            await send(message)

        await self._answer(scope, receive, sent)

    async def _fields(self) -> Headers:
        try:
            use = await self._service.quota_use(self._quota)
        except StoreError as error:
            logger.info("an answer does not show its key's quota: %s", error)
            return []
        except Exception:
            logger.exception("an answer does not show its key's quota")
            return []
        refused = self._refused
        if isinstance(refused, RateLimited) and refused.policy == RATE_POLICY:
            use = use._replace(free_in_s=max(1.0, refused.retry_after))
        shown = fields(self._quota, use)
        return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in shown.items()]
