"""Statistics of ended runs: counts in cells of time, from which shares and quantiles of any window are computed.

A cell holds what happened in so many minutes to the runs of one pipeline and class: how many ended with which status on
which path, how many were demoted, and their durations in buckets whose bounds grow by a fixed factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from offramp.core.run import OutcomeStatus, Path, RunHead, RunRecord, Status, accepted_at

Window = Literal["5m", "15m", "1h", "6h", "24h"]
WINDOWS: dict[str, int] = dict(zip(get_args(Window), (5, 15, 60, 360, 1440), strict=True))
"""The windows in minutes."""
FINE, COARSE, LONG = 1, 15, 240
"""The widths of cells in minutes; the longest ones hold the counts of service levels alone."""
KEPT_MINUTES: dict[int, int] = {FINE: 60, COARSE: 1440, LONG: 43_200}
"""How long cells of each width are kept: a window is summed from the finest cells that cover it."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
BUCKETS_PER_DOUBLING = 4
"""A quantile is within 10% of the true one."""
BUCKET_MIN, BUCKET_MAX = -40, 80
"""About a millisecond, and twelve days."""
DEMOTED = "demoted"
GOOD, BAD = "good", "bad"
"""Runs that kept the promise of their class, and runs that broke it."""
COLD = "cold"
"""Times that a run waited for a worker, or a process of a process lane, to start."""
STATUSES: tuple[Status, ...] = get_args(Status)
PATHS: tuple[Path, ...] = get_args(Path)
Counts = Mapping[str, int]


class Cell(NamedTuple):
    """What happened to the runs of a pipeline and class; `number` counts its width from the epoch.

    `tenant` is empty for the sum over tenants, which callers without a tenant see.
    """

    tenant: str
    width: int
    number: int
    pipeline: str
    sla: str
    counts: Counts


class Row(NamedTuple):
    """The statistics of one pipeline and class in a window, and its runs that have not ended, now."""

    pipeline: str
    sla: str
    ended: Counts
    unfinished: Mapping[tuple[Status, Path], int]
    oldest_queued_at: float | None

    def runs(self, status: Status, path: Path) -> int:
        """Runs that ended so in the window, or are in this state now."""
        return self.ended.get(_ended(status, path), 0) + self.unfinished.get((status, path), 0)

    @property
    def demotion_rate(self) -> float | None:
        """The share of the ended runs that began on the fast path and were demoted; None without any."""
        demoted = self.ended.get(DEMOTED, 0)
        began_fast = demoted + sum(self.ended.get(_ended(status, "fast"), 0) for status in STATUSES)
        return demoted / began_fast if began_fast else None

    def durations(self) -> dict[str, float] | None:
        """Quantiles of the seconds from acceptance to end, of completed runs; None without any."""
        found = sorted((int(name[2:]), count) for name, count in self.ended.items() if name.startswith("d:"))
        total = sum(count for _, count in found)
        return {name: _quantile(found, share * total) for name, share in QUANTILES.items()} if total else None


def _ended(status: str, path: Path) -> str:
    return f"{status}:{path}"


def counts_of(record: RunRecord, status: OutcomeStatus, at: float, *, good: bool | None) -> dict[str, int]:
    """The counts of a run that ended `at`, in epoch seconds; `good` if it kept a promise, None without one."""
    counts = {_ended(status, record.path): 1}
    if record.demotion is not None:
        counts[DEMOTED] = 1
    if status == "completed":
        counts[f"d:{_bucket(at - record.created_at)}"] = 1
    if good is not None:
        counts[GOOD if good else BAD] = 1
    return counts


def held_in(width: int, counts: Counts) -> Counts:
    """The part of the counts that cells of this width hold."""
    return counts if width != LONG else {name: counts[name] for name in (GOOD, BAD) if name in counts}


def _bucket(seconds: float) -> int:
    number = math.floor(math.log2(seconds) * BUCKETS_PER_DOUBLING) if seconds > 0 else BUCKET_MIN
    return min(max(number, BUCKET_MIN), BUCKET_MAX)


def _quantile(buckets: list[tuple[int, int]], rank: float) -> float:
    """The middle, by factor, of the bucket with the value of this rank."""
    seen, number = 0, 0
    for number, count in buckets:  # noqa: B007 - the last one, where the rank is that of the last value
        seen += count
        if seen >= rank:
            break
    return float(2 ** ((number + 0.5) / BUCKETS_PER_DOUBLING))


def ended_deep(summed: Mapping[tuple[str, str], Counts]) -> dict[str, int]:
    """How many runs ended on the deep path, by class."""
    ended: dict[str, int] = {}
    for (_, sla), counts in summed.items():
        ended[sla] = ended.get(sla, 0) + sum(counts.get(_ended(status, "deep"), 0) for status in STATUSES)
    return ended


def cells_of(now: float, minutes: int) -> tuple[int, int, int]:
    """The width, and the first and last number, of the cells of a window that ends now and begins with a whole cell."""
    width = next(width for width, kept in KEPT_MINUTES.items() if minutes <= kept)
    last = int(now // (60 * width))
    return width, last - minutes // width, last


def added(before: Counts, more: Counts) -> dict[str, int]:
    """The sums of two counts."""
    return {name: before.get(name, 0) + more.get(name, 0) for name in {**before, **more}}


def rows(ended: Mapping[tuple[str, str], Counts], heads: list[RunHead]) -> list[Row]:
    """One row for each pipeline and class that has any runs, in the order of their names.

    Args:
        ended: counts by pipeline and class.
        heads: the runs that have not ended.
    """
    states: dict[tuple[str, str], dict[tuple[Status, Path], int]] = {key: {} for key in ended}
    oldest: dict[tuple[str, str], float] = {}
    for head in heads:
        key = head.pipeline, head.sla
        counts = states.setdefault(key, {})
        counts[head.status, head.path] = counts.get((head.status, head.path), 0) + 1
        if head.status == "queued":
            oldest[key] = min(oldest.get(key, math.inf), accepted_at(head.id))
    return [Row(*key, ended.get(key, {}), states[key], oldest.get(key)) for key in sorted(states)]


def shown(row: Row, now: float, limit: int | None = None, longest_s: float | None = None) -> dict[str, Any]:
    """The row as documents show it; times in milliseconds, ages in seconds.

    Args:
        row: the row.
        now: epoch seconds.
        limit: of the queued runs of its class.
        longest_s: the longest that the class lets a run wait.
    """
    durations = row.durations()
    queued = sum(row.unfinished.get(("queued", path), 0) for path in PATHS)
    age = None if row.oldest_queued_at is None else round(max(0.0, now - row.oldest_queued_at), 3)
    return {
        "pipeline": row.pipeline,
        "class": row.sla,
        "counts": {status: {path: row.runs(status, path) for path in PATHS} for status in STATUSES},
        "duration_ms": None if durations is None else {name: round(s * 1000, 3) for name, s in durations.items()},
        "demoted": row.ended.get(DEMOTED, 0),
        "demotion_rate": None if row.demotion_rate is None else round(row.demotion_rate, 6),
        "cold_starts": row.ended.get(COLD, 0),
        "queue": {
            "length": queued,
            "oldest_s": age,
            "limit": limit,
            "longest_wait_s": None if longest_s is None else round(longest_s, 3),
        },
    }
