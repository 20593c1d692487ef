"""What waits for one resource, in the order of `core.order`, and how many go before each. Pure.

Asks whose asker holds a permit go before all others: what they hold comes free the sooner.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import msgspec

from offramp.core.limits.messages import Ask
from offramp.core.order import Queue, Waiter
from offramp.core.sla import SLA


class Waiting:
    """An ask that was not answered yet.

    Args:
        client: the process that asked.
        ask: its ask.
        waiter: its place in the order; of a higher class than the ask says if a run of that class waits for it.
        tokens: what it needs.
        holds: the ids of permits that are kept while it waits.
    """

    __slots__ = ("ask", "client", "holds", "tokens", "waiter")

    def __init__(self, client: str, ask: Ask, waiter: Waiter, tokens: int, holds: tuple[str, ...]) -> None:
        self.client, self.ask, self.waiter, self.tokens, self.holds = client, ask, waiter, tokens, holds


class _Level:
    """The waiters of one priority: their ids by tenant, in order."""

    __slots__ = ("count", "lines")

    def __init__(self) -> None:
        self.count = 0
        self.lines: dict[str, list[str]] = {}


class Backlog:
    """What waits for one resource.

    Args:
        classes: by name, with the `share` that they get of this resource.
    """

    def __init__(self, classes: Mapping[str, SLA]) -> None:
        self.entries: dict[str, Waiting] = {}
        self._earned: dict[str, float] = {}
        self._first = Queue(classes)
        self._rest = Queue(classes, self._earned)
        self._levels: dict[int, _Level] = {}
        self._first_count = 0
        self._counts: Counter[tuple[int, str]] = Counter()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(list(self.entries.values()))

    def add(self, entry: Waiting) -> None:
        """One more waits."""
        waiter = entry.waiter
        self.entries[waiter.id] = entry
        self._counts[waiter.priority, waiter.sla] += 1
        if entry.holds:
            self._first_count += 1
            self._first.add(waiter)
            return
        self._rest.add(waiter)
        level = self._levels.get(waiter.priority)
        if level is None:
            level = self._levels[waiter.priority] = _Level()
        level.count += 1
        insort(level.lines.setdefault(waiter.tenant, []), waiter.id)

    def remove(self, entry: Waiting) -> None:
        """One waits no longer."""
        del self.entries[entry.waiter.id]
        (self._first if entry.holds else self._rest).remove(entry.waiter)
        self._forget(entry)

    def lift(self, entry: Waiting, sla: str, priority: int) -> None:
        """One counts as of another class from now on; its age stays."""
        self.remove(entry)
        entry.waiter = msgspec.structs.replace(entry.waiter, sla=sla, priority=priority)
        self.add(entry)

    def overdue(self, now: float) -> set[str]:
        """The classes whose oldest waiter has waited for longer than `patience`."""
        return self._rest.overdue(now)

    def classes(self) -> dict[str, tuple[int, float]]:
        """By class, how many wait, and since when the oldest does."""
        counts: Counter[str] = Counter()
        for (_, sla), count in self._counts.items():
            counts[sla] += count
        return {sla: (count, self.oldest(sla)) for sla, count in counts.items()}

    def oldest(self, sla: str) -> float:
        """Since when the oldest of a class waits; infinity if none does."""
        found = (queue.oldest(sla) for queue in (self._first, self._rest))
        return min((since for since in found if since is not None), default=math.inf)

    def queued(self, sla: str) -> int:
        """How many of a class wait that hold nothing."""
        return self._rest.waiting(sla)

    def top(self) -> tuple[float, str]:
        """The highest priority of what waits, less than any if nothing does, and its class."""
        return max(self._counts, default=(-math.inf, ""))

    def first(self, overdue: Collection[str]) -> Waiting:
        """What goes next; something waits."""
        waiter = self._first.peek() if self._first_count else self._rest.peek(overdue)
        assert waiter is not None  # noqa: S101 - for the types: something waits
        return self.entries[waiter.id]

    def take(self, entry: Waiting, overdue: Collection[str]) -> None:
        """What goes next, as `first` says, is granted."""
        del self.entries[entry.waiter.id]
        if entry.holds:
            self._first.take()
        else:
            self._rest.take(overdue)
        self._forget(entry)

    def spend(self, sla: str) -> None:
        """A class is granted something beside the order, and has one less to its credit."""
        self._earned[sla] = max(0.0, self._earned.get(sla, 0.0) - 1.0)

    def highest(self) -> int:
        """The highest priority of what waits and holds nothing; something does."""
        return max(self._levels)

    def ahead(self, entry: Waiting) -> int:
        """How many go before one, as it looks now: the tenants of a priority take turns."""
        waiter = entry.waiter
        if entry.holds:
            return self._first_count - 1
        level = self._levels[waiter.priority]
        line = level.lines[waiter.tenant]
        own = bisect_left(line, waiter.id)
        others = min(level.count - len(line), (own + 1) * (len(level.lines) - 1))
        higher = sum(each.count for priority, each in self._levels.items() if priority > waiter.priority)
        return self._first_count + higher + own + others

    def _forget(self, entry: Waiting) -> None:
        waiter = entry.waiter
        place = waiter.priority, waiter.sla
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._counts[place]
        if entry.holds:
            self._first_count -= 1
            return
        level = self._levels[waiter.priority]
        line = level.lines[waiter.tenant]
        del line[bisect_left(line, waiter.id)]
        level.count -= 1
        if not line:
            del level.lines[waiter.tenant]
        if not level.count:
            del self._levels[waiter.priority]
