"""A reference to a value stored elsewhere: its key, size and checksum.

An encoded value is JSON as it is, or a reference to that JSON. No JSON begins like a reference, so both travel as bytes
through journals, records and engines that know neither.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import msgspec

_MARK = b"@"
"""No JSON text begins with it (RFC 8259)."""
_KEY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


class Reference(msgspec.Struct, frozen=True):
    """An object of one run: `key` is `RUN/SHA256`, below wherever objects are kept; `size` is in bytes."""

    key: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        """Check that the key leads nowhere else: it may come from where others can write.

        Raises:
            ValueError: it does.
        """
        if _KEY.fullmatch(self.key) is None or self.size < 0:
            raise ValueError(f"{self.key[:100]!r} is not the key of an object")

    @property
    def run_id(self) -> str:
        """The run that owns the object."""
        return self.key.partition("/")[0]

    def encoded(self) -> bytes:
        """The bytes that replace the value."""
        return _MARK + _encode(self)

    def document(self) -> dict[str, Any]:
        """The reference as JSON for people."""
        return msgspec.structs.asdict(self)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Reference).decode


def reference_to(run_id: str, data: bytes) -> Reference:
    """The reference of these bytes, a function of their content and their run alone."""
    digest = sha256(data).hexdigest()
    return Reference(f"{run_id}/{digest}", len(data), digest)


def reference_in(encoded: bytes | None) -> Reference | None:
    """The reference that stands in the place of a value; None for a value that is there itself."""
    if encoded is None or not encoded.startswith(_MARK):
        return None
    return _decode(encoded[len(_MARK) :])
