"""Maps moments of a run to cells of a line; long stretches in which no step executes are drawn shorter.

Pure arithmetic, so that a run that waited for three days still shows the two seconds in which it worked.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable

from offramp.core.critical import union

SHORTENED_FROM = 4.0
"""An idle stretch longer than this many times all the time in steps is drawn as long as that time."""
LEAST_S = 1e-6
"""The resolution of event times: milliseconds."""
_NICE = (1.0, 2.0, 5.0)


class Scale:
    """Maps 0 to `took` seconds onto `width` cells.

    Args:
        took: seconds the run took.
        busy: when steps executed.
        width: cells, 1 or more.
    """

    def __init__(self, took: float, busy: Iterable[tuple[float, float]], width: int) -> None:
        self.width = max(1, width)
        took = took if took >= LEAST_S else 0.0
        working = union((max(0.0, start), min(stop, took)) for start, stop in busy)
        worked = sum(stop - start for start, stop in working)
        edges = sorted({0.0, took, *(edge for interval in working for edge in interval)})
        self._times = [0.0]
        self._shown = [0.0]
        self._cut: list[bool] = []
        starts = {start for start, _ in working}
        for start, stop in itertools.pairwise(edges):
            cut = start not in starts and worked > 0.0 and stop - start > SHORTENED_FROM * worked
            self._cut.append(cut)
            self._times.append(stop)
            self._shown.append(self._shown[-1] + (worked if cut else stop - start))

    def cell(self, at: float) -> int:
        """The cell of a moment, from 0 to `width` - 1."""
        whole = self._shown[-1]
        if whole <= 0.0:
            return 0
        return min(self.width - 1, max(0, math.floor(self._place(at) / whole * self.width)))

    def cells(self, start: float, end: float) -> range:
        """The cells of a stretch of time, one at least."""
        first = self.cell(start)
        whole = self._shown[-1]
        # A stretch that ends where a cell begins has nothing in that cell, whatever the last bit of a float says.
        after = math.ceil(self._place(end) / whole * self.width - 1e-9) if whole > 0.0 else 1
        return range(first, min(self.width, max(first + 1, after)))

    def shortened(self) -> list[range]:
        """The cells of the stretches that are drawn shorter than they are."""
        pieces = zip(self._cut, self._times, self._times[1:], strict=False)
        return [self.cells(start, stop) for cut, start, stop in pieces if cut]

    def ticks(self, cells_apart: int) -> list[tuple[int, float]]:
        """Round moments of the stretches that are drawn in full, as (cell, seconds), about so far apart."""
        whole = self._shown[-1]
        if whole <= 0.0:
            return []
        step = nice(whole * cells_apart / self.width)
        found: list[tuple[int, float]] = []
        for cut, start, stop in zip(self._cut, self._times, self._times[1:], strict=False):
            number = math.ceil(start / step)
            while not cut and number * step < stop:
                cell = self.cell(number * step)
                if not found or cell - found[-1][0] >= cells_apart // 2:
                    found.append((cell, number * step))
                number += 1
        return found

    def _place(self, at: float) -> float:
        piece = bisect.bisect_right(self._times, at) - 1
        if piece >= len(self._cut):
            return self._shown[-1]
        piece = max(0, piece)
        start, stop = self._times[piece], self._times[piece + 1]
        share = (at - start) / (stop - start)
        return self._shown[piece] + share * (self._shown[piece + 1] - self._shown[piece])


def nice(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in _NICE if factor * power >= least), 10.0 * power)
