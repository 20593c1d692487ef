"""The credential of a request, as a digest: the key itself is never kept, sent or shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

HEADERS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
"""Where providers look for a key, in this order."""
SCHEMES = (b"bearer", b"basic", b"token", b"key", b"apikey", b"api-key")
"""Kinds of `Authorization` that carry a key as it is; others make a new text for each request."""

_SIGNED = b"AWS4-HMAC-SHA256 Credential="

Headers = Iterable[tuple[bytes, bytes]]
"""As both libraries have them raw."""


def digest(headers: Headers) -> str:
    """A text that is the same for the same key; empty without one."""
    given = {name.lower(): value for name, value in headers}
    name = next((each for each in HEADERS if each in given), b"")
    value = given.get(name, b"")
    if value.startswith(_SIGNED):  # each request is signed anew, with the same key
        value = value[: len(_SIGNED)] + value[len(_SIGNED) :].partition(b"/")[0]
    elif name == b"authorization":
        scheme, space, _ = value.partition(b" ")
        if space and scheme.lower() not in SCHEMES:
            return ""
    return hashlib.sha256(value).hexdigest() if value else ""
