"""Runs as rows of text, fitted to a width: pure, from run documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size

from offramp.cli.output import one_line
from offramp.cli.view import duration, error_text, waited_for

Document = Mapping[str, Any]

GAP = "  "
TEXT_LEAST = 10
"""Columns that a cut text keeps."""


class Column(NamedTuple):
    """A column; when it gets narrow, those with the lowest `rank` go first, and texts are cut (`most` at first)."""

    name: str
    rank: int
    most: int = 0
    right: bool = False


COLUMNS = (
    Column("run", 9),
    Column("pipeline", 7, 24),
    Column("status", 8),
    Column("path", 1),
    Column("age", 6, right=True),
    Column("took", 2, right=True),
    Column("session", 3, 24),
    Column("error", 4, 60),
    Column("waits for", 5, 60),
)


def row(run: Document, now: float) -> tuple[str, ...]:
    """The cells of a run, in the order of `COLUMNS`; `now` in epoch seconds."""
    created = _epoch(run["created_at"])
    took = duration(max(0.0, _epoch(run["finished_at"]) - created) * 1000) if run.get("finished_at") else ""
    return (
        str(run["id"]),
        one_line(str(run["pipeline"])),
        str(run["status"]),
        "fast>deep" if run.get("demotion") else str(run["path"]),
        age(now - created),
        took,
        one_line(str(run.get("session_id") or "")),
        one_line(error_text(run["error"])) if run.get("error") else "",
        one_line(", ".join(map(waited_for, run.get("waiting_for") or ()))),
    )


def age(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h`, `5 d`."""
    left = max(0.0, seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if left >= size:
            return f"{left // size:.0f} {unit}"
    return f"{left:.0f} s"


def table(runs: Sequence[Document], now: float, width: int) -> list[str]:
    """The head and a line for each run, none longer than `width`, unless ids and states alone are."""
    cells = [row(run, now) for run in runs]
    shown = _chosen(cells, width)
    widths = _widths(cells, shown, width)
    lines = [tuple(column.name for column in COLUMNS), *cells]
    return [
        GAP.join(_cell(line[at], size, right=COLUMNS[at].right) for at, size in widths.items()).rstrip()
        for line in lines
    ]


def _chosen(cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that fit: empty ones go first, then those of the lowest rank."""
    shown = list(range(len(COLUMNS)))
    empty = [at for at in shown if not any(line[at] for line in cells)]
    for at in [*empty, *sorted(shown, key=lambda at: COLUMNS[at].rank)]:
        if _least(cells, shown) <= width or len(shown) == 1:
            break
        if at in shown:
            shown.remove(at)
    return shown


def _least(cells: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
    sizes = [min(_longest(cells, at), TEXT_LEAST) if COLUMNS[at].most else _longest(cells, at) for at in shown]
    return sum(sizes) + len(GAP) * (len(shown) - 1)


def _longest(cells: Sequence[Sequence[str]], at: int) -> int:
    return max([cell_len(COLUMNS[at].name), *(cell_len(line[at]) for line in cells)])


def _widths(cells: Sequence[Sequence[str]], shown: Sequence[int], width: int) -> dict[int, int]:
    """The size of each column; the widest texts give way."""
    sizes = {at: min(_longest(cells, at), COLUMNS[at].most or _longest(cells, at)) for at in shown}
    texts = [at for at in shown if COLUMNS[at].most]
    while sum(sizes.values()) + len(GAP) * (len(shown) - 1) > width:
        widest = max((at for at in texts if sizes[at] > TEXT_LEAST), key=lambda at: sizes[at], default=None)
        if widest is None:
            break
        sizes[widest] -= 1
    return sizes


def _cell(text: str, size: int, *, right: bool) -> str:
    if cell_len(text) > size:
        return set_cell_size(text, size - 1) + "…"
    return " " * (size - cell_len(text)) + text if right else set_cell_size(text, size)


def _epoch(at: str) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return 0.0
