"""The hybrid service in virtual time: a gateway with a budget, a queue in the real order of `core.order`, and workers.

Everything else is left out: no store, no network, no work of the machine. It shows what the order alone does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from bench._burst import BUDGET_S, INTERACTIVE, Work
from offramp.core.order import Queue, Waiter
from offramp.core.sla import SLA


class Ended(NamedTuple):
    """A run at its end: how long it took from acceptance, how much of that it waited, and whether it went deep."""

    work: Work
    took_s: float
    waited_s: float
    deep: bool


def split(work: Work, budget_s: float) -> tuple[float, float]:
    """When a run leaves the gateway, in seconds from its acceptance, and how much is left then; 0 if it ended there.

    It leaves between two calls: the call in flight at the end of the budget ends in the gateway, and so does the run if
    that was its last.
    """
    ends_s = list(itertools.accumulate(work.calls_s))
    leaves_s = next((at for at in ends_s if at > budget_s), ends_s[-1]) if budget_s else 0.0
    return leaves_s, ends_s[-1] - leaves_s


class Service:
    """Runs through the gateway and so many places in workers.

    Args:
        places: how many runs the workers execute at once.
        classes: by name; without them all runs are of one class and one tenant, the oldest first.
        budget_s: of interactive runs; 0 sends all to the workers at once.
    """

    def __init__(self, places: int, classes: Mapping[str, SLA] | None, budget_s: float = BUDGET_S) -> None:
        self._free = places
        self._classes = classes
        self._budget_s = budget_s
        self._queue = Queue(classes or {})
        self._order = itertools.count()
        self._events: list[tuple[float, int, Waiter | None]] = []
        self._runs: dict[str, tuple[Work, float, float]] = {}
        self._ended: list[Ended] = []

    def serve(self, load: Sequence[Work]) -> list[Ended]:
        """Every run, at its end."""
        for number, work in enumerate(load):
            leaves_s, left_s = split(work, self._budget_s if work.sla == INTERACTIVE else 0.0)
            if not left_s:
                self._ended.append(Ended(work, leaves_s, 0.0, deep=False))
                continue
            waiter = self._waiter(f"{number:06}", work)
            self._runs[waiter.id] = work, work.at + leaves_s, left_s
            heappush(self._events, (work.at + leaves_s, next(self._order), waiter))
        while self._events:
            now, _, waiter_ = heappop(self._events)
            if waiter_ is None:
                self._free += 1
            else:
                self._queue.add(waiter_)
            self._grant(now)
        return self._ended

    def _waiter(self, name: str, work: Work) -> Waiter:
        if self._classes is None:
            return Waiter(name, since=work.at)
        return Waiter(name, work.sla, work.tenant, self._classes[work.sla].priority, work.at)

    def _grant(self, now: float) -> None:
        # Without classes nothing is overdue before another.
        overdue = self._queue.overdue(now) if self._classes is not None and self._free else ()
        while self._free and (waiter := self._queue.take(overdue)) is not None:
            self._free -= 1
            work, since, left_s = self._runs.pop(waiter.id)
            heappush(self._events, (now + left_s, next(self._order), None))
            self._ended.append(Ended(work, now + left_s - work.at, now - since, deep=True))


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN without values."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else math.nan
