"""The statements of statistics. An answer is one row of JSON: each fetched row takes the interpreter lock again."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from offramp.core.run import RunHead
from offramp.core.stats import KEPT_MINUTES, Cell, added

_HEAD = (
    "SELECT id, tenant, pipeline, coalesce(class, class_in(record)) AS sla, session_id, status, path, finished_at, "
    "coalesce((SELECT last FROM events WHERE run_id = runs.id ORDER BY first DESC LIMIT 1), 0) AS seq, "
    "demotion IS NOT NULL AS demoted FROM runs "
)
_HEADS = (
    "SELECT json_group_array(json_array(id, tenant, pipeline, sla, session_id, status, path, finished_at, seq, "
    "json(iif(demoted, 'true', 'false')))) FROM ({})"
)
_UNFINISHED = _HEADS.format(
    f"{_HEAD} INDEXED BY runs_queued WHERE status = 'queued' UNION ALL "
    f"{_HEAD} INDEXED BY runs_owned WHERE owner IS NOT NULL AND status = 'running' UNION ALL "
    f"{_HEAD} INDEXED BY runs_parked WHERE parked_until IS NOT NULL LIMIT ?"
)
_NAMED = _HEADS.format(f"{_HEAD} JOIN (SELECT value AS named FROM json_each(?)) ON runs.id = named")  # noqa: S608
_IDS_AFTER = "SELECT json_group_array(id) FROM (SELECT id FROM runs WHERE id > ? ORDER BY id LIMIT ?)"
_decode_ids = msgspec.json.Decoder(list[str]).decode
_decode_heads = msgspec.json.Decoder(list[RunHead]).decode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode
_decode_cells = msgspec.json.Decoder(list[tuple[str, str, dict[str, int]]]).decode


def unfinished(connection: sqlite3.Connection, limit: int) -> list[RunHead]:
    """Runs that have not ended, from partial indexes: the length of the history does not matter."""
    return _decode_heads(connection.execute(_UNFINISHED, (limit,)).fetchone()[0])


def ids_after(connection: sqlite3.Connection, run_id: str, limit: int) -> list[str]:
    """The ids of runs above a text, in order."""
    return _decode_ids(connection.execute(_IDS_AFTER, (run_id, limit)).fetchone()[0])


def heads(connection: sqlite3.Connection, ids: Sequence[str]) -> list[RunHead]:
    """The heads of these runs, without unknown ones."""
    named = msgspec.json.encode(ids).decode()
    return _decode_heads(connection.execute(_NAMED, (named,)).fetchone()[0])


def add_cells(connection: sqlite3.Connection, cells: Sequence[Cell]) -> None:
    """Add to the counts of cells, and remove those too old to be read."""
    read = "SELECT counts FROM cells WHERE tenant = ? AND width = ? AND number = ? AND pipeline = ? AND class = ?"
    for cell in cells:
        key = cell.tenant, cell.width, cell.number, cell.pipeline, cell.sla
        row = connection.execute(read, key).fetchone()
        counts = added({} if row is None else _decode_counts(row[0]), cell.counts)
        encoded = msgspec.json.encode(counts).decode()
        connection.execute("INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?)", (*key, encoded))
    for width, minutes in KEPT_MINUTES.items():
        newest = max((cell.number for cell in cells if cell.width == width), default=0)
        connection.execute("DELETE FROM cells WHERE width = ? AND number < ?", (width, newest - minutes // width))


def summed_cells(
    connection: sqlite3.Connection, width: int, first: int, last: int, tenant: str
) -> dict[tuple[str, str], dict[str, int]]:
    """The sums of a tenant's cells, by pipeline and class."""
    query = (
        "SELECT json_group_array(json_array(pipeline, class, json(counts))) FROM cells "
        "WHERE tenant = ? AND width = ? AND number BETWEEN ? AND ?"
    )
    found: dict[tuple[str, str], dict[str, int]] = {}
    for pipeline, sla, counts in _decode_cells(connection.execute(query, (tenant, width, first, last)).fetchone()[0]):
        found[pipeline, sla] = added(found.get((pipeline, sla), {}), counts)
    return found
