"""Webhooks as decisions: what is accepted, what a message holds, and what follows from an attempt to deliver it."""

from __future__ import annotations

import base64
import re
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from offramp.core.addresses import HOST, Allowed, literal, refusal
from offramp.core.events import TYPES
from offramp.core.names import did_you_mean
from offramp.core.run import Webhook

URL_LENGTH_MAX = 2048
SECRETS_MAX = 4
BODY_BYTES_MAX = 20 * 1024
"""A larger message goes without the run's result."""
EVENT_NAMES: tuple[str, ...] = tuple(name for name in TYPES if name != "step.delta")
"""The events that a webhook can subscribe to: not deltas, for which there are streams."""

DELAYS_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0)
"""Seconds from a failed attempt to the next; the last one repeats."""
JITTER = 0.2
"""A delay is this fraction shorter or longer, so that a receiver that comes back is not hit by all retries at once."""
GIVE_UP_AFTER_S = 86_400.0

_PRINTABLE = re.compile(r"[!-~]+")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]{1,5})?")
_PORT_OF = {"http": 80, "https": 443}


def parse_secrets(text: str) -> list[str]:
    """The secrets in force, `whsec_` and base64 of 24 to 64 bytes each (Standard Webhooks, "Signature scheme").

    Raises:
        ValueError: one is not; the message does not repeat it.
    """
    secrets = text.split()
    for place, secret in enumerate(secrets, 1):
        try:
            size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
        except ValueError:
            size = 0
        if not secret.startswith("whsec_") or not 24 <= size <= 64:
            raise ValueError(f"number {place} is not 'whsec_' and the base64 of 24 to 64 bytes")
    if len(secrets) > SECRETS_MAX:
        raise ValueError(f"at most {SECRETS_MAX} at a time, got {len(secrets)}")
    return secrets


