"""Statistics in memory."""

from __future__ import annotations

from collections.abc import Sequence

from offramp.core.stats import KEPT_MINUTES, Cell, Counts, added


class MemoryCells:
    """Counts by width, number, tenant, pipeline and class; its user locks."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int, str, str, str], Counts] = {}

    def add(self, cells: Sequence[Cell]) -> None:
        """Add to the counts, and remove those too old to be read."""
        newest = dict.fromkeys(KEPT_MINUTES, 0)
        for cell in cells:
            key = cell.width, cell.number, cell.tenant, cell.pipeline, cell.sla
            self._counts[key] = added(self._counts.get(key, {}), cell.counts)
            newest[cell.width] = max(newest[cell.width], cell.number)
        oldest = {width: number - KEPT_MINUTES[width] // width for width, number in newest.items()}
        self._counts = {key: counts for key, counts in self._counts.items() if key[1] >= oldest[key[0]]}

    def summed(self, width: int, first: int, last: int, tenant: str) -> dict[tuple[str, str], dict[str, int]]:
        """The sums of a tenant's cells, by pipeline and class."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        for (each, number, whose, pipeline, sla), counts in self._counts.items():
            if (each, whose) == (width, tenant) and first <= number <= last:
                found[pipeline, sla] = added(found.get((pipeline, sla), {}), counts)
        return found
