"""Inputs and outputs as traces show them, if they do: cut, and without credentials.

Redaction uses the names of keys in objects and of parameters; it does not detect a secret within a text.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from offramp.core.reference import reference_in

DECODED_BYTES_MAX = 1 << 18
"""The largest value that is decoded and redacted; of a larger one, only the size is shown."""
REDACTED = "[redacted]"
_CREDENTIAL = re.compile(
    r"passw|passphrase|secret|token(?!s|iz)|api.?key|access.?key|private.?key|credential|authorization|cookie|bearer",
    re.IGNORECASE,
)


def shown(encoded: bytes, bytes_max: int, parameters: list[str] | None = None) -> str:
    """Encoded JSON for a person.

    Args:
        encoded: the value.
        bytes_max: the length it is cut to.
        parameters: the names of arguments, in order; the value is an object of them, or an earlier version's list.
    """
    elsewhere = reference_in(encoded)
    size = f"({len(encoded) if elsewhere is None else elsewhere.size} bytes)"
    if elsewhere is not None or len(encoded) > DECODED_BYTES_MAX:
        return size
    try:
        value = msgspec.json.decode(encoded)
        if parameters is not None:
            by_name = value if isinstance(value, dict) else dict(zip(parameters, value, strict=False))
            value = {name: by_name[name] for name in parameters if name in by_name}
        return cut(msgspec.json.encode(redacted(value)), bytes_max)
    except RecursionError:  # nested too deep to be searched
        return size


def redacted(value: Any) -> Any:
    """The value with the contents of credential keys redacted."""
    if isinstance(value, dict):
        return {key: REDACTED if _CREDENTIAL.search(key) else redacted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [redacted(each) for each in value]
    return value


def cut(text: bytes, bytes_max: int) -> str:
    """At most `bytes_max` of UTF-8, in whole characters, with an ellipsis if the text is cut."""
    if len(text) <= bytes_max:
        return text.decode()
    return text[:bytes_max].decode(errors="ignore") + "…"
