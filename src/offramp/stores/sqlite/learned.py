"""The statements that keep, and read, what is learned of runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from offramp.ports.learning import (
    CELLS_KEPT,
    SESSIONS_KEPT,
    BeliefCell,
    EndedTurn,
    Learned,
    SessionTurns,
    after_turn,
    page_of,
)

# An answer is one row of JSON: each fetched row takes the interpreter lock again.
_CELLS = (
    "SELECT json_group_array(json_array(changed, json_array(pipeline, class, block, name, json(weights)))) FROM "
    "(SELECT * FROM beliefs WHERE changed > ? ORDER BY changed LIMIT ?)"
)
_SESSIONS = (
    "SELECT json_group_array(json_array(changed, json_array(session, turns, json(last)))) FROM "
    "(SELECT * FROM turns_of_sessions WHERE changed > ? ORDER BY changed LIMIT ?)"
)
_OVERFLOWING_CELLS = (
    "DELETE FROM beliefs WHERE pipeline = ?1 AND class = ?2 AND changed <= "
    "(SELECT changed FROM beliefs WHERE pipeline = ?1 AND class = ?2 ORDER BY changed DESC LIMIT 1 OFFSET ?3)"
)
_OVERFLOWING_SESSIONS = (
    "DELETE FROM turns_of_sessions WHERE changed <= "
    "(SELECT changed FROM turns_of_sessions ORDER BY changed DESC LIMIT 1 OFFSET ?)"
)
_decode_weights = msgspec.json.Decoder(dict[str, float | None]).decode
_decode_last = msgspec.json.Decoder(tuple[float, ...]).decode
_decode_cells = msgspec.json.Decoder(list[tuple[int, BeliefCell]]).decode
_decode_any = msgspec.json.Decoder(list[tuple[int, tuple[str, str, int, str, dict[str, float | None]]]]).decode
_decode_sessions = msgspec.json.Decoder(list[tuple[int, SessionTurns]]).decode


def learn(connection: sqlite3.Connection, cells: Sequence[BeliefCell], turns: Sequence[EndedTurn]) -> None:
    """Add weights and turns, and remove what changed longest ago beyond what is kept."""
    number = connection.execute("SELECT newest FROM learned").fetchone()[0]
    for cell in cells:
        number += 1
        _add(connection, number, cell)
    for turn in turns:
        number += 1
        session = after_turn(turns_of(connection, turn.session), turn)
        last = msgspec.json.encode(session.last_s).decode()
        row = (session.session, number, session.turns, last)
        connection.execute("INSERT OR REPLACE INTO turns_of_sessions VALUES (?, ?, ?, ?)", row)
    connection.execute("UPDATE learned SET newest = ?", (number,))
    for pipeline, sla in {(cell.pipeline, cell.sla) for cell in cells}:
        connection.execute(_OVERFLOWING_CELLS, (pipeline, sla, CELLS_KEPT))
    if turns:
        connection.execute(_OVERFLOWING_SESSIONS, (SESSIONS_KEPT,))


def _add(connection: sqlite3.Connection, number: int, cell: BeliefCell) -> None:
    read = "SELECT weights FROM beliefs WHERE pipeline = ? AND class = ? AND block = ? AND name = ?"
    key = cell.pipeline, cell.sla, cell.block, cell.name
    row = connection.execute(read, key).fetchone()
    weights = {} if row is None else _numbers(_decode_weights(row[0]))
    for bucket, weight in cell.weights.items():
        weights[bucket] = weights.get(bucket, 0.0) + weight
    encoded = msgspec.json.encode(weights).decode()
    connection.execute("INSERT OR REPLACE INTO beliefs VALUES (?, ?, ?, ?, ?, ?)", (*key, number, encoded))


def learned(connection: sqlite3.Connection, after: int, limit: int) -> Learned:
    """What has changed since, in one view of the database."""
    connection.execute("BEGIN")
    try:
        newest = connection.execute("SELECT newest FROM learned").fetchone()[0]
        if newest == after:
            return Learned([], [], newest)
        found: list[tuple[int, BeliefCell | SessionTurns]] = [
            *_cells_in(connection.execute(_CELLS, (after, limit)).fetchone()[0]),
            *_decode_sessions(connection.execute(_SESSIONS, (after, limit)).fetchone()[0]),
        ]
    finally:
        connection.execute("ROLLBACK")
    return page_of(found, newest, limit)


def _cells_in(encoded: str) -> list[tuple[int, BeliefCell]]:
    """The cells of an answer; without weights that are no numbers, for which JSON has null."""
    try:
        return _decode_cells(encoded)
    except msgspec.ValidationError:
        rows = _decode_any(encoded)
        return [(row[0], BeliefCell(*row[1][:4], _numbers(row[1][4]))) for row in rows]


def _numbers(weights: Mapping[str, float | None]) -> dict[str, float]:
    return {bucket: weight for bucket, weight in weights.items() if weight is not None}


def forget(connection: sqlite3.Connection, pipeline: str, sla: str, blocks: Sequence[int]) -> None:
    """Remove blocks."""
    statement = "DELETE FROM beliefs WHERE pipeline = ? AND class = ? AND block = ?"
    connection.executemany(statement, [(pipeline, sla, block) for block in blocks])


def turns_of(connection: sqlite3.Connection, session: str) -> SessionTurns | None:
    """What is known of a session."""
    query = "SELECT session, turns, last FROM turns_of_sessions WHERE session = ?"
    row = connection.execute(query, (session,)).fetchone()
    return None if row is None else SessionTurns(row[0], row[1], _decode_last(row[2]))
