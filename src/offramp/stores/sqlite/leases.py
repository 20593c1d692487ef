"""The lease port on SQLite: the ownership of runs.

A run's `owner` and `token` change only inside a transaction of some process's writer; SQLite's write lock makes each
change of owner atomic. A move of one run reads its row, asks `core.ownership`, and writes the answer; a statement about
many runs names the rule that it restates.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from offramp.core import ownership
from offramp.core.claims import LeftBy, Suspicion, after_death
from offramp.core.ownership import ASSIGNED_GRACE_S, ENGINE, Ownership, shown
from offramp.core.run import RunRecord
from offramp.core.sla import NO_CLASSES, SLA
from offramp.errors import LeaseLost, StoreError
from offramp.ports.commit import Commit
from offramp.ports.store import (
    About,
    Claim,
    Lease,
    Owner,
    Parked,
    Turn,
)
from offramp.stores.sqlite import queue
from offramp.stores.sqlite.batch import Call, Tail, Transaction, announced
from offramp.stores.sqlite.database import Database
from offramp.stores.sqlite.rows import ENCODE, OWNED_COLUMNS, TAIL_COLUMNS, decode_record, ownership_in
from offramp.stores.sqlite.writer import Writer

T = TypeVar("T")

FAR_FUTURE = 253_402_300_799.0
"""The last second of the year 9999, for a run that only a signal wakes."""
OVERDUE_MAX = 1_000
UNHEARD_MAX = 1_000
_decode_about = msgspec.msgpack.Decoder(About).decode
_READ = f"SELECT {OWNED_COLUMNS} FROM runs WHERE id = ?"  # noqa: S608
_READ_WITH_TAILS = f"SELECT {OWNED_COLUMNS}, {TAIL_COLUMNS} FROM runs WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
# Reads only the length of a long value.
_READ_WITH_SIGNALS = (
    f"SELECT {OWNED_COLUMNS}, (SELECT count(*) FROM signals WHERE run_id = runs.id), "  # noqa: S608
    "(SELECT coalesce(sum(length(value)), 0) FROM signals WHERE run_id = runs.id) FROM runs WHERE id = ?"
)
# Leaves out the record, which may be long: giving a run back does not need it.
_READ_WITHOUT_RECORD = (
    "SELECT status, owner, token, path, started_at, parked_until, cancel_requested, left_by, unheard, deadline_at, "
    "(SELECT count(*) FROM signals WHERE run_id = runs.id) FROM runs WHERE id = ?"
)
_MOVE = (
    "UPDATE runs SET status = ?, owner = ?, token = ?, path = ?, started_at = ?, parked_until = ?, "
    "cancel_requested = ?, left_by = ?, unheard = ? WHERE id = ?"
)
# `ownership.unpark`, for every run.
_UNPARK = "UPDATE runs SET status = 'queued', parked_until = NULL WHERE parked_until <= ?"
_SUSPICION = "deaths, deaths_alone, deaths_silent, company"


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
        said = None if owner.about is None else ENCODE(owner.about)
        statement = (
            "INSERT INTO owners VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, "
            "port = excluded.port, ready = excluded.ready, expires_at = excluded.expires_at, "
            "started_at = excluded.started_at, leaving = excluded.leaving, about = coalesce(excluded.about, about)"
        )
        await self._change("register", lambda connection, _: connection.execute(statement, (*values, said)).rowcount)

    async def describe(self, owner: str, about: About) -> None:
        """Set what an owner says about itself."""
        values = (ENCODE(about), owner)
        statement = "UPDATE owners SET about = ? WHERE id = ?"
        await self._change("register", lambda connection, _: connection.execute(statement, values).rowcount)

    def renew(self, owner: str, expires_at: float) -> tuple[bool, Sequence[str]]:
        """Extend the lease on all runs of this owner; returns its runs with a request to cancel."""
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
        """Forget an owner and queue its runs."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> int:
            leaves = connection.execute("SELECT 1 FROM owners WHERE id = ? AND leaving = 1", (owner,)).fetchone()
            return _forget(connection, owner, "death" if leaves is None else "exit")

        return await self._change("retire", change, durable=True)

    async def owners(self) -> Sequence[Owner]:
        """Every known owner."""

        def query(connection: sqlite3.Connection) -> list[Owner]:
            rows = connection.execute(
                "SELECT id, kind, port, ready, expires_at, started_at, leaving, about FROM owners"
            )
            return [_owner(*row) for row in rows]

        return await self._database.read(query)

    async def claim(
        self,
        owner: str,
        limit: int,
        pipelines: Sequence[str],
        now: float,
        classes: Mapping[str, SLA] = NO_CLASSES,
    ) -> Sequence[Claim]:
        """Take up to `limit` queued runs."""

        def change(connection: sqlite3.Connection, transaction: Transaction) -> list[Claim]:
            connection.execute(_UNPARK, (now,))
            due = queue.chosen(connection, owner, limit, pipelines, classes, now)
            return _claim(connection, transaction, owner, due, now)

        # An empty queue is the common answer: look before waiting for the write lock.
        if not await self._database.read(lambda connection: queue.may_claim(connection, pipelines, now)):
            return []
        return await self._change("claim", change)

    async def claim_one(self, owner: str, run_id: str, now: float) -> Claim | None:
        """Take this run if it is queued or parked."""
        claims = await self._change(
            "claim", lambda connection, transaction: _claim(connection, transaction, owner, [run_id], now)
        )
        return claims[0] if claims else None

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Give a run back: queued, or parked."""

        def change(connection: sqlite3.Connection, transaction: Transaction) -> None:
            row = connection.execute(_READ_WITHOUT_RECORD, (lease.run_id,)).fetchone()
            if row is None or not ownership.holds(run := Ownership(*row[:-1]), lease.owner, lease.token):
                raise LeaseLost(f"{lease.run_id} cannot be released here: another process owns it now")
            if parked is None:
                moved = ownership.release(run)
            else:
                until = min(parked.until, FAR_FUTURE)
                moved = ownership.park(run, until, seen=parked.signals_seen, sent=row[-1])
            _move(connection, lease.run_id, run, moved)
            transaction.forget(lease.run_id)

        await self._change("release" if parked is None else "park", change, durable=True)

    async def send_signal(
        self, run_id: str, name: str, value: bytes, at: float, key: str | None = None
    ) -> RunRecord | None:
        """Store a signal and wake its run if that is parked."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> RunRecord | None:
            row = connection.execute(_READ_WITH_SIGNALS, (run_id,)).fetchone()
            if row is None:
                return None
            record, run, count, size = decode_record(row), ownership_in(row), row[-2], row[-1]
            known = "SELECT name, value FROM signals WHERE run_id = ? AND key = ?"
            same_key = None if key is None else connection.execute(known, (run_id, key)).fetchone()
            if same_key is not None:
                ownership.require_same(same_key, name, value)
                return record
            moved = ownership.signal(run, run_id, count, size + len(value))
            connection.execute("INSERT INTO signals VALUES (?, ?, ?, ?, ?, ?)", (run_id, count, name, value, at, key))
            _move(connection, run_id, run, moved)
            return shown(record, moved)

        return await self._change("signal", change, durable=True, asked_at=time.monotonic())

    async def queued(self) -> dict[str, int]:
        """How many runs of each tenant are queued; triggers count those of each line."""
        await self._change("", lambda _connection, _transaction: None)  # earlier operations are then committed
        return await self._database.read(lambda connection: queue.counted(connection, "tenant"))

    async def queued_by_class(self) -> dict[str, int]:
        """How many runs of each class are queued."""
        await self._change("", lambda _connection, _transaction: None)  # earlier operations are then committed
        return await self._database.read(lambda connection: queue.counted(connection, "class"))

    async def overdue(self, now: float) -> Sequence[str]:
        """Runs without an owner whose deadline has passed: `ownership.is_overdue`, for every run."""
        query = (
            "SELECT id FROM runs WHERE deadline_at <= ? AND finished_at IS NULL "
            "AND (owner IS NULL OR (owner = ? AND deadline_at <= ?)) LIMIT ?"
        )
        values = (now, ENGINE, now - ASSIGNED_GRACE_S, OVERDUE_MAX)
        rows = await self._database.read(lambda connection: connection.execute(query, values).fetchall())
        return [row[0] for row in rows]

    async def request_cancel(self, run_id: str) -> RunRecord | None:
        """Record the request on an unfinished run."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> RunRecord | None:
            row = connection.execute(_READ, (run_id,)).fetchone()
            if row is None:
                return None
            moved = ownership.cancel(run := ownership_in(row))
            _move(connection, run_id, run, moved)
            return shown(decode_record(row), moved)

        return await self._change("cancel", change, durable=True)

    async def assign_to_engine(self, run_id: str, now: float) -> Claim | None:
        """Give a run to the engine."""

        def change(connection: sqlite3.Connection, transaction: Transaction) -> Claim | None:
            row = connection.execute(_READ, (run_id,)).fetchone()
            moved = None if row is None else ownership.assign(run := ownership_in(row), now)
            if moved is None:
                return None
            _move(connection, run_id, run, moved)
            transaction.forget(run_id)  # no process alone knows the ends of its logs
            record = shown(decode_record(row), moved)
            return Claim(record, Lease(run_id, ENGINE, moved.token), fresh=run.owner != ENGINE)

        return await self._change("claim", change, durable=True)

    async def take_step(self, lease: Lease, step: str) -> Turn:
        """Begin to execute a step of an assigned run."""

        def change(_connection: sqlite3.Connection, transaction: Transaction) -> Turn:
            if not transaction.holds(lease):
                raise LeaseLost(f"the engine no longer owns {lease.run_id}; step {step} is not executed")
            turn = ownership.take_turn(transaction.turn(lease.run_id, step))
            transaction.set_turn(lease.run_id, step, turn)
            return Turn(Lease(lease.run_id, lease.owner, lease.token, step, turn.number), turn.finished)

        return await self._change("", change)

    async def pending_notices(self) -> Sequence[str]:
        """Assigned runs whose engine has a notice pending."""
        query = "SELECT id FROM runs WHERE unheard > 0 AND status IN ('queued', 'running') LIMIT ?"
        rows = await self._database.read(lambda connection: connection.execute(query, (UNHEARD_MAX,)).fetchall())
        return [row[0] for row in rows]

    async def acknowledge_notice(self, run_id: str) -> None:
        """The engine has received one notice: `ownership.acknowledge`."""
        statement = "UPDATE runs SET unheard = unheard - 1 WHERE id = ? AND unheard > 0"
        await self._change("", lambda connection, _: connection.execute(statement, (run_id,)).rowcount)

    def leave(self) -> None:
        """Close the connection of the lease thread."""
        with self._own_lock:
            self._own.close()


def _forget(connection: sqlite3.Connection, owner: str, left_by: LeftBy, *, blames: bool = True) -> int:
    connection.execute("DELETE FROM owners WHERE id = ?", (owner,))
    if blames and left_by != "exit":
        rows = connection.execute(f"SELECT id, {_SUSPICION} FROM runs WHERE owner = ?", (owner,)).fetchall()  # noqa: S608
        known = after_death([Suspicion(*row[1:]) for row in rows], silent=left_by == "silence")
        connection.executemany(
            "UPDATE runs SET deaths = ?, deaths_alone = ?, deaths_silent = ?, company = ? WHERE id = ?",
            [(*suspicion, row[0]) for suspicion, row in zip(known, rows, strict=True)],
        )
    # `ownership.release`, for every run of the owner.
    statement = "UPDATE runs SET status = 'queued', owner = NULL, left_by = ? WHERE owner = ?"
    return connection.execute(statement, (left_by, owner)).rowcount


def _move(connection: sqlite3.Connection, run_id: str, run: Ownership, moved: Ownership) -> None:
    """Write the answer of a rule, unless it left the run unchanged."""
    if moved != run:
        connection.execute(_MOVE, (*moved[:-1], run_id))


def _claim(
    connection: sqlite3.Connection, transaction: Transaction, owner: str, ids: Sequence[str], now: float
) -> list[Claim]:
    """Give runs to an owner, as far as they are free; one read serves the decisions and the claims of all."""
    asked = msgspec.json.encode(ids).decode()
    rows = {row[0]: row for row in connection.execute(_READ_WITH_TAILS, (asked,)).fetchall()}
    moves: list[tuple[Any, ...]] = []
    claims: list[Claim] = []
    for row in [rows[run_id] for run_id in ids if run_id in rows]:
        run = ownership_in(row)
        moved = ownership.claim(run, owner, now)
        if moved is not None:
            record = shown(decode_record(row), moved)
            transaction.hold(record.id, Tail(moved.token, row[-2], row[-1], announced(record)))
            moves.append((*moved[:-1], record.id))
            claims.append(Claim(record, Lease(record.id, owner, moved.token), ownership.is_fresh(run)))
    connection.executemany(_MOVE, moves)
    return claims


def _owner(name: str, kind: str, port: int, ready: int, *rest: Any) -> Owner:
    expires_at, started_at, leaving, said = rest
    about = None if said is None else _decode_about(said)
    return Owner(name, kind, port, bool(ready), expires_at, started_at, bool(leaving), about)
