"""The order of every queue: which class is next, which of its tenants, which of that tenant's runs. Decisions alone.

The highest class goes first. A class whose oldest waiter is overdue gets its share of the grants all the same. Classes
of one priority are fair between tenants by start-time fair queueing (Goyal, Vin, Cheng, 1996): each tenant has a tag,
the smallest goes next and grows by what it was granted. Of one tenant, the run that was accepted first goes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

import msgspec

from offramp.core.sla import DEFAULT_CLASS, SLA

DUE = 1.0 - 1e-9
"""The credit that is worth a grant: sums of fractions miss 1 by a rounding error."""
SPARE = 64
"""Things that no longer count that are kept, beside as many as count, before they are looked for."""

T = TypeVar("T", bound=Any)


class Waiter(msgspec.Struct, frozen=True, gc=False):
    """What waits in a queue.

    Attributes:
        id: unique in the queue. It begins with the id of the run, so the smaller one was accepted first.
        sla: the class.
        tenant: the tenant.
        priority: the priority of the class when the run was accepted.
        since: when its wait began, in seconds of any clock.
        cost: how much of the tenant's turn a grant uses up.
    """

    id: str
    sla: str = DEFAULT_CLASS.name
    tenant: str = ""
    priority: int = 0
    since: float = 0.0
    cost: float = 1.0


class Heap(Generic[T]):
    """A heap whose items cease to count by themselves; it keeps no more of those than `SPARE`, and as many as count."""

    def __init__(self, counts: Callable[[T], bool]) -> None:
        self._items: list[T] = []
        self._counts = counts
        self._room = SPARE

    def push(self, item: T) -> None:
        """One more."""
        heappush(self._items, item)
        if len(self._items) > self._room:
            self._items = list({each for each in self._items if self._counts(each)})
            heapify(self._items)
            self._room = 2 * len(self._items) + SPARE

    def first(self) -> T | None:
        """The least item that counts."""
        while self._items and not self._counts(self._items[0]):
            heappop(self._items)
        return self._items[0] if self._items else None

    def pop(self) -> T:
        """Remove what `first` returned."""
        return heappop(self._items)


class Line:
    """The waiters of one tenant in one class.

    Args:
        priority: of the class.
        sla: the class.
        tenant: the tenant.
        waiters: the first of them, in any order.
        more: gives the next ones, and none at the end; None if `waiters` are all.
    """

    def __init__(
        self,
        priority: int,
        sla: str,
        tenant: str,
        waiters: Iterable[Waiter] = (),
        more: Callable[[], Iterable[Waiter]] | None = None,
    ) -> None:
        self.priority, self.sla, self.tenant = priority, sla, tenant
        self.known: dict[str, Waiter] = {}
        self.key: tuple[float, str] | None = None
        """Its present place in the heap of its class; None while nothing waits in it."""
        self.number = 0
        """Of its present item in that heap: the others of it no longer count."""
        self._ids: Heap[str] = Heap(self.known.__contains__)
        self._more = more
        for waiter in waiters:
            self.add(waiter)

    @property
    def waits(self) -> bool:
        """Whether a waiter is in it, or may be."""
        return bool(self.known) or self._more is not None

    def first_known(self) -> str:
        """The id of its first waiter; empty, which sorts before all, if that must be asked for, or is not there."""
        return self._ids.first() or ""

    def first(self) -> str:
        """The id of its first waiter; empty if there is none."""
        first = self.first_known()
        if not first and self._more is not None:
            more = list(self._more())
            if not more:
                self._more = None
            for waiter in more:
                self.add(waiter)
            first = self.first_known()
        return first

    def add(self, waiter: Waiter) -> None:
        """One more waits."""
        self.known[waiter.id] = waiter
        self._ids.push(waiter.id)


class _Group:
    """The lines of one class at one priority, in a heap by tag, then by first waiter."""

    def __init__(self, sla: str) -> None:
        self.sla = sla
        self.heap: Heap[tuple[float, str, int, Line]] = Heap(lambda item: item[2] == item[3].number)


class _Level:
    """The classes of one priority.

    `tags` are of the tenants that wait, and of others that were granted more than these.
    """

    def __init__(self) -> None:
        self.tags: dict[str, float] = {}
        self.waiting: Counter[str] = Counter()
        """Tenants that wait, with the number of their lines."""
        self.groups: dict[str, _Group] = {}
        self._puts = 0
        self._room = 0

    def first(self, group: _Group, not_of: Collection[str] = ()) -> Line | None:
        """The line of a class that goes next, without those of some tenants."""
        passed: list[tuple[float, str, int, Line]] = []
        found: Line | None = None
        while found is None and (item := group.heap.first()) is not None:
            line = item[3]
            now = self.tags[line.tenant], line.first()
            if not now[1]:
                self.leaves(line)
            elif now != line.key:
                self.put(line, now)
            elif line.tenant in not_of:
                passed.append(group.heap.pop())
            else:
                found = line
        for each in passed:
            group.heap.push(each)
        return found

    def put(self, line: Line, key: tuple[float, str]) -> None:
        """A line gets another place in its class."""
        group = self.groups.get(line.sla)
        if group is None:
            group = self.groups[line.sla] = _Group(line.sla)
        self._puts += 1
        line.key, line.number = key, self._puts
        group.heap.push((*key, line.number, line))

    def leaves(self, line: Line) -> None:
        """Nothing waits in a line any more."""
        line.key, line.number = None, 0
        self.waiting[line.tenant] -= 1
        if not self.waiting[line.tenant]:
            del self.waiting[line.tenant]

    def next(self, without: Collection[str] = (), not_of: Collection[str] = ()) -> tuple[_Group, Line] | None:
        """The class and the line that go next, without some classes and tenants."""
        found: tuple[_Group, Line] | None = None
        for group in self.groups.values():
            if group.sla not in without and (line := self.first(group, not_of)) is not None:
                assert line.key is not None  # noqa: S101 - for the types: it is in the heap
                if found is None or line.key < found[1].key:  # type: ignore[operator]
                    found = group, line
        return found

    def tag_of_new(self, tenant: str) -> float:
        """The tag of a tenant that begins to wait: no less than the smallest among the tenants that wait."""
        if not self.waiting:
            start = max(self.tags.values(), default=0.0)
            self.tags.clear()
            return start
        return max(self.tags.get(tenant, 0.0), min(self.tags[each] for each in self._heads()))

    def _heads(self) -> Iterable[str]:
        firsts = (self.first(group) for group in self.groups.values())
        return (line.tenant for line in firsts if line is not None)

    def forget(self) -> None:
        """Drop the tags that decide nothing, once there are many."""
        if len(self.tags) > max(2 * len(self.waiting) + SPARE, self._room):
            least = min((self.tags[each] for each in self._heads()), default=0.0)
            self.tags = {name: tag for name, tag in self.tags.items() if tag > least or name in self.waiting}
            self._room = 2 * len(self.tags)


class Queue:
    """Waiters, and the order in which they are granted what they wait for.

    Not safe to use from several threads at once. `add`, `remove` and `take` cost the logarithm of what waits.

    Args:
        classes: by name; a class that is not among them has the defaults of `SLA`.
        earned: the credit of classes whose waiters are overdue, from an earlier queue; changed in place.
    """

    def __init__(self, classes: Mapping[str, SLA], earned: dict[str, float] | None = None) -> None:
        self.earned = {} if earned is None else earned
        self._classes = classes
        self._levels: dict[int, _Level] = {}
        self._lines: dict[tuple[int, str, str], Line] = {}
        self._oldest: dict[str, Heap[tuple[float, str, tuple[int, str, str]]]] = {}
        self._counts: Counter[str] = Counter()

    # What waits.

    def add(self, waiter: Waiter) -> None:
        """One more waits."""
        place = waiter.priority, waiter.sla, waiter.tenant
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = Line(*place)
        level = self._level(waiter.priority)
        if waiter.tenant not in level.waiting:
            level.tags[waiter.tenant] = level.tag_of_new(waiter.tenant)
        line.add(waiter)
        if waiter.sla not in self._oldest:
            self._oldest[waiter.sla] = Heap(lambda item: self._waits_since(*item))
        self._oldest[waiter.sla].push((waiter.since, waiter.id, place))
        self._counts[waiter.sla] += 1
        self._place(line)

    def add_line(self, line: Line, tag: float) -> None:
        """A line from elsewhere waits, with the tag that its tenant has there."""
        level = self._level(line.priority)
        level.tags[line.tenant] = max(tag, level.tags.get(line.tenant, tag))
        self._place(line)

    def remove(self, waiter: Waiter) -> None:
        """One waits no longer; nothing happens if it was granted or removed before."""
        line = self._lines.get((waiter.priority, waiter.sla, waiter.tenant))
        if line is not None and line.known.pop(waiter.id, None) is not None:
            self._counts[waiter.sla] -= 1
            self._settle(line)

    def waiting(self, sla: str) -> int:
        """How many waiters of a class were added and wait."""
        return self._counts[sla]

    def oldest(self, sla: str) -> float | None:
        """Since when the oldest waiter of a class waits; None without one."""
        first = self._oldest[sla].first() if sla in self._oldest else None
        return None if first is None else first[0]

    def overdue(self, now: float) -> set[str]:
        """The classes whose oldest waiter has waited for longer than its `patience`."""
        since = {sla: oldest for sla in self._oldest if (oldest := self.oldest(sla)) is not None}
        return overdue(since, self._classes, now)

    # What is next.

    def peek(
        self, overdue: Collection[str] = (), without: Collection[str] = (), not_of: Collection[str] = ()
    ) -> Waiter | None:
        """What would be granted next; None if nothing waits.

        Args:
            overdue: classes whose oldest waiter is overdue.
            without: classes to pass by, as they may not be granted anything now.
            not_of: tenants to pass by.
        """
        found = self._next(overdue, without, not_of)
        return None if found is None else found[2].known[found[2].first()]

    def take(
        self, overdue: Collection[str] = (), without: Collection[str] = (), not_of: Collection[str] = ()
    ) -> Waiter | None:
        """Grant: remove what is next, charge its tenant, and credit the overdue classes that it passes over.

        Args:
            overdue: classes whose oldest waiter is overdue.
            without: classes to pass by, as they may not be granted anything now. They earn no credit.
            not_of: tenants to pass by.
        """
        found = self._next(overdue, without, not_of)
        if found is None:
            return None
        level, group, line, by_share = found
        self._credit(group.sla, by_share, [sla for sla in overdue if sla not in without])
        waiter = line.known.pop(line.first())
        self._counts[waiter.sla] -= 1
        if len(level.waiting) > 1:  # alone, it uses up no other's turn
            level.tags[line.tenant] += waiter.cost
        self._settle(line)
        return waiter

    def tags(self, priority: int) -> Mapping[str, float]:
        """The tags of the tenants at a priority."""
        return self._level(priority).tags

    def _next(
        self, overdue: Collection[str], without: Collection[str], not_of: Collection[str]
    ) -> tuple[_Level, _Group, Line, bool] | None:
        if overdue and self.earned and (due := self._due(overdue, without, not_of)) is not None:
            return due
        for priority in sorted(self._levels, reverse=True):
            level = self._levels[priority]
            if (found := level.next(without, not_of)) is not None:
                return level, *found, False
        return None

    def _due(
        self, overdue: Collection[str], without: Collection[str], not_of: Collection[str]
    ) -> tuple[_Level, _Group, Line, bool] | None:
        """What goes next by the share of its class: of the class with the most credit."""
        due = [sla for sla in overdue if self.earned.get(sla, 0.0) >= DUE and sla not in without]
        for sla in sorted(due, key=lambda sla: (-self.earned[sla], sla)):
            for priority in sorted(self._levels, reverse=True):
                level = self._levels[priority]
                group = level.groups.get(sla)
                if group is not None and (line := level.first(group, not_of)) is not None:
                    return level, group, line, True
        return None

    def _credit(self, granted: str, by_share: bool, overdue: Iterable[str]) -> None:  # noqa: FBT001
        """Each overdue class earns with every grant to another one: s/(1-s) of a grant, which makes s of all grants."""
        for sla in overdue:
            if sla != granted and self._waits(sla):
                share = self._class(sla).share
                # Those that are due at once wait for each other; no class saves for more than that.
                self.earned[sla] = min(self.earned.get(sla, 0.0) + share / (1 - share), 2 / (1 - share))
        if by_share:
            self.earned[granted] -= 1.0

    def _waits(self, sla: str) -> bool:
        groups = ((level, level.groups.get(sla)) for level in self._levels.values())
        return any(group is not None and level.first(group) is not None for level, group in groups)

    def _waits_since(self, since: float, name: str, place: tuple[int, str, str]) -> bool:
        line = self._lines.get(place)
        waiter = None if line is None else line.known.get(name)
        return waiter is not None and waiter.since == since

    def _class(self, sla: str) -> SLA:
        return self._classes.get(sla, DEFAULT_CLASS)

    def _level(self, priority: int) -> _Level:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level()
        return level

    def _place(self, line: Line) -> None:
        """Put a line into the heap of its class at its present place."""
        level = self._level(line.priority)
        if line.key is None:
            level.waiting[line.tenant] += 1
        key = level.tags[line.tenant], line.first_known()
        if key != line.key:
            level.put(line, key)

    def _settle(self, line: Line) -> None:
        """The first waiter of a line may have left."""
        level = self._level(line.priority)
        if line.waits:
            self._place(line)
        elif line.key is not None:
            level.leaves(line)
            self._lines.pop((line.priority, line.sla, line.tenant), None)
        level.forget()


def overdue(since: Mapping[str, float], classes: Mapping[str, SLA], now: float) -> set[str]:
    """The classes whose oldest waiter has waited for longer than `patience`.

    Args:
        since: by class, when the wait of its oldest waiter began.
        classes: by name.
        now: on the same clock, in seconds.
    """
    return {sla for sla, began in since.items() if now - began > classes.get(sla, DEFAULT_CLASS).patience}


def longest_wait_s(sla: SLA, rate: float) -> float | None:
    """The longest that a class lets a run wait, in seconds: patience + queue_limit / (share x rate).

    After `patience` a run is overdue. From then on its class gets `share` of the grants, and `queue_limit` of its runs
    go in that time. A tenant with more than its part of the queue, queue_limit / tenants, makes its own last runs wait
    longer. None without `queue_limit`, or while nothing is granted.

    Args:
        sla: the class.
        rate: grants a second, to all classes together.
    """
    if sla.queue_limit is None or rate <= 0:
        return None
    return sla.patience + sla.queue_limit / (sla.share * rate)
