"""Signatures of Standard Webhooks (standardwebhooks.com): v1, HMAC-SHA256, one per secret."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from offramp.ports.outbox import Message


class Signer:
    """Signs messages.

    Args:
        secrets: `whsec_…`; several while receivers change from one to the next.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [Webhook(secret) for secret in secrets]

    def headers(self, message: Message, now: float) -> dict[str, str]:
        """`webhook-id`, `webhook-timestamp` (of this attempt) and `webhook-signature`."""
        at = datetime.fromtimestamp(int(now), UTC)
        body = message.body.decode()
        return {
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": " ".join(key.sign(message.id, at, body) for key in self._keys),
        }
