"""One transaction: turns a list of operations, in order, into few statements.

Each statement inserts many rows: it releases the interpreter lock, and regaining that from a busy run loop costs far
more than a row. A refused statement rolls back the whole transaction (OR ROLLBACK): otherwise SQLite would copy every
page beforehand, to roll back that statement alone.
"""

from __future__ import annotations

import functools
import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from offramp.core import ownership
from offramp.core.events import TERMINAL, frame
from offramp.core.journal import Entry
from offramp.core.ownership import ENGINE, NOT_BEGUN, StepTurn
from offramp.core.run import RunRecord
from offramp.core.waits import Change, change_in
from offramp.core.webhooks import target_of
from offramp.errors import IdempotencyMismatch, LeaseLost, RunConflict
from offramp.ports.commit import Commit
from offramp.ports.store import Batch, Created, Lease
from offramp.stores.sqlite import waits
from offramp.stores.sqlite.operations import Append, Create, Finish, Sync
from offramp.stores.sqlite.rows import (
    ENCODE,
    RECORD_COLUMNS,
    TAIL_COLUMNS,
    decode_record,
    encode_record,
    searched,
    with_retry,
)

CHUNK_BYTES_MAX = 64 * 1024
"""Events of one commit share a row up to about this size."""

_ROWS_PER_STATEMENT = (128, 64, 32, 16, 8, 4, 2, 1)
"""Powers of two: any number of rows takes few statements, and each stays prepared."""
_INSERT_RUNS = (
    "INSERT OR ROLLBACK INTO runs (id, tenant, pipeline, session_id, status, path, priority, owner, token, started_at, "
    "retention, deadline_at, record, class, searched, api_key) VALUES {rows}"
)
# `ownership.finish`, for every run of a batch: `_tail` has checked the lease.
_FINISH_RUNS = (
    "UPDATE OR ROLLBACK runs SET status = v.column2, finished_at = v.column3, result = v.column4, error = v.column5, "
    "owner = NULL, waits = 0, purge_at = v.column3 + retention FROM (VALUES {rows}) AS v WHERE runs.id = v.column1"
)
# An entry that is claimed, or waits for its next attempt, keeps its time.
_ANNOUNCE = (
    "UPDATE webhooks SET latest = v.column2, due_at = coalesce(due_at, 0) FROM (VALUES {rows}) AS v "
    "WHERE run_id = v.column1"
)


class Tail(msgspec.Struct):
    """The next position in a run's journal, the next number of its events, and the events its webhook announces."""

    token: int
    position: int = 0
    seq: int = 1
    announced: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Call:
    """Statements that run between the other operations, in order; they may hold and forget runs in the transaction.

    `point` names their write, see `crash_points`. A request that must not be written late has `asked_at`, its time on
    the monotonic clock.
    """

    function: Callable[[sqlite3.Connection, Transaction], Any]
    durable: bool
    commit: Commit[Any]
    point: str = ""
    asked_at: float = math.inf


Operation = Create | Append | Finish | Sync | Call


