"""The credential of a request, as a digest: the key itself is never kept, sent or shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

HEADERS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
"""Where providers look for a key, in this order."""
DIGEST_LENGTH = 16

_SIGNED = b"AWS4-HMAC-SHA256 Credential="

Headers = Iterable[tuple[bytes, bytes]]
"""As both libraries have them raw."""


def digest(headers: Headers) -> str:
    """A text that is the same for the same key; empty without one."""
    given = {name.lower(): value for name, value in headers}
    value = next((given[name] for name in HEADERS if name in given), b"")
    if value.startswith(_SIGNED):  # each request is signed anew, with the same key
        value = value[: len(_SIGNED)] + value[len(_SIGNED) :].partition(b"/")[0]
    return hashlib.sha256(value).hexdigest()[:DIGEST_LENGTH] if value else ""


class Credentials:
    """The credentials that the clients of a resource use in this process.

    The only one is the resource's own, which has no name: what a step waits for before its request is known counts for
    it. As soon as there are several, each has its digest.
    """

    def __init__(self) -> None:
        self._known: str | None = None
        self._several = False

    def name(self, headers: Headers) -> str:
        """What the limits know the request's credential by."""
        found = digest(headers)
        if self._known is None:
            self._known = found
        self._several = self._several or found != self._known
        return found if self._several else ""
