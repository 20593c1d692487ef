"""The open waits of runs: rows that their events add and remove, and a mask of their kinds in the run's own row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from offramp.core.events import Frame
from offramp.core.waits import BITS, Change, kinds_in, marks_of, waits_in

_ADD = "INSERT OR IGNORE INTO waits VALUES (?, ?)"
_REMOVE = "DELETE FROM waits WHERE run_id = ? AND key = ?"
# A key begins with its kind and a space. A run that has ended waits for nothing; its rows are removed with its data.
_HAS = "EXISTS (SELECT 1 FROM waits WHERE run_id = ?1 AND key BETWEEN '{wait} ' AND '{wait}!')"
_SUM = " + ".join(f"{bit} * {_HAS.format(wait=wait)}" for wait, bit in BITS.items())
_MASK = f"UPDATE OR ROLLBACK runs SET waits = {_SUM} WHERE id = ?1 AND finished_at IS NULL"  # noqa: S608
_COUNT = "SELECT pipeline, waits, count(*) FROM runs INDEXED BY runs_waits WHERE waits > 0 GROUP BY waits, pipeline"


def write(connection: sqlite3.Connection, changes: Sequence[tuple[str, Change]]) -> None:
    """Note waits that begin and end, in order."""
    for run_id, change in changes:
        connection.execute(_ADD if change.begins else _REMOVE, (run_id, change.mark))
    for run_id in dict.fromkeys(run_id for run_id, _ in changes):
        connection.execute(_MASK, (run_id,))


def count(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """How many runs wait, by pipeline and kind of wait."""
    found: dict[tuple[str, str], int] = {}
    for pipeline, mask, runs in connection.execute(_COUNT):
        for kind in kinds_in(mask):
            found[pipeline, kind] = found.get((pipeline, kind), 0) + runs
    return found


class OpenWaits:
    """An SQL aggregate over the rows of a run's events: its open waits, as a JSON list of their marks."""

    def __init__(self) -> None:
        self._chunks: list[tuple[int, bytes]] = []

    def step(self, first: int, data: bytes, /) -> None:
        """Add a row."""
        self._chunks.append((first, data))

    def finalize(self) -> str:
        """The answer."""
        return msgspec.json.encode(marks_of(waits_in(self._frames()))).decode()

    def _frames(self) -> Iterable[Frame]:
        for first, data in sorted(self._chunks):
            yield from (Frame(first + place, line) for place, line in enumerate(data.split(b"\n")))