class Transaction:
    """Builds and executes one batch; the caller begins and commits.

    Args:
        connection: inside BEGIN IMMEDIATE.
        tails: ends of the runs that this process writes; changed only by `accept` after the commit.
    """

    def __init__(self, connection: sqlite3.Connection, tails: dict[str, Tail]) -> None:
        self._connection = connection
        self._known = tails
        self._tails: dict[str, Tail] = {}
        self._gone: set[str] = set()
        self._shared: dict[str, Tail | None] = {}
        self._turns: dict[tuple[str, str], StepTurn] = {}
        self._turned: set[tuple[str, str]] = set()
        self._repeated: set[str] = set()
        self._runs: list[Any] = []
        self._entries: list[Any] = []
        self._frames: dict[str, Batch] = {}
        self._finished: list[Any] = []
        self._waits: list[tuple[str, Change]] = []
        self._webhooks: list[Any] = []
        self._due: dict[str, int] = {}
        self.has_announced = False
        self.published: dict[str, Batch] = {}
        self.resolved: list[tuple[Any, Any, BaseException | None]] = []
        self.lost: set[Lease] = set()

    def apply(self, operations: Sequence[Operation]) -> None:
        """Execute everything."""
        self._verify(operations)
        self._find_repeated(operations)
        for operation in operations:
            if isinstance(operation, Append):
                self._append(operation)
            elif isinstance(operation, Create):
                self._create(operation)
            elif isinstance(operation, Finish):
                self._finish(operation)
            elif isinstance(operation, Sync):
                held = operation.lease is None or self.holds(operation.lease)
                self.resolved.append((operation.commit, None, None if held else _lost(operation.lease)))
            else:
                self._call(operation)
        self._flush()

    def accept(self) -> None:
        """After the commit: take over the new ends."""
        self._known.update(self._tails)
        for run_id in self._gone:
            self._known.pop(run_id, None)

    def hold(self, run_id: str, tail: Tail) -> None:
        """Note that this process owns the run from now on."""
        self._tails[run_id] = tail
        self._gone.discard(run_id)

    def forget(self, run_id: str) -> None:
        """Note that this process gives up the run."""
        self._gone.add(run_id)

    def _verify(self, operations: Sequence[Operation]) -> None:
        """Forget the runs whose leases this process has lost (J3).

        One query for the whole batch: `ownership.holds`, for every run that this process writes.
        """
        leases = [op.lease for op in operations if not isinstance(op, (Create, Call))]
        wanted = {lease.run_id for lease in leases if lease is not None and lease.owner != ENGINE}
        held = [value for run_id in wanted if run_id in self._known for value in (run_id, self._known[run_id].token)]
        # Selects only runs that changed hands, usually none: each fetched row releases the interpreter lock.
        changed = (
            "SELECT v.column1 FROM (VALUES {rows}) AS v LEFT JOIN runs ON runs.id = v.column1 "
            "WHERE runs.owner IS NULL OR runs.token <> v.column2"
        )
        self._gone.update(run_id for (run_id,) in execute(self._connection, changed, 2, held))

    def _find_repeated(self, operations: Sequence[Operation]) -> None:
        """Look up starts that an engine may repeat; a fresh id of the fast path cannot exist yet."""
        ids = [op.record.id for op in operations if isinstance(op, Create) and op.durable]
        there = "SELECT runs.id FROM (VALUES {rows}) AS v JOIN runs ON runs.id = v.column1"
        self._repeated = {run_id for (run_id,) in execute(self._connection, there, 1, ids)}

    def holds(self, lease: Lease) -> bool:
        """Whether the lease is current, and no other process has taken over its step."""
        if self._tail(lease) is None:
            return False
        held = not lease.step or ownership.has_turn(self.turn(lease.run_id, lease.step), lease.turn)
        if not held:
            self.lost.add(lease)
        return held

    # Assigned runs: many processes write them, so each transaction reads the ends of their logs.

    def turn(self, run_id: str, step: str) -> StepTurn:
        """The newest turn at a step."""
        known = self._turns.get((run_id, step))
        if known is None:
            query = "SELECT turn, finished FROM turns WHERE run_id = ? AND step = ?"
            row = self._connection.execute(query, (run_id, step)).fetchone()
            known = self._turns[run_id, step] = NOT_BEGUN if row is None else StepTurn(row[0], bool(row[1]))
        return known

    def set_turn(self, run_id: str, step: str, turn: StepTurn) -> None:
        """Allow only this turn, or a later one, to write for a step from now on."""
        self._turns[run_id, step] = turn
        self._turned.add((run_id, step))

    def _shared_tail(self, lease: Lease) -> Tail | None:
        if lease.run_id not in self._shared:
            row = self._connection.execute(
                f"SELECT {RECORD_COLUMNS}, {TAIL_COLUMNS} FROM runs WHERE id = ? AND owner = ?",  # noqa: S608
                (lease.run_id, ENGINE),
            ).fetchone()
            tail = None if row is None else Tail(row[10], row[-2], row[-1], announced(decode_record(row)))
            self._shared[lease.run_id] = tail
        return self._shared[lease.run_id]

    def _tail(self, lease: Lease) -> Tail | None:
        """The end of a run's logs if the lease is current: `ownership.holds`, which `_verify` has checked."""
        if lease.owner == ENGINE:
            shared = self._shared_tail(lease)
            if shared is None or shared.token != lease.token:
                self.lost.add(lease)
                return None
            return shared
        tail = self._tails.get(lease.run_id)
        if tail is None and lease.run_id not in self._gone:
            known = self._known.get(lease.run_id)
            if known is not None:
                # A copy, so that a failing transaction changes nothing.
                tail = self._tails[lease.run_id] = msgspec.structs.replace(known)
        if tail is None or tail.token != lease.token or lease.run_id in self._gone:
            self.lost.add(lease)
            return None
        return tail

    def _append(self, operation: Append) -> None:
        lease = operation.lease
        tail = self._tail(lease)
        if tail is None:
            return
        run_id = lease.run_id
        if lease.step:
            if not ownership.may_append(self.turn(run_id, lease.step), lease.turn):
                self.lost.add(lease)
                return
            if operation.entry is not None:
                self.set_turn(run_id, lease.step, StepTurn(lease.turn, finished=True))
        if operation.entry is not None:
            self._record(run_id, tail, operation.entry)
        if operation.event is not None:
            self._frame(run_id, tail, operation.event)

    def _record(self, run_id: str, tail: Tail, entry: Entry) -> None:
        self._entries += (run_id, tail.position, ENCODE(entry))
        tail.position += 1

    def _frame(self, run_id: str, tail: Tail, event: Any) -> None:
        batch = self._frames.get(run_id)
        if batch is None:
            batch = self._frames[run_id] = Batch(run_id, tail.seq, [])
        batch.frames.append(frame(event, run_id, tail.seq))
        if event.type in tail.announced:
            self._due[run_id] = tail.seq
        if (change := change_in(event)) is not None:
            self._waits.append((run_id, change))
        tail.seq += 1

    def _create(self, operation: Create) -> None:
        record, key = operation.record, operation.idempotency
        if key is not None:
            existing = self._connection.execute(
                "SELECT fingerprint, run_id FROM idempotency WHERE tenant = ? AND key = ? AND expires_at > ?",
                (record.tenant, key.key, record.created_at),
            ).fetchone()
            if existing is not None:
                same = existing[0] == key.fingerprint
                error = (
                    None
                    if same
                    else IdempotencyMismatch(
                        "this Idempotency-Key was used with another request; use a new key for a new request"
                    )
                )
                self.resolved.append((operation.commit, Created(existing[1]) if same else None, error))
                return
            self._connection.execute(
                "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)",
                (record.tenant, key.key, key.fingerprint, record.id, key.expires_at),
            )
        if record.id in self._known or record.id in self._tails or record.id in self._repeated:
            self.resolved.append((operation.commit, Created(record.id), None))
            return
        self._runs += _run_row(record, operation.owner)
        if record.webhook is not None:
            self._webhooks += (record.id, target_of(record.webhook.url).host)
        tail = self._tails[record.id] = Tail(1, announced=announced(record))
        for entry in operation.entries:
            self._record(record.id, tail, entry)
        for number, (name, value) in enumerate(operation.signals):
            row = record.id, number, name, value, record.created_at, None
            self._connection.execute("INSERT INTO signals VALUES (?, ?, ?, ?, ?, ?)", row)
        if record.retry_of is not None:
            self._retried(record.retry_of, record.id)
        self._frame(record.id, tail, operation.event)
        if operation.owner is None:
            self._gone.add(record.id)
        self.resolved.append((operation.commit, Created(None), None))

    def _retried(self, run_id: str, by: str) -> None:
        row = self._connection.execute("SELECT record FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is not None:
            self._connection.execute("UPDATE runs SET record = ? WHERE id = ?", (with_retry(row[0], by), run_id))

    def _finish(self, operation: Finish) -> None:
        tail = self._tail(operation.lease)
        if tail is None:
            self.resolved.append((operation.commit, None, _lost(operation.lease)))
            return
        run_id, outcome = operation.lease.run_id, operation.outcome
        self._frame(run_id, tail, operation.event)
        error = None if outcome.error is None else ENCODE(outcome.error)
        self._finished += (run_id, outcome.status, operation.at, outcome.result, error)
        self._gone.add(run_id)
        self._shared[run_id] = None
        self.resolved.append((operation.commit, None, None))

    def _call(self, operation: Call) -> None:
        self._flush()
        self._shared, self._turns = {}, {}  # the call may change either
        # A savepoint: refused statements are rolled back alone, without the batch.
        self._connection.execute("SAVEPOINT call")
        try:
            value = operation.function(self._connection, self)
        except (LeaseLost, RunConflict, IdempotencyMismatch) as error:
            self._connection.execute("ROLLBACK TO call")
            self.resolved.append((operation.commit, None, error))
        else:
            self.resolved.append((operation.commit, value, None))
        self._connection.execute("RELEASE call")
        self._flush_turns()
        self._shared = {}

    def _flush(self) -> None:
        """Write the rows collected so far."""
        execute(self._connection, _INSERT_RUNS, 16, self._runs)
        execute(self._connection, "INSERT OR ROLLBACK INTO journal VALUES {rows}", 3, self._entries)
        chunks: list[Any] = []
        for batch in self._frames.values():
            _chunk(batch, chunks)
            before = self.published.get(batch.run_id)
            if before is None:
                self.published[batch.run_id] = batch
            else:
                before.frames.extend(batch.frames)
        execute(self._connection, "INSERT OR ROLLBACK INTO events VALUES {rows}", 5, chunks)
        if self._waits:
            waits.write(self._connection, self._waits)
        execute(self._connection, _FINISH_RUNS, 5, self._finished)
        self._flush_webhooks()
        self._flush_turns()
        self._runs, self._entries, self._frames, self._finished, self._waits = [], [], {}, [], []

    def _flush_turns(self) -> None:
        rows = [value for run, step in self._turned for value in (run, step, *self._turns[run, step])]
        execute(self._connection, "INSERT OR REPLACE INTO turns VALUES {rows}", 4, rows)
        self._turned = set()

    def _flush_webhooks(self) -> None:
        execute(self._connection, "INSERT OR ROLLBACK INTO webhooks (run_id, host) VALUES {rows}", 2, self._webhooks)
        if self._due:
            execute(self._connection, _ANNOUNCE, 2, [value for item in self._due.items() for value in item])
            self.has_announced = True
        self._webhooks, self._due = [], {}


def announced(record: RunRecord) -> frozenset[str]:
    """The events that make a run's webhook due: the requested ones, and the terminal one, which ends it."""
    return frozenset() if record.webhook is None else TERMINAL | set(record.webhook.events)


def _run_row(record: RunRecord, owner: str | None) -> tuple[Any, ...]:
    return (
        record.id,
        record.tenant,
        record.pipeline,
        record.session_id,
        record.status,
        record.path,
        record.priority,
        owner,
        1,
        record.started_at,
        record.retention_s,
        record.deadline_at,
        encode_record(record),
        record.sla,
        searched(record.metadata),
        record.api_key,
    )


def _lost(lease: Lease | None) -> LeaseLost:
    return LeaseLost(f"{lease.run_id if lease else 'the run'} is owned by another process now; nothing was written")


def _chunk(batch: Batch, rows: list[Any]) -> None:
    """Rows of events: neighbours share a row up to a size; deltas have their own rows, so that reads can skip them."""
    seq = first = batch.first
    part: list[bytes] = []
    size = 0
    was_delta = False
    for data in batch.frames:
        is_delta = data.startswith(b'{"type":"step.delta"')
        if part and (is_delta != was_delta or size > CHUNK_BYTES_MAX):
            rows += (batch.run_id, first, seq - 1, int(was_delta), b"\n".join(part))
            part, size, first = [], 0, seq
        part.append(data)
        size += len(data)
        was_delta = is_delta
        seq += 1
    rows += (batch.run_id, first, seq - 1, int(was_delta), b"\n".join(part))


def execute(connection: sqlite3.Connection, statement: str, width: int, values: list[Any]) -> list[Any]:
    """Execute for flat values, `width` to a row of `{rows}`, in a few prepared statements; returns their rows."""
    found: list[Any] = []
    at = 0
    for rows in _ROWS_PER_STATEMENT:
        step = rows * width
        while len(values) - at >= step:
            found += connection.execute(_sized(statement, width, rows), values[at : at + step]).fetchall()
            at += step
    return found


@functools.cache
def _sized(statement: str, width: int, rows: int) -> str:
    return statement.format(rows=",".join(["(" + ",".join("?" * width) + ")"] * rows))
