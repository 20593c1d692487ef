"""The lease port on SQLite: who may write which run.

A run's `owner` and `token` change only inside the writer's transactions of some process; SQLite's write lock makes
each change of hands one atomic step.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from offramp.core.claims import HEADS_MAX, SUSPECT_DEATHS, Head, LeftBy, Suspicion, after_death, choose
from offramp.core.ownership import ENGINE, ENTRUSTED_GRACE_S, FIRST_TURN, Ownership, require_same, signal
from offramp.core.run import RunRecord
from offramp.errors import LeaseLost, StoreError
from offramp.ports.commit import Commit
from offramp.ports.store import (
    Claim,
    Lease,
    Owner,
    Parked,
    Turn,
)
from offramp.stores.sqlite.batch import Call, Tail, Transaction, announced
from offramp.stores.sqlite.database import Database
from offramp.stores.sqlite.rows import RECORD_COLUMNS, decode_record
from offramp.stores.sqlite.writer import Writer

T = TypeVar("T")

FAR_FUTURE = 253_402_300_799.0
"""The last second of the year 9999, for a run that only a signal wakes."""
OVERDUE_MAX = 1_000
UNHEARD_MAX = 1_000
_UNPARK = "UPDATE runs SET status = 'queued', parked_until = NULL"
_UNHEARD = "UPDATE runs SET unheard = unheard + 1 WHERE id = ? AND owner = ? AND status IN ('queued', 'running')"
_SUSPICION = "deaths, deaths_alone, deaths_silent, company"
_HELD = f"SELECT {_SUSPICION} FROM runs INDEXED BY runs_died WHERE owner = ? AND deaths > 0"  # noqa: S608
_HEADS = f"SELECT id, priority, {_SUSPICION} FROM runs INDEXED BY {{index}} WHERE status = 'queued' AND {{which}} "  # noqa: S608
assert SUSPECT_DEATHS == 2  # noqa: S101 - an index says so, too


class SQLiteLeases:
    """Leases in a `Database`; see the port.

    `renew` and `expire` use a connection of their own, so that a long batch of the writer cannot starve them.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._own = database.connect()
        self._own_lock = threading.Lock()

    async def _change(
        self,
        point: str,
        function: Callable[[sqlite3.Connection, Transaction], T],
        *,
        durable: bool = False,
        asked_at: float = math.inf,
    ) -> T:
        commit: Commit[T] = Commit()
        self._writer.put(Call(function, durable, commit, point, asked_at))
        return await commit

    async def register(self, owner: Owner) -> None:
        """Make an owner known."""
        times = owner.expires_at, owner.started_at
        values = (owner.id, owner.kind, owner.port, int(owner.ready), *times, int(owner.leaving))
        statement = "INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?, ?, ?, ?)"
        await self._change("register", lambda connection, _: connection.execute(statement, values).rowcount)

    def renew(self, owner: str, expires_at: float) -> tuple[bool, Sequence[str]]:
        """Extend the lease of everything this owner holds; its runs that are to be cancelled."""
        with self._own_lock:
            try:
                changed = self._own.execute("UPDATE owners SET expires_at = ? WHERE id = ?", (expires_at, owner))
                rows = self._own.execute("SELECT id FROM runs WHERE owner = ? AND cancel_requested = 1", (owner,))
                return changed.rowcount == 1, [row[0] for row in rows]
            except sqlite3.Error as error:
                raise StoreError(f"the lease cannot be renewed: {error}") from error

    def expire(self, now: float, *, blames: bool = True) -> Sequence[str]:
        """Retire the owners whose lease ran out."""
        with self._own_lock:
            try:
                due = [row[0] for row in self._own.execute("SELECT id FROM owners WHERE expires_at < ?", (now,))]
                for owner in due:
                    self._own.execute("BEGIN IMMEDIATE")
                    still = self._own.execute(
                        "SELECT leaving FROM owners WHERE id = ? AND expires_at < ?", (owner, now)
                    ).fetchone()
                    if still:
                        _forget(self._own, owner, "exit" if still[0] else "silence", blames=blames)
                    self._own.execute("COMMIT")
            except sqlite3.Error as error:
                if self._own.in_transaction:
                    self._own.execute("ROLLBACK")
                raise StoreError(f"expired leases cannot be released: {error}") from error
            return due

    async def retire(self, owner: str) -> int:
        """Forget an owner and queue what it held."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> int:
            leaves = connection.execute("SELECT 1 FROM owners WHERE id = ? AND leaving = 1", (owner,)).fetchone()
            return _forget(connection, owner, "death" if leaves is None else "exit")

        return await self._change("retire", change, durable=True)

    async def owners(self) -> Sequence[Owner]:
        """Every known owner."""

        def query(connection: sqlite3.Connection) -> list[Owner]:
            rows = connection.execute("SELECT id, kind, port, ready, expires_at, started_at, leaving FROM owners")
            return [Owner(row[0], row[1], row[2], bool(row[3]), row[4], row[5], bool(row[6])) for row in rows]

        return await self._database.read(query)

    async def claim(self, owner: str, limit: int, pipelines: Sequence[str], now: float) -> Sequence[Claim]:
        """Take up to `limit` queued runs."""
        marks = ",".join("?" * len(pipelines))

        def change(connection: sqlite3.Connection, transaction: Transaction) -> list[Claim]:
            connection.execute(f"{_UNPARK} WHERE parked_until <= ?", (now,))
            due = _due(connection, owner, limit, pipelines)
            return [_take(connection, transaction, owner, run_id, now) for run_id in due]

        # An empty queue is the common answer: look before waiting for the write lock.
        query = (
            f"SELECT 1 FROM runs INDEXED BY runs_queued WHERE status = 'queued' AND pipeline IN ({marks}) "  # noqa: S608
            "UNION ALL SELECT 1 FROM runs WHERE parked_until <= ? LIMIT 1"
        )
        if not await self._database.read(lambda connection: connection.execute(query, (*pipelines, now)).fetchone()):
            return []
        return await self._change("claim", change)

    async def claim_one(self, owner: str, run_id: str, now: float) -> Claim | None:
        """Take this run if it is queued or parked."""

        def change(connection: sqlite3.Connection, transaction: Transaction) -> Claim | None:
            free = (
                "SELECT 1 FROM runs WHERE id = ? AND (status = 'queued' OR parked_until IS NOT NULL "
                "OR (owner = ? AND deadline_at <= ?))"
            )
            row = connection.execute(free, (run_id, ENGINE, now - ENTRUSTED_GRACE_S)).fetchone()
            return None if row is None else _take(connection, transaction, owner, run_id, now)

        return await self._change("claim", change)

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Give a run back: queued, or parked."""

        def change(connection: sqlite3.Connection, transaction: Transaction) -> None:
            until = None
            if parked is not None and parked.signals_seen == _count_signals(connection, lease.run_id):
                until = min(parked.until, FAR_FUTURE)
            changed = connection.execute(
                # One that is to be cancelled is not parked: whoever takes it off the queue ends it.
                "UPDATE runs SET status = iif(?1 IS NULL OR cancel_requested, 'queued', 'running'), owner = NULL, "
                "parked_until = iif(cancel_requested, NULL, min(?1, coalesce(deadline_at, ?1))), left_by = ?5 "
                "WHERE id = ?2 AND owner = ?3 AND token = ?4",
                (until, lease.run_id, lease.owner, lease.token, "exit" if parked is None else "wait"),
            )
            if changed.rowcount == 0:
                raise LeaseLost(f"{lease.run_id} cannot be released here: another process owns it now")
            transaction.forget(lease.run_id)

        await self._change("release" if parked is None else "park", change, durable=True)

    async def send_signal(
        self, run_id: str, name: str, value: bytes, at: float, key: str | None = None
    ) -> RunRecord | None:
        """Keep a signal and wake its run if that is parked."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> RunRecord | None:
            row = connection.execute(f"SELECT {RECORD_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()  # noqa: S608
            if row is None:
                return None
            record = decode_record(row)
            known = "SELECT name, value FROM signals WHERE run_id = ? AND key = ?"
            kept = None if key is None else connection.execute(known, (run_id, key)).fetchone()
            if kept is not None:
                require_same(kept, name, value)
                return record
            # Of a long value only the length is read.
            sums = "SELECT count(*), coalesce(sum(length(value)), 0) FROM signals WHERE run_id = ?"
            count, size = connection.execute(sums, (run_id,)).fetchone()
            signal(Ownership(record.status, None), run_id, count, size + len(value))
            connection.execute("INSERT INTO signals VALUES (?, ?, ?, ?, ?, ?)", (run_id, count, name, value, at, key))
            connection.execute(_UNHEARD, (run_id, ENGINE))
            if connection.execute(f"{_UNPARK} WHERE id = ? AND parked_until IS NOT NULL", (run_id,)).rowcount:
                record.status = "queued"
            return record

        return await self._change("signal", change, durable=True, asked_at=time.monotonic())

    async def queued(self) -> dict[str, int]:
        """How many runs of each tenant are queued: triggers keep count."""
        await self._change("", lambda _connection, _transaction: None)  # what was put before it is committed then
        query = "SELECT tenant, runs FROM queue WHERE runs > 0"
        return await self._database.read(lambda connection: dict(connection.execute(query).fetchall()))

    async def overdue(self, now: float) -> Sequence[str]:
        """Runs that nobody owns and whose deadline has passed."""
        query = (
            "SELECT id FROM runs WHERE deadline_at <= ? AND finished_at IS NULL "
            "AND (owner IS NULL OR (owner = ? AND deadline_at <= ?)) LIMIT ?"
        )
        values = (now, ENGINE, now - ENTRUSTED_GRACE_S, OVERDUE_MAX)
        rows = await self._database.read(lambda connection: connection.execute(query, values).fetchall())
        return [row[0] for row in rows]

    async def request_cancel(self, run_id: str) -> RunRecord | None:
        """Note the wish on a run that is not finished."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> RunRecord | None:
            connection.execute(
                "UPDATE runs SET cancel_requested = 1 WHERE id = ? AND status IN ('queued', 'running')", (run_id,)
            )
            connection.execute(f"{_UNPARK} WHERE id = ? AND parked_until IS NOT NULL", (run_id,))
            connection.execute(_UNHEARD, (run_id, ENGINE))
            row = connection.execute(f"SELECT {RECORD_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()  # noqa: S608
            return None if row is None else decode_record(row)

        return await self._change("cancel", change, durable=True)

    async def entrust(self, run_id: str, now: float) -> Claim | None:
        """Give a run to the engine."""

        def change(connection: sqlite3.Connection, transaction: Transaction) -> Claim | None:
            known = "SELECT owner, token FROM runs WHERE id = ? AND status IN ('queued', 'running')"
            row = connection.execute(known, (run_id,)).fetchone()
            if row is None:
                return None
            if row[0] == ENGINE:
                return Claim(_record(connection, run_id), Lease(run_id, ENGINE, row[1]), fresh=False)
            claim = _take(connection, transaction, ENGINE, run_id, now)
            transaction.forget(run_id)  # no process has its ends to itself
            return claim._replace(fresh=True)

        return await self._change("claim", change, durable=True)

    async def take_step(self, lease: Lease, step: str) -> Turn:
        """Begin to execute a step of an entrusted run."""

        def change(_connection: sqlite3.Connection, transaction: Transaction) -> Turn:
            if not transaction.holds(lease):
                raise LeaseLost(f"{lease.run_id} is not the engine's any more; step {step} is not executed")
            turn, finished = transaction.turn(lease.run_id, step)
            if not finished:
                turn = max(turn, FIRST_TURN) + 1
                transaction.set_turn(lease.run_id, step, turn)
            return Turn(Lease(lease.run_id, lease.owner, lease.token, step, turn), finished)

        return await self._change("", change)

    async def unheard(self) -> Sequence[str]:
        """Entrusted runs whose engine is still to be told of something."""
        query = "SELECT id FROM runs WHERE unheard > 0 AND status IN ('queued', 'running') LIMIT ?"
        rows = await self._database.read(lambda connection: connection.execute(query, (UNHEARD_MAX,)).fetchall())
        return [row[0] for row in rows]

    async def heard(self, run_id: str) -> None:
        """The engine was told of one thing."""
        statement = "UPDATE runs SET unheard = unheard - 1 WHERE id = ? AND unheard > 0"
        await self._change("", lambda connection, _: connection.execute(statement, (run_id,)).rowcount)

    def leave(self) -> None:
        """Close the connection of the lease thread."""
        with self._own_lock:
            self._own.close()


def _record(connection: sqlite3.Connection, run_id: str) -> RunRecord:
    return decode_record(connection.execute(f"SELECT {RECORD_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone())  # noqa: S608


def _count_signals(connection: sqlite3.Connection, run_id: str) -> int:
    count: int = connection.execute("SELECT count(*) FROM signals WHERE run_id = ?", (run_id,)).fetchone()[0]
    return count


def _forget(connection: sqlite3.Connection, owner: str, left_by: LeftBy, *, blames: bool = True) -> int:
    connection.execute("DELETE FROM owners WHERE id = ?", (owner,))
    if blames and left_by != "exit":
        rows = connection.execute(f"SELECT id, {_SUSPICION} FROM runs WHERE owner = ?", (owner,)).fetchall()  # noqa: S608
        known = after_death([Suspicion(*row[1:]) for row in rows], silent=left_by == "silence")
        connection.executemany(
            "UPDATE runs SET deaths = ?, deaths_alone = ?, deaths_silent = ?, company = ? WHERE id = ?",
            [(*suspicion, row[0]) for suspicion, row in zip(known, rows, strict=True)],
        )
    # The token grows at the next claim; until then nobody owns the run, so its former owner cannot write either.
    statement = "UPDATE runs SET status = 'queued', owner = NULL, left_by = ? WHERE owner = ?"
    return connection.execute(statement, (left_by, owner)).rowcount


def _due(connection: sqlite3.Connection, owner: str, limit: int, pipelines: Sequence[str]) -> list[str]:
    """The runs that an owner may take now (Q3, Q16)."""
    rest = f"AND pipeline IN ({','.join('?' * len(pipelines))}) ORDER BY priority DESC, id LIMIT ?"

    def heads(index: str, which: str, at_most: int) -> list[Head]:
        rows = connection.execute(_HEADS.format(index=index, which=which) + rest, (*pipelines, at_most))
        return [Head(row[0], row[1], Suspicion(*row[2:])) if row[2] else Head(row[0], row[1]) for row in rows]

    found = heads("runs_queued", "deaths <= 1", limit)
    if any(head.suspicion.deaths for head in found):
        found = heads("runs_queued", "deaths = 0", limit) + heads("runs_queued", "deaths = 1", HEADS_MAX)
    found += heads("runs_suspected", "deaths > 1", HEADS_MAX)
    return choose(found, [Suspicion(*row) for row in connection.execute(_HELD, (owner,))], limit)


def _take(connection: sqlite3.Connection, transaction: Transaction, owner: str, run_id: str, now: float) -> Claim:
    row = connection.execute(f"SELECT {RECORD_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()  # noqa: S608
    record, token = decode_record(row), row[10] + 1
    fresh = record.started_at is None
    record.status, record.path, record.started_at = "running", "deep", record.started_at or now
    connection.execute(
        "UPDATE runs SET status = 'running', path = 'deep', parked_until = NULL, owner = ?, token = ?, started_at = ? "
        "WHERE id = ?",
        (owner, token, record.started_at, run_id),
    )
    position, seq = connection.execute(
        "SELECT (SELECT coalesce(max(position), -1) + 1 FROM journal WHERE run_id = :run), "
        "(SELECT coalesce(max(last), 0) + 1 FROM events WHERE run_id = :run)",
        {"run": run_id},
    ).fetchone()
    transaction.hold(run_id, Tail(token, position, seq, announced(record)))
    return Claim(record, Lease(run_id, owner, token), fresh)
