"""What waits while its asker keeps permits, and which of it waits for each other in a circle. Pure.

One ask more, and one permit less, cost nothing that grows with how many wait, unless there may be a circle.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from offramp.core.limits.backlog import Waiting
from offramp.core.limits.capacity import Load
from offramp.core.limits.gate import Permit

_NOTHING = Load(0, 0, 0)

_Asks = dict[str, list[tuple[int, str]]]
"""By resource, the tokens that asks need, negated, and their ids: the least comes last."""


class Keepers:
    """The asks whose askers keep permits.

    An ask that is granted in the end gives back what was kept for it. So a new ask closes a circle only if it is in it
    itself, and the end of a permit closes none: it is enough to look at each new ask, and at all when limits shrink.

    Args:
        permits: all that exist, by id.
        fits: whether an ask for so many tokens fits into a resource beside such a load.
    """

    def __init__(self, permits: Mapping[str, Permit], fits: Callable[[str, Load, int], bool]) -> None:
        self._permits = permits
        self._fits = fits
        self._entries: dict[str, tuple[Waiting, set[str]]] = {}
        """By id, and of which resources they keep permits."""
        self._asks: _Asks = {}
        self._times: Counter[str] = Counter()
        """By permit, how many asks it is kept for."""
        self._load: defaultdict[str, Load] = defaultdict(lambda: _NOTHING)
        """Of all permits that are kept."""
        self._keeping: defaultdict[str, defaultdict[int, dict[str, Waiting]]] = defaultdict(lambda: defaultdict(dict))
        """By resource of which they keep permits, and by priority."""

    def add(self, entry: Waiting) -> None:
        """One more waits."""
        name, kept = entry.ask.id, set[str]()
        insort(self._asks.setdefault(entry.ask.resource, []), (-entry.tokens, name))
        for each in entry.holds:
            self._times[each] += 1
            permit = self._permits.get(each)
            if permit is not None:
                kept.add(permit.ask.resource)
                if self._times[each] == 1:
                    self._count(permit, 1)
        self._entries[name] = entry, kept
        for resource in kept:
            self._keeping[resource][entry.waiter.priority][name] = entry

    def remove(self, entry: Waiting) -> None:
        """One waits no longer; nothing if it keeps nothing."""
        name = entry.ask.id
        _, kept = self._entries.pop(name, (None, None))
        if kept is None:
            return
        _take(self._asks, entry)
        for each in entry.holds:
            self._times[each] -= 1
            if not self._times[each]:
                del self._times[each]
                permit = self._permits.get(each)
                if permit is not None:
                    self._count(permit, -1)
        for resource in kept:
            self._uncount(resource, entry.waiter.priority, name)

    def lifted(self, entry: Waiting, before: int) -> None:
        """One counts as of another priority than before; nothing if it keeps nothing."""
        name = entry.ask.id
        _, kept = self._entries.get(name, (None, ()))
        for resource in kept:
            self._uncount(resource, before, name)
            self._keeping[resource][entry.waiter.priority][name] = entry

    def written(self, permit: Permit) -> None:
        """The request of a permit was sent, which counts in windows from now on."""
        if permit.ask.id in self._times and permit.ask.id in self._permits:
            load = self._load[permit.ask.resource]
            self._load[permit.ask.resource] = load._replace(unwritten=load.unwritten - 1)

    def ended(self, permit: Permit) -> None:
        """A permit exists no longer."""
        if permit.ask.id in self._times:
            self._count(permit, -1)

    def below(self, resource: str, priority: float) -> list[Waiting]:
        """The asks of lower priority whose askers keep permits of a resource."""
        levels: Mapping[int, dict[str, Waiting]] = self._keeping.get(resource, {})
        found = (entry for level, entries in levels.items() if level < priority for entry in entries.values())
        return [entry for entry in found if any(self._is_of(each, resource) for each in entry.holds)]

    def is_stuck(self, entry: Waiting) -> bool:
        """Whether a new ask waits in a circle: nothing else does."""
        resource, name = entry.ask.resource, entry.ask.id
        kept = self._entries[name][1]
        if self._fits(resource, self._load[resource], entry.tokens):
            return False
        if all(self._has_room(each, but=name) for each in kept):
            # What this one keeps stands in the way of none: all others go on, and give back what they keep.
            own = _NOTHING
            for each in filter(None, map(self._permits.get, entry.holds)):
                own = _plus(own, each, 1) if each.ask.resource == resource else own
            return not self._fits(resource, own, entry.tokens)
        return name in self._circle().left

    def untangle(self) -> Iterator[Waiting]:
        """Limits shrank: of what waits in a circle because of that, the newest, again until none does."""
        if all(map(self._has_room, self._asks)):
            return
        circle = self._circle()
        left = [self._entries[name][0] for name in circle.left]
        for entry in sorted(left, key=lambda each: (each.waiter.since, each.ask.id), reverse=True):
            if entry.ask.id in circle.left:
                circle.refuse(entry)
                yield entry

    def _has_room(self, resource: str, but: str = "") -> bool:
        """Whether each ask that waits for a resource fits beside all that is kept, and so before the others."""
        asks = self._asks.get(resource)
        if not asks or (len(asks) == 1 and asks[0][1] == but):
            return True
        return self._fits(resource, self._load[resource], -asks[0][0])

    def _circle(self) -> _Circle:
        entries = {name: entry for name, (entry, _) in self._entries.items()}
        return _Circle(entries, self._asks, self._times, self._load, self._permits, self._fits)

    def _is_of(self, permit_id: str, resource: str) -> bool:
        permit = self._permits.get(permit_id)
        return permit is not None and permit.ask.resource == resource

    def _count(self, permit: Permit, times: int) -> None:
        self._load[permit.ask.resource] = _plus(self._load[permit.ask.resource], permit, times)

    def _uncount(self, resource: str, priority: int, name: str) -> None:
        level = self._keeping[resource][priority]
        del level[name]
        if not level:
            del self._keeping[resource][priority]


class _Circle:
    """The asks that can never be granted, if the permits of all others end in time: `left`.

    At first every permit that a waiting asker keeps is taken to stay. Each ask that fits beside these can be granted,
    and its asker goes on and gives back what it keeps; then others may fit. What is left at the end waits in a circle.
    """

    def __init__(
        self,
        entries: Mapping[str, Waiting],
        asks: _Asks,
        times: Counter[str],
        load: Mapping[str, Load],
        permits: Mapping[str, Permit],
        fits: Callable[[str, Load, int], bool],
    ) -> None:
        self._entries, self._permits, self._fits = entries, permits, fits
        self._asks = {resource: [*each] for resource, each in asks.items()}
        self._times, self._load = times.copy(), dict(load)
        self._todo = [*asks]
        self.left = set(entries)
        self._go_on()

    def refuse(self, entry: Waiting) -> None:
        """One waits no longer, and its asker gives back what it keeps."""
        _take(self._asks, entry)
        self._lets_go(entry)
        self._go_on()

    def _go_on(self) -> None:
        while self._todo:
            resource = self._todo.pop()
            asks = self._asks.get(resource, [])
            while asks and self._fits(resource, self._load.get(resource, _NOTHING), -asks[-1][0]):
                self._lets_go(self._entries[asks.pop()[1]])

    def _lets_go(self, entry: Waiting) -> None:
        self.left.discard(entry.ask.id)
        for each in entry.holds:
            self._times[each] -= 1
            if not self._times[each] and (permit := self._permits.get(each)) is not None:
                resource = permit.ask.resource
                self._load[resource] = _plus(self._load[resource], permit, -1)
                self._todo.append(resource)


def _take(asks: _Asks, entry: Waiting) -> None:
    line = asks[entry.ask.resource]
    del line[bisect_left(line, (-entry.tokens, entry.ask.id))]
    if not line:
        del asks[entry.ask.resource]


def _plus(load: Load, permit: Permit, times: int) -> Load:
    """A permit holds its place and, until its request is written, its part of windows; its tokens until it ends."""
    return Load(
        load.permits + times,
        load.unwritten + times * (permit.written_at is None),
        load.tokens + times * permit.tokens,
    )
