"""Objects: values too large for journals and records, each of one run.

Obligations of every adapter; `offramp.conformance` proves them and cites them by id:

B1 `put` returns once the whole object is stored for good, for every process; its reference holds run, size and SHA-256.
B2 The same bytes put again for their run are the same object, whichever process puts them, also concurrently.
B3 `get` returns the bytes that were put, or raises `ObjectLost` if the object is missing, changed or truncated.
B4 `stream` yields the same bytes in order, in parts of at most `PART_BYTES_MAX`; it raises as `get` does, at the latest
   in place of the last part.
B5 `delete` removes every object of the given runs, and no other; a missing object is not an error.
B6 If the place cannot be reached, or refuses, every call raises `ObjectsUnavailable`, which names the place and the
   remedy, and shows no secret; no object counts as lost then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from offramp.core.reference import Reference

PART_BYTES_MAX = 1 << 20
"""The size of one part of a stream: a reader, however slow, keeps no more in memory."""


class Blobs(Protocol):
    """See the obligations at the top of this module. Usable from any event loop."""

    @property
    def where(self) -> str:
        """The place's name in logs (B6)."""

    async def put(self, run_id: str, data: bytes) -> Reference:
        """Keep bytes (B1, B2).

        Raises:
            ObjectsUnavailable: they are not stored, as far as is known (B6).
        """

    async def get(self, reference: Reference) -> bytes:
        """The bytes (B3).

        Raises:
            ObjectLost: the object is missing, or has other bytes.
            ObjectsUnavailable: the place does not answer now (B6).
        """

    def stream(self, reference: Reference) -> AsyncGenerator[bytes, None]:
        """The bytes in parts (B4); raises as `get` does."""

    async def delete(self, run_ids: Sequence[str]) -> None:
        """Remove all objects of these runs (B5).

        Raises:
            ObjectsUnavailable: some may still be there (B6).
        """

    def close(self) -> None:
        """Close all connections; later calls raise `ObjectsUnavailable` (B6)."""
