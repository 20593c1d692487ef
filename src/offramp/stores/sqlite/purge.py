"""Removal of data, in steps short enough for other writes to pass between them.

A step of the writer is a handful of statements, however much it removes: each statement releases the interpreter lock,
and the write lock is held until the step ends. A reading thread looks up the rows to remove beforehand.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import msgspec

from offramp.ports.commit import Commit
from offramp.ports.outbox import UNDELIVERED_KEPT_S
from offramp.stores.sqlite.batch import Call, Transaction, execute
from offramp.stores.sqlite.database import PAGE_BYTES, Database
from offramp.stores.sqlite.queue import ANY_IDLE, FORGET_IDLE
from offramp.stores.sqlite.rows import demotion_without_data, without_data
from offramp.stores.sqlite.writer import Writer

PURGE_ROWS_MAX = 2_000
"""Rows that one step removes, or pages of larger ones."""
PURGE_ROWS_MIN = 20
STEP_S = 0.005
"""The target time for which a step holds the write lock: after a longer step, the next one removes less."""
TOMBSTONE_S = 7 * 86_400.0
"""Seconds for which the id of a purged run stays known, so that its readers get 410 and not 404."""
SPARE_PAGES = 1_000
"""Free pages left in the file for the next writes; more are cut off."""
SPARE_SHARE = 0.1
"""The same, as a fraction of the pages in use."""
CUT_PAGES_MAX = 200
"""Pages that one step cuts off the file."""
CUT_PAGES_MIN = 10
CHECKPOINT_STEPS = 8
"""Steps after which a purge copies the WAL into the file, before a write that a caller waits for has to."""

_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
_PURGED, _EMPTIED = 1, 2
_ROWS_PER_RUN = 16
"""The assumed size of a run, to look up no more runs than a step removes."""
_TABLES = {
    "journal": ("position", "-1"),
    "events": ("first", "-1"),
    "signals": ("number", "-1"),
    "turns": ("step", "''"),
    "waits": ("key", "''"),
    "webhooks": ("run_id", "''"),
}
"""The tables with a run's rows, each with the rest of its key and the least value of that."""
# Each page of a row counts as a row, up to the size of a step. Values are not read for this, only their lengths.
_ROWS = (
    f"(SELECT coalesce(sum(pages), 0) FROM (SELECT 1 + length({{value}}) / {PAGE_BYTES} AS pages FROM {{table}} "  # noqa: S608
    f"WHERE run_id = id LIMIT {PURGE_ROWS_MAX + 1}))"
)
# A run is due once it has no pending announcement, or delivery was tried for long enough; see `_PUT_OFF`.
_DUE = (
    "SELECT id, record, demotion, pages + {entries} + {events} "  # noqa: S608
    f"FROM (SELECT id, record, demotion, coalesce(length(result), 0) / {PAGE_BYTES} AS pages, "
    "finished_at + retention AS over "
    "FROM runs INDEXED BY runs_due WHERE purged = 0 AND purge_at <= :now ORDER BY purge_at LIMIT :count) "
    "LEFT JOIN webhooks ON run_id = id WHERE (run_id IS NULL OR over + :kept <= :now) {{only}}"
).format(entries=_ROWS.format(table="journal", value="entry"), events=_ROWS.format(table="events", value="data"))
_ANY_TO_PUT_OFF = (
    "SELECT 1 FROM (SELECT id, finished_at + retention AS over FROM runs INDEXED BY runs_due "
    "WHERE purged = 0 AND purge_at <= :now ORDER BY purge_at LIMIT :count) JOIN webhooks ON run_id = id "
    "WHERE over + :kept > :now LIMIT 1"
)
_PUT_OFF = (
    "UPDATE runs SET purge_at = finished_at + retention + :kept WHERE id IN (SELECT id FROM (SELECT id, "
    "finished_at + retention AS over FROM runs INDEXED BY runs_due WHERE purged = 0 AND purge_at <= :now "
    "ORDER BY purge_at LIMIT :count) JOIN webhooks ON run_id = id WHERE over + :kept > :now)"
)
_MARK = (
    "UPDATE runs SET purged = v.column4, result = NULL, record = v.column2, demotion = v.column3, "  # noqa: S608
    f"purge_at = purge_at + {TOMBSTONE_S:.0f} FROM (VALUES {{rows}}) AS v WHERE runs.id = v.column1 AND runs.purged = 0"
)
_OF_RUNS = "DELETE FROM {table} WHERE run_id IN (SELECT value FROM json_each(?))"
# The last rows first: a reader of the log sees its beginning, and then that the run was purged.
_OF_RUN = (
    "DELETE FROM {table} WHERE run_id = ?1 AND {place} >= "
    "coalesce((SELECT {place} FROM {table} WHERE run_id = ?1 ORDER BY {place} DESC LIMIT 1 OFFSET ?2), {least})"
)
_ANY_EMPTIED = f"SELECT id FROM runs INDEXED BY runs_due WHERE purged = {_EMPTIED} AND purge_at IS NOT NULL LIMIT 1"  # noqa: S608
_ANY_FORGOTTEN = f"SELECT 1 FROM runs INDEXED BY runs_due WHERE purged = {_PURGED} AND purge_at <= :now LIMIT 1"  # noqa: S608
_FORGET = (
    "DELETE FROM runs WHERE id IN (SELECT id FROM runs INDEXED BY runs_due "  # noqa: S608
    f"WHERE purged = {_PURGED} AND purge_at <= :now ORDER BY purge_at LIMIT :count)"
)
_ANY_KEY = "SELECT 1 FROM idempotency WHERE expires_at <= :now LIMIT 1"
_KEYS = (
    "DELETE FROM idempotency WHERE (tenant, key) IN (SELECT tenant, key FROM idempotency INDEXED BY idempotency_expiry "
    "WHERE expires_at <= :now ORDER BY expires_at LIMIT :count)"
)
_LEFT = ((_ANY_TO_PUT_OFF, _PUT_OFF), (_ANY_FORGOTTEN, _FORGET), (_ANY_KEY, _KEYS), (ANY_IDLE, FORGET_IDLE))


