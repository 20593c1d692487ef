"""Which asks wait for each other in a circle: what they wait for is kept by code that waits, too. Pure."""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from offramp.core.limits.capacity import Load

_NOTHING = Load(0, 0, 0)


class Keeper(Protocol):
    """An ask that waits while its asker keeps permits."""

    @property
    def holds(self) -> tuple[str, ...]:
        """The ids of these permits."""

    @property
    def tokens(self) -> int:
        """What it needs."""


class Kept(NamedTuple):
    """A permit: of which resource, and what it holds of it without end."""

    resource: str
    load: Load


def stuck(
    waiting: Mapping[str, tuple[str, Keeper]],
    permits: Callable[[str], Kept | None],
    fits: Callable[[str, Load, int], bool],
) -> set[str]:
    """The ids of the asks that can never be granted, if the permits of all others end in time.

    At first every permit that a waiting asker keeps is taken to stay. Each ask that fits beside these can be granted,
    and its asker goes on and gives back what it keeps; then others may fit. What is left at the end waits in a circle.

    Args:
        waiting: by id, the asks whose askers keep permits: for which resource, and the ask.
        permits: a permit by its id; None if it has ended.
        fits: whether an ask for so many tokens fits into a resource beside such a load.
    """
    keepers = Counter(permit for _, keeper in waiting.values() for permit in set(keeper.holds))
    load: dict[str, Load] = defaultdict(lambda: _NOTHING)
    for permit in keepers:
        if (kept := permits(permit)) is not None:
            load[kept.resource] = _plus(load[kept.resource], kept.load, 1)
    left: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, (resource, keeper) in waiting.items():
        insort(left[resource], (-keeper.tokens, name))
    todo = list(left)
    while todo:
        resource = todo.pop()
        asks = left[resource]
        while asks and fits(resource, load[resource], -asks[-1][0]):
            _, name = asks.pop()
            for permit in set(waiting[name][1].holds):
                keepers[permit] -= 1
                if not keepers[permit] and (kept := permits(permit)) is not None:
                    load[kept.resource] = _plus(load[kept.resource], kept.load, -1)
                    todo.append(kept.resource)
    return {name for asks in left.values() for _, name in asks}


def _plus(load: Load, other: Load, times: int) -> Load:
    return Load(
        load.permits + times * other.permits,
        load.unwritten + times * other.unwritten,
        load.tokens + times * other.tokens,
    )
