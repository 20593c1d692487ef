"""What a run's end waited for, and where its time went: arithmetic on intervals, which know nothing of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Interval = tuple[float, float]


class Link(NamedTuple):
    """A part of the critical path: of this row, or None for the pipeline's own code and the runtime's work."""

    row: int | None
    start: float
    end: float


class Totals(NamedTuple):
    """Seconds of a run: at least one step executes; else it waits; else it is between two processes; else the rest."""

    steps: float
    waiting: float
    moving: float
    own: float


def critical_path(spans: Iterable[tuple[int, float, float]], end: float) -> tuple[Link, ...]:
    """From the end of the run back to its begin: always the span that ended last before what came after it.

    The last-finished child of distributed traces (Zhang et al., "CRISP: Critical Path Analysis of Large-Scale
    Microservice Architectures", USENIX ATC 2022). Of several that end together it is the one that began first; of
    those the one in the last row.

    Args:
        spans: `(row, start, end)`, in seconds of the run.
        end: seconds the run took.

    Returns:
        Links without gap or overlap from 0 to `end`.
    """
    last_first = sorted(
        (span for span in spans if span[1] < span[2] <= end), key=lambda span: (-span[2], span[1], -span[0])
    )
    links: list[Link] = []
    at = end
    for row, start, ended in last_first:
        if ended > at:
            continue
        if ended < at:
            links.append(Link(None, ended, at))
        links.append(Link(row, start, ended))
        at = start
    if at > 0.0:
        links.append(Link(None, 0.0, at))
    return tuple(reversed(links))


def totals(end: float, *classes: Sequence[Interval]) -> Totals:
    """Share out `end` seconds: each moment goes to the first class with an interval over it, else to the last."""
    shares = []
    covered: list[Interval] = []
    before = 0.0
    for intervals in classes:
        covered = union([*covered, *intervals])
        after = sum(min(stop, end) - min(start, end) for start, stop in covered)
        shares.append(after - before)
        before = after
    steps, waiting, moving = shares
    return Totals(steps, waiting, moving, max(0.0, end - before))


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same points in time, as intervals that neither touch nor overlap, in order."""
    joined: list[Interval] = []
    for start, stop in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        elif start < stop:
            joined.append((start, stop))
    return joined