class Purge:
    """Removes data from a `Database`.

    Args:
        database: the file.
        writer: the thread that writes it.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self.rows = PURGE_ROWS_MAX // 8
        """How many rows the next step removes."""
        self._pages = CUT_PAGES_MIN
        self._steps = 0

    async def due(self, now: float) -> list[str]:
        """Runs past their retention, a bounded number."""
        return [row[0] for row in await self._due(now, None)]

    async def purge(self, now: float, only: Sequence[str] | None) -> int:
        """Empty runs that are due; `sweep` removes the rows of one that is too large for a step."""
        due = await self._due(now, only)
        if not due:
            return 0
        runs: list[Any] = []
        small: list[str] = []
        rows = 0
        for run_id, record, demotion, found in due:
            weight = len(_TABLES) + found
            if runs and rows + weight > self.rows:
                break
            rows += weight
            is_small = weight <= PURGE_ROWS_MAX
            runs += (
                run_id,
                without_data(record),
                demotion_without_data(demotion),
                _PURGED if is_small else _EMPTIED,
            )
            small += [run_id] * is_small
        named = msgspec.json.encode(small).decode()

        def change(connection: sqlite3.Connection) -> int:
            before = connection.total_changes
            execute(connection, _MARK, 4, runs)
            marked = connection.total_changes - before
            for table in _TABLES:
                connection.execute(_OF_RUNS.format(table=table), (named,))
            return marked

        return await self._step(change)

    async def sweep(self, now: float) -> int:
        """One step of the pending work, in this order; at the end, cut off the file's free end."""
        values: dict[str, Any] = self._values(now)
        run_id = await self._find(_ANY_EMPTIED, {})
        if run_id is not None:
            return await self._step(lambda connection: _empty(connection, run_id, self.rows))
        for query, statement in _LEFT:
            if await self._find(query, values) is not None:
                return await self._execute(statement, values)
        if await self._database.read(_surplus) > 0:
            return await self._database.read(lambda _reading: self._cut())
        return 0

    async def _due(self, now: float, only: Sequence[str] | None) -> list[Any]:
        values = self._values(now)
        query = _DUE.format(only="" if only is None else "AND id IN (SELECT value FROM json_each(:only))")
        if only is not None:
            values |= {"only": msgspec.json.encode(only).decode()}
        return await self._database.read(lambda connection: connection.execute(query, values).fetchall())

    def _values(self, now: float) -> dict[str, Any]:
        return {"now": now, "kept": UNDELIVERED_KEPT_S, "count": max(1, self.rows // _ROWS_PER_RUN)}

    async def _find(self, query: str, values: dict[str, Any]) -> Any:
        row = await self._database.read(lambda connection: connection.execute(query, values).fetchone())
        return None if row is None else row[0]

    async def _execute(self, statement: str, values: dict[str, Any]) -> int:
        return await self._step(lambda connection: connection.execute(statement, values).rowcount)

    async def _step(self, function: Callable[[sqlite3.Connection], int]) -> int:
        """Let the writer remove rows, and adjust the size of the next step."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> int:
            began = time.perf_counter()
            removed = function(connection)
            self.rows = _adapted(self.rows, time.perf_counter() - began, PURGE_ROWS_MIN, PURGE_ROWS_MAX)
            return removed

        commit: Commit[int] = Commit()
        self._writer.put(Call(change, durable=False, commit=commit, point="purge"))
        removed = await commit
        self._steps += 1
        if self._steps % CHECKPOINT_STEPS == 0:
            await self._database.read(lambda connection: connection.execute(_CHECKPOINT).fetchall())
        return removed

    def _cut(self) -> int:
        # A separate connection, which waits for writers; in one call, as the pragma returns a row for each page.
        with closing(self._database.connect()) as connection:
            surplus = _surplus(connection)
            pages = min(self._pages, surplus)
            began = time.perf_counter()
            connection.executescript(f"PRAGMA incremental_vacuum({pages})")
            self._pages = _adapted(self._pages, time.perf_counter() - began, CUT_PAGES_MIN, CUT_PAGES_MAX)
            self._steps += 1
            # The file is cut when the WAL is copied into it.
            if pages == surplus or self._steps % CHECKPOINT_STEPS == 0:
                connection.execute(_CHECKPOINT).fetchall()
            return pages


def _adapted(amount: int, took_s: float, least: int, most: int) -> int:
    """The limit of the next step, from the time that this one took."""
    if took_s > STEP_S:
        return max(least, amount // 2)
    return min(most, amount + amount // 4) if took_s < STEP_S / 2 else amount


def _surplus(connection: sqlite3.Connection) -> int:
    """Free pages to cut off; none if the file was made without that option."""
    if not connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
        return 0
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    used: int = connection.execute("PRAGMA page_count").fetchone()[0] - free
    return max(0, free - SPARE_PAGES - int(SPARE_SHARE * used))


def _empty(connection: sqlite3.Connection, run_id: str, rows: int) -> int:
    """Remove so many rows of a run, or the last of them."""
    removed = 0
    for table, (place, least) in _TABLES.items():
        statement = _OF_RUN.format(table=table, place=place, least=least)
        removed += connection.execute(statement, (run_id, rows - removed - 1)).rowcount
        if removed >= rows:
            return removed
    connection.execute(f"UPDATE runs SET purged = {_PURGED} WHERE id = ?", (run_id,))  # noqa: S608
    return max(1, removed)
