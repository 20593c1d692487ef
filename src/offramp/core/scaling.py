"""How many workers the deep path needs, and when their number changes. Pure: from one look to the next.

There are too few where runs wait although no worker has room; too many where fewer would have carried all runs lately.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

WORKERS_MAX = 1_024
"""The most worker processes of one `serve`."""
LOOK_EVERY_S = 1.0
"""Seconds between two looks at the queue and the workers."""
WAIT_S = 1.0
"""Seconds for which runs must have waited without room in any worker before more workers are needed."""
FULL_SHARE = 0.8
"""The share of their places that workers have taken when one fewer would do: the rest is for bursts."""
SETTLE_S = 10.0
"""Seconds that started workers have to get warm before more are started without them."""
GROWTH = 2
"""The factor by which the number grows at most, each time the started workers are warm."""

_RANGE = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9}))?", re.ASCII)


class Span(NamedTuple):
    """The least and the greatest number of workers; equal if the number is fixed."""

    low: int
    high: int

    @property
    def scales(self) -> bool:
        """Whether the number may change."""
        return self.low < self.high

    def __str__(self) -> str:
        return f"{self.low}..{self.high}" if self.scales else str(self.low)


NONE = Span(0, 0)
"""No workers here."""


def parse_workers(text: str) -> Span | None:
    """The span of `4` or `2..8`; None for empty text, which leaves the choice to the classes.

    Raises:
        ValueError: the text is neither, or out of bounds.
    """
    if not text:
        return None
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"it is a number, such as 4, or a range, such as 2..8, got {text!r}")
    low, high = int(found[1]), int(found[2] or found[1])
    if high > WORKERS_MAX:
        raise ValueError(f"there are at most {WORKERS_MAX} workers, got {text!r}")
    if low > high:
        raise ValueError(f"the first number of a range is the smaller one, such as {max(1, high)}..{low}, got {text!r}")
    if not low and high:
        raise ValueError(f"a range begins at 1, such as 1..{high}: without a worker no run continues, got {text!r}")
    return Span(low, high)


def span_of(given: Span | None, min_warm: int) -> Span:
    """The span that keeps the sum of the classes' `min_warm`; without a given one, as many as these, at least 1.

    Raises:
        ValueError: the greatest number is below that sum. 0 is not, as the workers are elsewhere.
    """
    if min_warm > WORKERS_MAX:
        raise ValueError(
            f"the classes keep {min_warm} workers warm (the sum of min_warm), at most {WORKERS_MAX}: lower it"
        )
    if given is None:
        return Span(max(1, min_warm), max(1, min_warm))
    if 0 < given.high < min_warm:
        raise ValueError(
            f"the classes keep {min_warm} workers warm (the sum of min_warm), more than workers={given}: allow "
            f"{min_warm} or more, such as {Span(given.low, min_warm)}, or lower min_warm"
        )
    return Span(max(given.low, min_warm), given.high) if given.high else given


def lane_processes(given: int, cores: int, min_warms: Iterable[int]) -> int:
    """The processes of a process lane: as many as given, else one per core, and never fewer than a class keeps warm."""
    return max(given or cores, *min_warms, 1)


class Sight(NamedTuple):
    """The deep path of all processes at one moment.

    Attributes:
        waiting: runs that wait for a worker; on Temporal, steps.
        busy: places that are taken in the workers.
        places: places in the workers that take runs.
        warm: workers that take runs.
    """

    waiting: int
    busy: int
    places: int
    warm: int

    @property
    def is_short(self) -> bool:
        """Whether runs wait although no worker has room for them."""
        return self.waiting > max(0, self.places - self.busy)


class Need(NamedTuple):
    """The workers that are needed, and since when runs have waited without room, on the monotonic clock."""

    workers: int
    short_since: float | None = None


def need(seen: Sight, before: Need, now: float, *, least: int, places_each: int) -> Need:
    """The workers needed now: more than are warm only if runs have waited for `WAIT_S` without room.

    Args:
        seen: what is seen now.
        before: what this returned for the look before.
        now: on the monotonic clock.
        least: the sum of the classes' `min_warm`.
        places_each: places of one worker, where none is seen.
    """
    each = max(1, seen.places // seen.warm if seen.warm else places_each)
    least = max(1, least)
    since = None if not seen.is_short else now if before.short_since is None else before.short_since
    if since is not None and now - since >= WAIT_S:
        wanted = max(seen.warm + 1, math.ceil((seen.waiting + seen.busy) / each))
    else:  # what waits beside free places is taken in a moment, or by no worker that is warm
        wanted = min(math.ceil(seen.busy / (FULL_SHARE * each)), seen.warm)
    return Need(min(WORKERS_MAX, max(least, wanted)), since)


class Memory(NamedTuple):
    """What the number of workers depends on beside the present need.

    Attributes:
        recent: when which number was needed, lately, as far as no later moment needed as many; the oldest first.
        grew_at: when workers were last started, on the monotonic clock.
    """

    recent: tuple[tuple[float, int], ...]
    grew_at: float

    @classmethod
    def at_start(cls, count: int, now: float) -> Memory:
        """Of a supervisor that starts so many workers now."""
        return cls(((now, count),), now)


class Crew(NamedTuple):
    """The workers of one supervisor: how many it keeps, and how many of them are warm."""

    size: int
    warm: int


def part(needed: int, own: Crew, others: int, scalers: int) -> int:
    """How many workers one supervisor is to keep, beside the others on the same store.

    Supervisors look at the same moment, so each starts a part of the missing workers. Where too many run, those of
    other supervisors are not for this one.

    Args:
        needed: workers of all supervisors together.
        own: its workers.
        others: the workers of others, those that are starting included.
        scalers: how many supervisors scale, this one included.
    """
    missing = needed - others - own.size
    return own.size + math.ceil(missing / max(1, scalers)) if missing > 0 else needed - others


def target(needed: int, crew: Crew, memory: Memory, now: float, *, span: Span, idle_s: float) -> tuple[int, Memory]:
    """How many workers to keep from now on.

    More at once, at most `GROWTH` times as many while started ones get warm; fewer once no moment of the last
    `idle_s` seconds needed as many.
    """
    wanted = min(max(needed, span.low), span.high)
    recent = [(at, count) for at, count in memory.recent if count > wanted and at > now - idle_s]
    memory = Memory((*recent, (now, wanted)), memory.grew_at)
    if wanted > crew.size:
        if crew.warm < crew.size and now - memory.grew_at < SETTLE_S:
            return crew.size, memory
        return min(wanted, max(1, crew.size * GROWTH)), memory._replace(grew_at=now)
    return min(crew.size, max(count for _, count in memory.recent)), memory
