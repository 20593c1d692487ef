"""Exact sliding windows: what counts in each of several windows at once, and when so much more will fit. Pure.

An amount is open from its grant on, and counts without end; from the moment at which it is noted it counts for the
length of each window and a margin.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from offramp.core.rates import Rate

MARGIN_S = 0.05
"""For how much longer than its window a call counts: requests reach a provider after different times."""
ENTRIES_MAX = 10_000
"""Entries of a log. Where more may fall into its longest window, those that are close in time share one, which counts
for as long as the last of them."""
_COARSEST = 0.01
"""The part of its shortest window for which an entry of a log collects, at most."""
_LOOSE = 64
"""Entries that no window counts any more that are kept, beside as many as count, before they are dropped."""


class Windows:
    """What counts in windows of several lengths.

    Args:
        rates: so much in any so many seconds; none limits nothing.
        margin_s: seconds for which everything counts longer.
    """

    __slots__ = ("_began", "_gone", "_heads", "_slot_s", "_spans", "_sums", "_times", "_total", "open", "rates")

    def __init__(self, rates: Sequence[Rate], margin_s: float = MARGIN_S) -> None:
        self.rates = tuple(rates)
        self.open = 0
        """What was granted and not noted: it counts without end."""
        self._spans = [rate.seconds + margin_s for rate in rates]
        self._times: list[float] = []
        self._sums: list[int] = []
        """By entry, what was noted up to it, all in all."""
        self._total = 0
        self._heads = [0] * len(self.rates)
        """By window, the place of the first entry that counts in it."""
        self._gone = [0] * len(self.rates)
        """By window, what was noted before that entry."""
        self._began = -math.inf
        self._slot_s = slot_s(self.rates)

    def used(self, window: int) -> int:
        """What counts in a window now, as of the last `pass_to`."""
        return self.open + self._total - self._gone[window]

    def fits(self, amount: int, limits: Sequence[int]) -> bool:
        """Whether so much more keeps every limit; what is more than a limit fits into an empty window."""
        base = self.open + self._total
        for limit, gone in zip(limits, self._gone, strict=True):
            used = base - gone
            if used + amount > limit and used:
                return False
        return True

    def note(self, now: float, amount: int, opened: int) -> None:
        """An open amount counts from now on, as another one perhaps.

        An earlier time than that of the last one is taken to be that one: it counts no shorter than it should.
        """
        self.open -= opened
        if not self._spans or amount <= 0:
            return
        if self._times and now < self._times[-1]:
            now = self._times[-1]
        self._total += amount
        if now - self._began < self._slot_s:
            self._times[-1] = now
            self._sums[-1] = self._total
            return
        self._began = now
        self._times.append(now)
        self._sums.append(self._total)

    def pass_to(self, now: float) -> None:
        """Count what still counts at this time."""
        times = self._times
        if not times:
            return
        ended = len(times)
        for window, span in enumerate(self._spans):
            head = self._heads[window]
            if head < ended and times[head] + span <= now:
                while head < ended and times[head] + span <= now:
                    head += 1
                self._heads[window] = head
                self._gone[window] = self._sums[head - 1]
        least = min(self._heads)
        if least > _LOOSE and 2 * least > ended:
            self._drop(least)

    def free_at(self, window: int, now: float, amount: float, limit: float) -> float:
        """When so much more fits into a window, if nothing else is granted.

        What is open is taken to be noted now. More than the whole window holds takes it several times over.
        """
        total = self.used(window)
        need = total + amount - limit
        if need <= 0 or not total:
            return now
        span, rounds = self._spans[window], 0
        if need > total:
            rounds = math.ceil((need - total) / limit)
            need -= rounds * limit
        if need <= 0:
            first = now
        elif need <= total - self.open:
            place = bisect_left(self._sums, self._gone[window] + need, self._heads[window])
            first = self._times[place] + span
        else:
            first = now + span
        return first + rounds * span

    def entries(self, now: float) -> list[tuple[float, int]]:
        """What counts in the longest window: seconds since each was noted, and the amount."""
        if not self._spans:
            return []
        longest = self._spans.index(max(self._spans))
        head, before = self._heads[longest], self._gone[longest]
        found = []
        for time, so_far in zip(self._times[head:], self._sums[head:], strict=True):
            found.append((now - time, so_far - before))
            before = so_far
        return found

    def recall(self, now: float, entries: Iterable[tuple[float, int]]) -> None:
        """Count also what was noted elsewhere, as `entries` gives it."""
        mine = [(now - ago_s, amount) for ago_s, amount in self.entries(now)]
        merged = sorted([*mine, *((now - max(0.0, ago_s), amount) for ago_s, amount in entries)])
        self._times, self._sums, self._total, self._began = [], [], 0, -math.inf
        self._heads, self._gone = [0] * len(self.rates), [0] * len(self.rates)
        for time, amount in merged:
            self.note(time, amount, 0)
        self.pass_to(now)

    def _drop(self, count: int) -> None:
        del self._times[:count]
        del self._sums[:count]
        self._heads = [head - count for head in self._heads]


def slot_s(rates: Sequence[Rate]) -> float:
    """For how long an entry collects what is noted after it: not at all if each may have its own."""
    if not rates:
        return 0.0
    longest, shortest = max(rate.seconds for rate in rates), min(rate.seconds for rate in rates)
    if min(rate.limit for rate in rates if rate.seconds == longest) <= ENTRIES_MAX:
        return 0.0
    return min(longest / ENTRIES_MAX, shortest * _COARSEST)
