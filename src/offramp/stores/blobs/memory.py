"""Objects in memory, for one process and its tests."""

from __future__ import annotations

from collections.abc import Sequence

from offramp.stores.blobs.blobs import Missing


class Memory:
    """See `Place`."""

    where = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def write(self, key: str, data: bytes) -> None:
        """Keep it until the process ends."""
        self.objects[key] = data

    def read(self, key: str, start: int, length: int) -> bytes:
        """Read from a position on."""
        try:
            return self.objects[key][start : start + length]
        except KeyError:
            raise Missing from None

    def clear(self, run_ids: Sequence[str]) -> None:
        """Remove all objects of these runs."""
        gone = {key for key in list(self.objects) if key.partition("/")[0] in run_ids}
        for key in gone:
            self.objects.pop(key, None)
