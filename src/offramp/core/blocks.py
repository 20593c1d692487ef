"""Counts that gateways share by adding, in blocks by the time of their beginning; dropping old blocks forgets. Pure.

A process adds to its own part, gives it to the store, and reads the sums of all processes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from offramp.core.bands import Counts, add

BLOCKS_KEPT = 16
BLOCK_MINUTES = 10
"""The shortest time for which a block is filled."""


class Blocks:
    """The counts of all processes, as far as this one knows them."""

    def __init__(self) -> None:
        self._shared: Mapping[int, Counts] = {}
        self._taken: list[dict[int, Counts]] = []
        self._pending: dict[int, Counts] = {}

    def numbers(self) -> list[int]:
        """The kept blocks, the latest first; a number is the minute of the epoch in which its block began."""
        found = {number for blocks in self._everything() for number in blocks}
        return sorted(found, reverse=True)[:BLOCKS_KEPT]

    def parts(self, number: int) -> Iterator[Counts]:
        """The counts of a block, in parts that add up."""
        return (blocks[number] for blocks in self._everything() if number in blocks)

    def sum(self, number: int, cell: str, name: str) -> float:
        """One count of a block."""
        return sum(counts.get(cell, {}).get(name, 0.0) for counts in self.parts(number))

    def add(self, number: int, counts: Counts) -> None:
        """Count here."""
        add(self._pending.setdefault(number, {}), counts)

    def take(self) -> dict[int, Counts]:
        """What was counted here since the last call: the store adds it to what it has."""
        taken, self._pending = self._pending, {}
        if taken:
            self._taken.append(taken)
        return taken

    def written(self) -> None:
        """What was taken is in the sums that were given with `replace`, which their owner has added it to."""
        self._taken = []

    def put_back(self) -> None:
        """The store has not added what was taken last: the next `take` gives it again."""
        if self._taken:
            for number, counts in self._taken.pop().items():
                self.add(number, counts)

    def replace(self, blocks: Mapping[int, Counts]) -> None:
        """Use the sums that the store has: they include what was taken here; what was counted since is added."""
        self._shared, self._taken = blocks, []

    def expired(self) -> list[int]:
        """Blocks that the store may delete."""
        return sorted(self._shared)[:-BLOCKS_KEPT]

    def _everything(self) -> tuple[Mapping[int, Counts], ...]:
        return self._shared, *self._taken, self._pending
