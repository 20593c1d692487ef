"""Tickets: what opens one run's streams for an hour, for clients that send no headers.

A ticket holds no secret and is stored nowhere. It says which key asked for it and until when it is good, and is signed
(HMAC-SHA-256) together with the run's id and that key: it opens no other run, and ends with its key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import NamedTuple

TICKET_S = 3600.0
"""How long a ticket opens streams; one that is open by then goes on."""
SECRET_BYTES = 32
"""The length of the secret that signs tickets."""
PREFIX = "oft_"
"""By which scanners recognise a leaked ticket."""

_KEY_BYTES, _TIME_BYTES, _MAC_BYTES = 6, 6, 24
_FORM = re.compile(rf"{PREFIX}([A-Za-z0-9_-]{{{(_KEY_BYTES + _TIME_BYTES + _MAC_BYTES) // 3 * 4}}})")


class Ticket(NamedTuple):
    """A ticket as a client sent it, not checked yet.

    Attributes:
        key: names the key that it was made with (`key_id`).
        expires_at: in seconds since the epoch.
        mac: signs it.
    """

    key: bytes
    expires_at: int
    mac: bytes


def key_id(secret: bytes, digest: str) -> bytes:
    """Names a key in tickets, and says nothing about it to those without `secret`; `digest` is empty for no key."""
    return _hmac(secret, "key", digest)[:_KEY_BYTES]


def sign(secret: bytes, run_id: str, digest: str, expires_at: int) -> str:
    """A ticket for a run's streams, made with the key of that digest."""
    key = key_id(secret, digest)
    mac = _mac(secret, run_id, digest, expires_at)
    return PREFIX + base64.urlsafe_b64encode(key + expires_at.to_bytes(_TIME_BYTES) + mac).decode()


def read(text: str) -> Ticket | None:
    """The parts of a ticket; None if the text does not have its form."""
    form = _FORM.fullmatch(text)
    if form is None:
        return None
    data = base64.urlsafe_b64decode(form[1])
    key, time, mac = data[:_KEY_BYTES], data[_KEY_BYTES:-_MAC_BYTES], data[-_MAC_BYTES:]
    return Ticket(key, int.from_bytes(time), mac)


def is_signed(ticket: Ticket, secret: bytes, run_id: str, digest: str) -> bool:
    """Whether the ticket was made for this run with the key of that digest; in constant time."""
    return hmac.compare_digest(ticket.mac, _mac(secret, run_id, digest, ticket.expires_at))


def _mac(secret: bytes, run_id: str, digest: str, expires_at: int) -> bytes:
    return _hmac(secret, "ticket", run_id, digest, str(expires_at))[:_MAC_BYTES]


def _hmac(secret: bytes, *parts: str) -> bytes:
    return hmac.digest(secret, "\n".join(("offramp", *parts)).encode(), hashlib.sha256)
