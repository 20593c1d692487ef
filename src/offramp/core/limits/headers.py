"""The headers by which a provider says how long to wait: read, never believed beyond their meaning. Pure, never raises.

Headers are given as any mapping, or as pairs, of text or bytes: as HTTP clients and SDKs have them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

VALUE_CHARS_MAX = 200
"""A longer value of a header is not read."""
EPOCH_S_MIN = 1e9
"""From here on a number of seconds is a time, not a duration; a thousand times that is one in milliseconds."""

_READ = re.compile(r"retry-after|x-ratelimit|ratelimit|anthropic-ratelimit|x-amzn-errortype|content-", re.IGNORECASE)
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|us|µs|ns|d|h|m|s)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_ITEM = re.compile(r"[^,]*;\s*r=0\s*;\s*t=([0-9]+)")


def headers_of(given: object) -> dict[str, str]:
    """Those headers that are read here, in lower case."""
    try:
        items: Any = given.items() if hasattr(given, "items") else given
        pairs = [(_text(name), value) for name, value in items]
        return {name.lower(): _text(value) for name, value in pairs if _READ.match(name)}
    except Exception:  # noqa: BLE001 - what a class of the user's own may raise
        return {}


def _text(value: Any) -> str:
    text = value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else str(value)
    return text.strip() if len(text) <= VALUE_CHARS_MAX else ""


def asked_s(headers: Mapping[str, str], now: float) -> float | None:
    """The wait that a provider asks for: `retry-after-ms`, or else `Retry-After`.

    Args:
        headers: from `headers_of`.
        now: epoch seconds.

    Returns:
        seconds; None if it asks for none.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    return parse_retry_after(headers.get("retry-after"), now)


def parse_retry_after(value: object, now: float) -> float | None:
    """Seconds from a number, a string of seconds or an HTTP date; None when it is none of these."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return _from_http_date(value, now)
    return seconds if 0 <= seconds < float("inf") else None


def _from_http_date(value: object, now: float) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        left_s = max(0.0, parsedate_to_datetime(str(value)).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None
    return left_s if math.isfinite(left_s) else None


def duration_s(text: str) -> float | None:
    """Seconds from `1m3.5s`, `500ms` or `6m0s`; None for another form."""
    total, place = 0.0, 0
    while match := _PART.match(text, place):
        total += float(match[1]) * _UNIT_S[match[2]]
        place = match.end()
    return total if place and place == len(text) else None


def reset_s(headers: Mapping[str, str], now: float) -> float | None:
    """When a limit that has nothing left lets another call through; of several limits, the latest.

    `x-ratelimit-reset-requests` and `anthropic-ratelimit-requests-reset` say when such a limit is full again. It fills
    evenly, so one call is free after that time divided by the limit. The same header for tokens says nothing of the
    next call, whose size is unknown: it is not read. `x-ratelimit-reset` without a kind is the end of a fixed window,
    as is `t` in `RateLimit`.

    Args:
        headers: from `headers_of`.
        now: epoch seconds.

    Returns:
        seconds; None if every limit has something left.
    """
    waits = [
        _until(headers, "x-ratelimit-remaining", "x-ratelimit-reset", now),
        _until(headers, "ratelimit-remaining", "ratelimit-reset", now),
        *(float(match[1]) for match in _ITEM.finditer(headers.get("ratelimit", ""))),
    ]
    for remaining, reset, limit in (
        ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "x-ratelimit-limit-requests"),
        (
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
            "anthropic-ratelimit-requests-limit",
        ),
    ):
        full_s, calls = _until(headers, remaining, reset, now), _number(headers.get(limit))
        waits.append(None if full_s is None or calls is None or calls < 1 else full_s / calls)
    return max((each for each in waits if each), default=None)


def _until(headers: Mapping[str, str], remaining: str, reset: str, now: float) -> float | None:
    return _left_s(headers.get(reset), now) if _number(headers.get(remaining)) == 0 else None


def _left_s(value: str | None, now: float) -> float | None:
    """Seconds from a duration, a number of seconds, an epoch time in seconds or milliseconds, or an RFC 3339 time."""
    if not value:
        return None
    number = _number(value)
    if number is not None:
        if number >= EPOCH_S_MIN * 1000:
            number /= 1000
        return max(0.0, number - now) if number >= EPOCH_S_MIN else number
    duration = duration_s(value)
    return _from_rfc3339(value, now) if duration is None else duration


def _from_rfc3339(value: str, now: float) -> float | None:
    from datetime import datetime

    try:
        at = datetime.fromisoformat(value)
        return None if at.tzinfo is None else max(0.0, at.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < float("inf") else None
