"""The query parameters that choose runs, each refused with what it may be."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, get_args

from offramp.core.names import near_miss
from offramp.core.run import Path, Status, is_run_id
from offramp.errors import InputError
from offramp.gateway.call import query_pointer
from offramp.ports.listing import RunFilter

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
FILTER_LENGTH_MAX = 200
STATUSES: tuple[str, ...] = get_args(Status)
PATHS: tuple[str, ...] = get_args(Path)
BOOLEANS = ("true", "false")
ORDERS = {"desc": True, "asc": False}
LISTED = (
    "session_id",
    "status",
    "pipeline",
    "class",
    "path",
    "waiting",
    "since",
    "until",
    "q",
    "order",
    "limit",
    "after",
)
"""The parameters of a listing."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UNESCAPED_PLUS = re.compile(r" (?=\d\d:\d\d$)")


def run_filter(tenant: str, query: Mapping[str, str]) -> RunFilter:
    """The runs of a tenant that a query asks for.

    Raises:
        InputError: a parameter has an impossible value.
    """
    after = query.get("after")
    if after is not None and not is_run_id(after):
        raise refused("after", "the `after` of the previous page")
    values: dict[str, Any] = {
        "session_id": text_of(query, "session_id"),
        "pipeline": text_of(query, "pipeline"),
        "status": choice_of(query, "status", STATUSES),
        "sla": text_of(query, "class"),
        "path": choice_of(query, "path", PATHS),
        "waiting": choice_of(query, "waiting", BOOLEANS) == "true",
        "since": _time(query, "since"),
        "until": _time(query, "until"),
        "q": text_of(query, "q") or None,
        "newest_first": ORDERS[choice_of(query, "order", ORDERS) or "desc"],
        "after": after,
        "limit": _limit(query.get("limit")),
    }
    return RunFilter(tenant=tenant, **values)


def text_of(query: Mapping[str, str], name: str) -> str | None:
    """A text of at most `FILTER_LENGTH_MAX` characters; None if it is not given.

    Raises:
        InputError: it is longer, or has control characters.
    """
    text = query.get(name)
    if text is None:
        return None
    if len(text) > FILTER_LENGTH_MAX or any(ord(character) < ord(" ") for character in text):
        raise refused(name, f"at most {FILTER_LENGTH_MAX} characters, without control characters")
    return text


def choice_of(query: Mapping[str, str], name: str, known: Collection[str]) -> str | None:
    """One of the known values; None if it is not given.

    Raises:
        InputError: it is another one.
    """
    value = query.get(name)
    if value is not None and value not in known:
        raise refused(name, f"one of {', '.join(known)}{near_miss(value, known)}")
    return value


def _time(query: Mapping[str, str], name: str) -> float | None:
    """A time in epoch seconds; its `+` may have arrived as a space, as it does unless the client escapes it."""
    given = query.get(name)
    if given is None:
        return None
    text = _UNESCAPED_PLUS.sub("+", given[:FILTER_LENGTH_MAX])
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError):
        pass
    raise refused(name, f"a time such as 2026-11-21T09:30:00Z, got {given[:40]!r}")


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= LIMIT_MAX):
        raise refused("limit", f"a whole number from 1 to {LIMIT_MAX}, got {text[:20]!r}")
    return int(text)


def refused(name: str, message: str) -> InputError:
    """The error for a parameter, which says what it is to be."""
    return InputError(f"{name} is {message}", [(query_pointer(name), message)])
