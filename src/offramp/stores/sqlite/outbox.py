"""The outbox port on SQLite: entries change only inside transactions of some process's writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from offramp.core.webhooks import Progress
from offramp.ports.commit import Commit
from offramp.ports.outbox import CANDIDATES_MAX, Pending, Room
from offramp.stores.sqlite.batch import Call, Transaction
from offramp.stores.sqlite.database import Database
from offramp.stores.sqlite.writer import Writer

_SETTLE = (
    "UPDATE webhooks SET cursor = :cursor, attempts = :attempts, failing_since = :failing_since, "
    "due_at = CASE WHEN :due_at IS NOT NULL THEN :due_at WHEN latest > :cursor THEN 0 END "
    "WHERE run_id = :run_id AND token = :token"
)
_DONE = "DELETE FROM webhooks WHERE run_id = :run_id AND token = :token"
# The end of its retention may have been put off for pending announcements, see `purge`.
_DUE_AGAIN = (
    "UPDATE runs SET purge_at = finished_at + retention WHERE id = ?1 AND purged = 0 "
    "AND purge_at > finished_at + retention AND NOT EXISTS (SELECT 1 FROM webhooks WHERE run_id = ?1)"
)


class SQLiteOutbox:
    """Entries in a `Database`; see the port."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def claim(self, room: Room, now: float, until: float) -> Sequence[Pending]:
        """Take due entries; writes nothing if none is due."""
        full = room.full()
        marks = ",".join("?" * len(full))
        query = f"SELECT run_id, host FROM webhooks WHERE due_at <= ? AND host NOT IN ({marks}) ORDER BY due_at LIMIT ?"  # noqa: S608
        due = await self._database.read(
            lambda connection: connection.execute(query, (now, *full, CANDIDATES_MAX)).fetchall()
        )
        chosen = room.choose(due)
        if not chosen:
            return []

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> list[Pending]:
            return _take(connection, chosen, now, until)

        commit: Commit[list[Pending]] = Commit()
        # Durable: a commit on disk carries all earlier ones, of every process (W4).
        self._writer.put(Call(change, durable=True, commit=commit, point="webhook-claim"))
        return await commit

    async def settle(self, pending: Pending, progress: Progress) -> bool:
        """Give an entry back without waiting for the disk: a lost cursor only repeats a message."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> bool:
            key = {"run_id": pending.run_id, "token": pending.token}
            if not progress.done:
                return connection.execute(_SETTLE, key | progress._asdict()).rowcount == 1
            is_ours = connection.execute(_DONE, key).rowcount == 1
            connection.execute(_DUE_AGAIN, (pending.run_id,))
            return is_ours

        commit: Commit[bool] = Commit()
        self._writer.put(Call(change, durable=False, commit=commit, point=_point(pending.progress, progress)))
        return await commit

    def listen(self, listener: Callable[[], object]) -> None:
        """Call back when this process makes an entry due."""
        self._writer.on_announced.append(listener)


def _point(before: Progress, after: Progress) -> str:
    """The crash point between two states of progress, see `crash_points`."""
    if after.done:
        return "webhook-done"
    if after.cursor == before.cursor:
        return "webhook-retry"
    return "webhook-delivered" if after.failing_since is None else "webhook-given-up"


def _take(connection: sqlite3.Connection, run_ids: Sequence[str], now: float, until: float) -> list[Pending]:
    marks = ",".join("?" * len(run_ids))
    # Another process may have taken them since the lookup.
    rows = connection.execute(
        "SELECT run_id, host, token + 1, latest, cursor, attempts, failing_since FROM webhooks "  # noqa: S608
        f"WHERE run_id IN ({marks}) AND due_at <= ?",
        (*run_ids, now),
    ).fetchall()
    connection.executemany(
        "UPDATE webhooks SET token = token + 1, due_at = ? WHERE run_id = ?", [(until, row[0]) for row in rows]
    )
    return [Pending(row[0], row[1], row[2], row[3], Progress(row[4], row[5], row[6])) for row in rows]
