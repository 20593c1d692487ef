"""Shows a key's quota in the header fields of each answer to it (draft-ietf-httpapi-ratelimit-headers-10)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.types import Message, Receive, Scope, Send

from offramp.core.quotas import RATE_POLICY, Quota, fields
from offramp.errors import RateLimited, StoreError
from offramp.gateway.reply import Answer

if TYPE_CHECKING:
    from offramp.paths.service import Service

_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})
logger = logging.getLogger("offramp.gateway")


class _WithFields:
    """An answer with more header fields."""

    def __init__(self, answer: Answer, more: dict[str, str]) -> None:
        self._answer = answer
        self._more = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in more.items()]
        self.status = answer.status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] in _STARTS:
                message = {**message, "headers": [*message.get("headers", ()), *self._more]}
            await send(message)

        await self._answer(scope, receive, sent)


async def with_quota(answer: Answer, quota: Quota, service: Service, refused: Exception | None = None) -> Answer:
    """The answer with the fields of a quota; without them while the store cannot be asked.

    Args:
        answer: to the request.
        quota: of its key.
        service: knows what of it is in use.
        refused: the error that the answer reports; a `RateLimited` has the time at which a place is free.
    """
    try:
        use = await service.quota_use(quota)
    except StoreError as error:
        logger.info("an answer does not show its key's quota: %s", error)
        return answer
    if isinstance(refused, RateLimited) and refused.policy == RATE_POLICY:
        use = use._replace(free_in_s=max(1.0, refused.retry_after))
    return _WithFields(answer, fields(quota, use))
