"""Values that are too large for journals and records: objects, each of one run.

Obligations of every adapter; `offramp.conformance` proves them and cites them by id:

B1 `put` returns when the object is kept for good, whole, for every process; its reference tells run, size and SHA-256.
B2 The same bytes put again for their run, by whichever process and at the same time, are the same object.
B3 `get` gives the bytes that were put, or raises `ObjectLost`: for an object that is not there, and for one that was
   changed or cut short.
B4 `stream` gives the same bytes in order, in parts of at most `PART_BYTES_MAX`; it raises as `get` does, at the latest
   in the place of the last part.
B5 `delete` removes every object of the runs that it is given, and no other; what is not there is no error.
B6 A place that cannot be reached, or refuses, is `ObjectsUnavailable`, which tells where and what to change, and no
   secret; nothing is taken for lost then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from offramp.core.reference import Reference

PART_BYTES_MAX = 1 << 20
"""Of one part of a stream: what a reader, however slow, keeps in memory."""


class Blobs(Protocol):
    """See the obligations at the top of this module. Usable from any event loop."""

    @property
    def where(self) -> str:
        """The place, as logs may name it (B6)."""

    async def put(self, run_id: str, data: bytes) -> Reference:
        """Keep bytes (B1, B2).

        Raises:
            ObjectsUnavailable: they are not kept, as far as is known (B6).
        """

    async def get(self, reference: Reference) -> bytes:
        """The bytes (B3).

        Raises:
            ObjectLost: there are none, or others.
            ObjectsUnavailable: it cannot be told now (B6).
        """

    def stream(self, reference: Reference) -> AsyncGenerator[bytes, None]:
        """The bytes in parts (B4); raises as `get` does."""

    async def delete(self, run_ids: Sequence[str]) -> None:
        """Remove what these runs have (B5).

        Raises:
            ObjectsUnavailable: some of it may still be there (B6).
        """

    def close(self) -> None:
        """Give up what is open here (B6 for whoever asks afterwards)."""