class Target(NamedTuple):
    """Where a URL leads; `host` is a name in lower case, or an address without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORT_OF[self.scheme] else f"{host}:{self.port}"


def target_of(url: str) -> Target:
    """The parts of a URL that is unambiguous to every parser.

    Raises:
        ValueError: it is not; the message says what to change, without repeating the URL, which may hold secrets.
    """
    if len(url) > URL_LENGTH_MAX:
        raise ValueError(f"at most {URL_LENGTH_MAX} characters")
    if not _PRINTABLE.fullmatch(url) or any(char in url for char in '\\"<>^`{|}'):
        raise ValueError("an absolute URL in ASCII; percent-encode the rest, and write a host name in punycode")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("an https:// (or http://) URL with a host") from None
    if parts.scheme not in _PORT_OF:
        raise ValueError("an https:// (or http://) URL")
    if "@" in parts.netloc:
        raise ValueError("no user name or password in the URL: the signature identifies the sender")
    if parts.fragment or url.endswith("#"):
        raise ValueError("no #fragment: it would not be sent")
    host = (parts.hostname or "").removesuffix(".")
    if "%" in host or (not literal(host) and not HOST.fullmatch(host)):
        raise ValueError("an https:// (or http://) URL with a host")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    port = int(authority[2][1:]) if authority and authority[2] else _PORT_OF[parts.scheme]
    if authority is None or not 1 <= port <= 65535:
        raise ValueError("nothing but a port from 1 to 65535 behind the host")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def flaws(webhook: Webhook) -> list[tuple[str, str]]:
    """What is wrong with a webhook wherever it is asked for: JSON pointers and messages."""
    found: list[tuple[str, str]] = []
    try:
        target_of(webhook.url)
    except ValueError as error:
        found.append(("/webhook/url", str(error)))
    if not 1 <= len(webhook.events) <= len(EVENT_NAMES):
        found.append(("/webhook/events", f"1 to {len(EVENT_NAMES)} names; leave it out for how the run ends"))
        return found
    for place, name in enumerate(webhook.events):
        if name not in EVENT_NAMES:
            why = "follow the run for its deltas" if name == "step.delta" else did_you_mean(name, EVENT_NAMES)
            found.append((f"/webhook/events/{place}", f"no event {name[:60]!r} for webhooks; {why}"))
    return found


def refused(webhook: Webhook, *, signed: bool, allowed: Allowed) -> list[tuple[str, str]]:
    """Why this service does not take a webhook: `flaws`, no secret to sign with, an address it does not send to.

    Names are looked up when a message is sent, not here.
    """
    found = flaws(webhook)
    if not signed:
        found.append(("/webhook", "not available here: the operator has set no OFFRAMP_WEBHOOK_SECRET to sign with"))
    if not any(pointer == "/webhook/url" for pointer, _ in found):
        target = target_of(webhook.url)
        why = refusal(target.host, literal(target.host), allowed)
        if why is not None:
            found.append(("/webhook/url", f"{why}; only public ones, and those in OFFRAMP_WEBHOOK_ALLOW, are sent to"))
        elif not allowed.takes(target.port):
            found.append(("/webhook/url", f"port {target.port} is not among those of OFFRAMP_WEBHOOK_PORTS"))
    return found


def message(event: str, at: str, document: dict[str, Any]) -> bytes:
    """The body: `{type, timestamp, data}`, without the result above `BODY_BYTES_MAX`."""
    body = msgspec.json.encode({"type": event, "timestamp": at, "data": document})
    if len(body) <= BODY_BYTES_MAX:
        return body
    shorter = {name: value for name, value in document.items() if name != "result"}
    return msgspec.json.encode({"type": event, "timestamp": at, "data": shorter})


def message_id(run_id: str, seq: int) -> str:
    """`webhook-id`: the same for every attempt, another for every event."""
    return f"{run_id}-{seq}"


Result = Literal["delivered", "gone", "refused", "timeout", "unreachable", "forbidden"]


class Answer(NamedTuple):
    """The result of an attempt: `refused` is a status that is neither 2xx nor 410, `forbidden` an address."""

    result: Result
    detail: str = ""
    retry_after: float | None = None


class Progress(NamedTuple):
    """The progress of a webhook.

    Every event up to number `cursor` is dealt with; `attempts` were made for the one that follows, all failed, as
    has every attempt since `failing_since`. The next one is made at `due_at`, or as soon as there is an event.
    """

    cursor: int = 0
    attempts: int = 0
    failing_since: float | None = None
    due_at: float | None = None
    done: bool = False


class Attempt(NamedTuple):
    """An event that was attempted, in epoch seconds: when it happened, and when the attempt was over."""

    seq: int
    happened_at: float
    ended_at: float


def after(before: Progress, attempt: Attempt, answer: Answer, jitter: float) -> tuple[Progress, bool]:
    """Where a webhook stands after an attempt, and whether that event was given up.

    An event is attempted at least once and until `GIVE_UP_AFTER_S` after it happened, or after the receiver began
    to fail if that was later. Then the next event has its turn.

    Args:
        before: where it stood.
        attempt: what was attempted.
        answer: what came of it.
        jitter: a number in [0, 1).
    """
    if answer.result == "gone":
        return Progress(attempt.seq, done=True), False
    if answer.result == "delivered":
        return Progress(attempt.seq), False
    now = attempt.ended_at
    failing_since = now if before.failing_since is None else min(now, before.failing_since)
    ends_at = max(attempt.happened_at, failing_since) + GIVE_UP_AFTER_S
    if now >= ends_at:
        return Progress(attempt.seq, 0, failing_since), True
    delay = max(delay_s(before.attempts, jitter), answer.retry_after or 0.0)
    return Progress(before.cursor, before.attempts + 1, failing_since, min(now + delay, ends_at)), False


def delay_s(attempts: int, jitter: float) -> float:
    """Seconds until the next attempt when `attempts` had failed before the last one."""
    return DELAYS_S[min(attempts, len(DELAYS_S) - 1)] * (1 - JITTER + 2 * JITTER * jitter)
