"""Points in time as run documents and events show them: RFC 3339, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

NEVER_S = 253_402_300_800.0
"""The year 10000, in epoch seconds: what is due from here on cannot be written, nor waited for."""


def rfc3339(epoch_s: float) -> str:
    """Seconds since the epoch as `2026-11-21T09:30:00.123Z`."""
    return _millisecond(int(epoch_s * 1000))


# Every event of a process carries one: under load many the same, always most of them of the same few seconds.
@lru_cache(maxsize=64)
def _millisecond(epoch_ms: int) -> str:
    second, ms = divmod(epoch_ms, 1000)
    return f"{_second(second)}.{ms:03d}Z"


@lru_cache(maxsize=64)
def _second(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
