"""What stands for a value that is kept elsewhere: its key, size and checksum.

An encoded value is JSON as it is, or a reference to that JSON. No JSON begins like a reference, so both travel as bytes
through journals, records and engines that know of neither.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

_MARK = b"@"
"""No JSON text begins with it (RFC 8259)."""


class Reference(msgspec.Struct, frozen=True):
    """An object of one run: `key` is `RUN/SHA256`, below wherever objects are kept; `size` is in bytes."""

    key: str
    size: int
    sha256: str

    @property
    def run_id(self) -> str:
        """Whose object it is."""
        return self.key.partition("/")[0]

    def encoded(self) -> bytes:
        """In the place of the value."""
        return _MARK + _encode(self)

    def document(self) -> dict[str, Any]:
        """For JSON that a person may read."""
        return msgspec.structs.asdict(self)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Reference).decode


def reference_to(run_id: str, data: bytes) -> Reference:
    """The reference of these bytes, made of nothing but their content and their run."""
    digest = sha256(data).hexdigest()
    return Reference(f"{run_id}/{digest}", len(data), digest)


def reference_in(encoded: bytes | None) -> Reference | None:
    """The reference that stands in the place of a value; None for a value that is there itself."""
    if encoded is None or not encoded.startswith(_MARK):
        return None
    return _decode(encoded[len(_MARK) :])
