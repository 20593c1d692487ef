"""One frame of `offramp top`: pure text from the answers of a gateway, cut to a width and a height."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from offramp.cli.output import one_line
from offramp.cli.view import duration
from offramp.core.run import OUTCOMES

Style = Literal["", "bold", "dim", "yellow", "red"]
Document = Mapping[str, Any]

CLASSES_SHOWN_MAX = 6
WORKERS_SHOWN_MAX = 5
BURN_SHORT, BURN_LONG = "5m", "1h"
WINDOW = "1h"


class Line(NamedTuple):
    """A line of the frame."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The answers of a gateway; `at` is when they came, in epoch seconds.

    Attributes:
        levels: `classes` of `/v1/slo`.
        stats: rows of `/v1/stats`.
        workers: of `/v1/workers`.
        runs: unfinished ones, the newest first; more may exist.
        problem: why later answers are missing.
        scaling: of `/v1/workers`; None for a tenant.
    """

    url: str
    at: float
    levels: Sequence[Document] = ()
    stats: Sequence[Document] = ()
    workers: Sequence[Document] = ()
    runs: Sequence[Document] = ()
    problem: str = ""
    scaling: Document | None = None


def frame(shown: Snapshot, width: int, height: int) -> list[Line]:
    """The lines, at most `height`, none longer than `width`."""
    classes = _classes(shown)
    workers = [_worker(worker, shown.at) for worker in shown.workers]
    top = [_title(shown), Line(""), *_table(_CLASS_HEAD, classes, CLASSES_SHOWN_MAX)]
    bottom = [*_scaling(shown.scaling), Line(""), *_table(_WORKER_HEAD, workers, WORKERS_SHOWN_MAX)]
    room = height - len(top) - len(bottom) - 2
    runs = _table(_RUN_HEAD, [_run(run, shown.at) for run in shown.runs], max(1, room), _live(shown.stats))
    lines = [*top, Line(""), *runs, *bottom][:height]
    return [Line(line.text[:width].rstrip(), line.style) for line in lines]


def _title(shown: Snapshot) -> Line:
    clock = time.strftime("%H:%M:%S", time.localtime(shown.at))
    if shown.problem:
        return Line(one_line(f"offramp top  {clock}  {shown.problem}"), "red")
    return Line(one_line(f"offramp top  {clock}  {shown.url}"), "bold")


def _table(head: str, rows: Sequence[Line], most: int, total: int | None = None) -> list[Line]:
    """The head and the first rows; the last of them says how many more there are."""
    count = max(len(rows), total or 0)
    if not rows:
        return [Line(head, "dim"), Line("none", "dim")]
    shown = list(rows[: most if count <= most else max(1, most - 1)])
    left = count - len(shown)
    return [Line(head, "dim"), *shown, *([Line(f"and {left:,} more", "dim")] if left else [])]


class _Columns(NamedTuple):
    """The widths of a table's columns: to the right if positive, to the left if negative."""

    widths: tuple[int, ...]

    def row(self, *cells: object) -> str:
        return "".join(
            [
                str(cell).rjust(width) if width > 0 else str(cell).ljust(-width)
                for cell, width in zip(cells, self.widths, strict=True)
            ]
        )


_CLASS = _Columns((-16, 8, 9, 7, 7, 8, 6, 9, 10))
_CLASS_HEAD = _CLASS.row("CLASS", "TARGET", "BURN 5m", "1h", "LEFT", "ENDED", "BAD", "DEMOTED", "WAITING")
_RUN = _Columns((-31, -16, -9, -6, 7, 2, -1))
_RUN_HEAD = _RUN.row("RUN", "PIPELINE", "STATUS", "PATH", "AGE", "", "CLASS")
_WORKER = _Columns((-34, -16, -7, 5, 7, 9))
_WORKER_HEAD = _WORKER.row("PROCESS", "HOST", "READY", "RUNS", "LANES", "UP")


def _scaling(scaling: Document | None) -> list[Line]:
    """How many workers this gateway keeps; no line where their number is fixed and enough."""
    if not scaling or scaling["needed"] is None:
        return []
    least, most = scaling["least"], scaling["most"]
    if least == most and scaling["needed"] <= scaling["kept"]:
        return []
    bounds = f" ({least}..{most})" if least < most else ""
    waiting = f", {scaling['waiting']:,} waiting" if scaling["waiting"] else ""
    text = f"workers: {scaling['kept']} kept here{bounds}, {scaling['needed']} needed{waiting}"
    return [Line(""), Line(text, "yellow" if scaling["needed"] > scaling["kept"] else "")]


def _classes(shown: Snapshot) -> list[Line]:
    levels = {level["class"]: level for level in shown.levels}
    names = list(dict.fromkeys([*levels, *sorted(row["class"] for row in shown.stats)]))
    return [_class(name, levels.get(name), [row for row in shown.stats if row["class"] == name]) for name in names]


def _class(name: str, level: Document | None, rows: Sequence[Document]) -> Line:
    ended = _sum(rows, *OUTCOMES)
    bad = _sum(rows, "failed", "expired")
    demoted = sum(row["demoted"] for row in rows)
    waiting = sum(row["queue"]["length"] for row in rows)
    oldest = max((row["queue"]["oldest_s"] or 0.0 for row in rows), default=0.0)
    waits = f"{waiting:,}" + (f" {_age(oldest)}" if waiting else "")
    target, burns, left = "-", ("-", "-"), "-"
    style: Style = ""
    if level is not None:
        short, long = (level["windows"][window]["burn_rate"] for window in (BURN_SHORT, BURN_LONG))
        target, burns = duration(level["target_s"] * 1000), (f"{short:.1f}", f"{long:.1f}")
        left = f"{max(-9.99, level['budget_left']):.0%}"
        style = "red" if any(alert["firing"] for alert in level["alerts"]) else "yellow" if long > 1 else ""
    figures = f"{ended:,}", f"{bad:,}", f"{demoted:,}"
    return Line(_CLASS.row(_cut(name, 15), target, *burns, left, *figures, waits), style)


def _sum(rows: Sequence[Document], *statuses: str) -> int:
    return sum(count for row in rows for status in statuses for count in row["counts"][status].values())


def _live(rows: Sequence[Document]) -> int:
    return _sum(rows, "queued", "running")


def _run(run: Document, now: float) -> Line:
    names = [each.get("name") or each.get("kind") for each in run.get("waiting_for") or ()]
    status = "waits" if names else str(run["status"])
    about = str(run["class"]) + (f" (for {', '.join(map(str, names))})" if names else "")
    age = _age(max(0.0, now - _epoch(run["created_at"], now)))
    text = _RUN.row(run["id"], _cut(run["pipeline"], 15), status, run["path"], age, "", one_line(about))
    return Line(text, "yellow" if status == "queued" else "")


def _worker(worker: Document, now: float) -> Line:
    up = _age(max(0.0, now - _epoch(worker["started_at"], now)))
    host, ready = _cut(worker["host"] or "-", 15), "yes" if worker["ready"] else "no"
    text = _WORKER.row(_cut(worker["id"], 33), host, ready, worker["runs_held"], worker["warm_lanes"], up)
    return Line(text, "" if worker["ready"] else "yellow")


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _cut(text: Any, width: int) -> str:
    line = one_line(str(text))
    return line if len(line) <= width else line[: width - 1] + "…"


def _epoch(at: str, unknown: float) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return unknown
