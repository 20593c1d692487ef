"""The store port on SQLite: writes become operations of the writer thread, reads go to the reading threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import msgspec

from offramp.core.events import Draft, Frame, first_bytes
from offramp.core.journal import Entry
from offramp.core.run import Demotion, Outcome, RunHead, RunRecord
from offramp.core.stats import Cell
from offramp.errors import LeaseLost
from offramp.ports.commit import Commit
from offramp.ports.learning import BeliefCell, EndedTurn, Learned, SessionTurns
from offramp.ports.listing import Page, RunFilter
from offramp.ports.store import EVENTS_READ_BYTES, Created, Idempotency, KeyRuns, Lease, Listener
from offramp.stores.sqlite import figures, learned
from offramp.stores.sqlite.batch import Call, Transaction, execute
from offramp.stores.sqlite.database import Database
from offramp.stores.sqlite.listing import page
from offramp.stores.sqlite.operations import Append, Create, Finish, Sync
from offramp.stores.sqlite.purge import Purge
from offramp.stores.sqlite.rows import ENCODE, RECORD_COLUMNS, decode_record
from offramp.stores.sqlite.secret import shared_secret
from offramp.stores.sqlite.waits import count as count_waiting
from offramp.stores.sqlite.writer import Writer

_decode_entry = msgspec.msgpack.Decoder(Entry).decode


class SQLiteRunLog:
    """Writes of one run; see the port."""

    __slots__ = ("_put", "lease")

    def __init__(self, put: Callable[..., None], lease: Lease) -> None:
        self._put = put
        self.lease = lease

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Write behind."""
        size = len(event.body) if event is not None and event.type == "step.delta" else 0
        self._put(Append(self.lease, entry, event, durable, size))

    def durable(self) -> Commit[None]:
        """Resolves when everything appended so far is on disk."""
        commit: Commit[None] = Commit()
        self._put(Sync(self.lease, commit))
        return commit

    def survived(self) -> None:
        """Forget the run's deaths, in order with the appends."""
        lease = self.lease

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> None:
            forgotten = (  # if `ownership.holds`
                "UPDATE runs SET deaths = 0, deaths_alone = 0, deaths_silent = 0, company = 0 "
                "WHERE id = ? AND owner = ? AND token = ?"
            )
            connection.execute(forgotten, (lease.run_id, lease.owner, lease.token))

        self._put(Call(change, durable=False, commit=Commit(), point="survive"))

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """Write the outcome and the terminal event."""
        commit: Commit[None] = Commit()
        self._put(Finish(self.lease, outcome, event, at, commit))
        return commit


class SQLiteStore:
    """Runs, journals and events in a `Database`.

    Args:
        database: the file.
        writer: the thread that writes it, shared with the leases.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self.database = database
        self.writer = writer
        self.purging = Purge(database, writer)

    def create(
        self,
        record: RunRecord,
        event: Draft,
        *,
        owner: str | None,
        durable: bool,
        idempotency: Idempotency | None = None,
        entries: Sequence[Entry] = (),
        signals: Sequence[tuple[str, bytes]] = (),
    ) -> tuple[Commit[Created], SQLiteRunLog | None]:
        """Create a run with its first event."""
        commit: Commit[Created] = Commit()
        self.writer.put(Create(record, event, owner, durable, idempotency, entries, signals, commit))
        return commit, None if owner is None else self.log(Lease(record.id, owner, 1))

    def log(self, lease: Lease) -> SQLiteRunLog:
        """The log of a run that this process holds."""
        return SQLiteRunLog(self.writer.put, lease)

    def adopt(self, lease: Lease, demotion: Demotion) -> Commit[None]:
        """Move a leased run to the deep path."""

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> None:
            changed = connection.execute(  # if `ownership.holds`
                "UPDATE runs SET path = 'deep', demotion = ? WHERE id = ? AND owner = ? AND token = ?",
                (ENCODE(demotion), lease.run_id, lease.owner, lease.token),
            )
            if changed.rowcount == 0:
                raise LeaseLost(f"{lease.run_id} cannot be demoted here: another process owns it now")

        commit: Commit[None] = Commit()
        self.writer.put(Call(change, durable=True, commit=commit, point="adopt"))
        return commit

    async def get(self, run_id: str, tenant: str | None = None) -> RunRecord | None:
        """The record with its result."""

        def query(connection: sqlite3.Connection) -> RunRecord | None:
            # The tenant is part of the search: another tenant's run takes no longer than an unknown one.
            statement = f"SELECT {RECORD_COLUMNS} FROM runs WHERE id = :id AND tenant = coalesce(:tenant, tenant)"  # noqa: S608
            row = connection.execute(statement, {"id": run_id, "tenant": tenant}).fetchone()
            return None if row is None else decode_record(row)

        return await self.database.read(query)

    async def open_runs(self) -> dict[str, int]:
        """Queued, owned and parked runs by tenant, from partial indexes: the length of the history does not matter."""
        await self._written()

        def query(connection: sqlite3.Connection) -> dict[str, int]:
            rows = connection.execute(
                "SELECT tenant, count(*) FROM ("
                "SELECT tenant FROM runs INDEXED BY runs_queued WHERE status = 'queued' UNION ALL "
                "SELECT tenant FROM runs INDEXED BY runs_owned WHERE owner IS NOT NULL AND status = 'running' "
                "UNION ALL SELECT tenant FROM runs INDEXED BY runs_parked WHERE parked_until IS NOT NULL"
                ") GROUP BY tenant"
            )
            return dict(rows.fetchall())

        return await self.database.read(query)

    async def runs_of_key(self, key: str, after: str, limit: int) -> KeyRuns:
        """The open and the newest runs of an API key, from partial indexes."""
        await self._written()

        def query(connection: sqlite3.Connection) -> KeyRuns:
            counted = (
                "SELECT count(*) FROM runs INDEXED BY runs_open_of_key WHERE api_key = ? AND api_key IS NOT NULL "
                "AND finished_at IS NULL"
            )
            newest = (
                "SELECT id FROM runs INDEXED BY runs_of_key WHERE api_key = ? AND api_key IS NOT NULL AND id > ? "
                "ORDER BY id DESC LIMIT ?"
            )
            [count] = connection.execute(counted, (key,)).fetchone()
            ids = [row[0] for row in connection.execute(newest, (key, after, limit))]
            return KeyRuns(count, ids[::-1])

        return await self.database.read(query)

    async def _written(self) -> None:
        """A turn of the writer: when it ends, earlier operations are committed."""
        turn: Commit[None] = Commit()
        self.writer.put(Call(lambda _connection, _transaction: None, durable=False, commit=turn))
        await turn

    async def holder(self, tenant: str, key: str, now: float) -> str | None:
        """The run that holds an idempotency key."""

        def query(connection: sqlite3.Connection) -> str | None:
            statement = "SELECT run_id FROM idempotency WHERE tenant = ? AND key = ? AND expires_at > ?"
            row = connection.execute(statement, (tenant, key, now)).fetchone()
            return None if row is None else str(row[0])

        return await self.database.read(query)

    async def runs(self, wanted: RunFilter) -> Page:
        """A page of records, newest first, without results above `RESULT_INLINE_BYTES_MAX`."""
        return await self.database.read(lambda connection: page(connection, wanted))

    async def journal(self, run_id: str) -> list[Entry]:
        """The finished steps, in order."""

        def query(connection: sqlite3.Connection) -> list[Entry]:
            rows = connection.execute("SELECT entry FROM journal WHERE run_id = ? ORDER BY position", (run_id,))
            return [_decode_entry(row[0]) for row in rows]

        return await self.database.read(query)

    async def events(self, run_id: str, after: int, *, skip_deltas: bool = False) -> list[Frame]:
        """Events numbered above `after`."""

        def query(connection: sqlite3.Connection) -> list[Frame]:
            # The inner select makes this a seek: without it, a reader at the end would scan the log from its start.
            rows = connection.execute(
                "SELECT first, data FROM events WHERE run_id = :run AND last > :after AND deltas <= :deltas "
                "AND first >= coalesce((SELECT max(first) FROM events WHERE run_id = :run AND first <= :after), 0) "
                "ORDER BY first",
                {"run": run_id, "after": after, "deltas": 0 if skip_deltas else 1},
            )
            frames = (
                Frame(first + place, data)
                for first, chunk in rows
                for place, data in islice(enumerate(chunk.split(b"\n")), max(0, after + 1 - first), None)
            )
            return first_bytes(frames, EVENTS_READ_BYTES)

        return await self.database.read(query)

    async def ahead(self, positions: Mapping[str, int]) -> list[str]:
        """The runs with more events than their readers have, and those that ended or are unknown: two seeks each."""
        statement = (
            "SELECT v.column1 FROM (VALUES {rows}) AS v LEFT JOIN runs ON runs.id = v.column1 "
            "WHERE runs.id IS NULL OR runs.finished_at IS NOT NULL OR v.column2 < "
            "(SELECT last FROM events WHERE run_id = v.column1 ORDER BY first DESC LIMIT 1)"
        )
        values = [value for position in positions.items() for value in position]
        return await self.database.read(
            lambda connection: [run_id for (run_id,) in execute(connection, statement, 2, values)]
        )

    async def signals(self, run_id: str) -> list[tuple[str, bytes]]:
        """The signals sent to a run, in order."""

        def query(connection: sqlite3.Connection) -> list[tuple[str, bytes]]:
            rows = connection.execute("SELECT name, value FROM signals WHERE run_id = ? ORDER BY number", (run_id,))
            return [(name, value) for name, value in rows]

        return await self.database.read(query)

    async def due(self, now: float) -> list[str]:
        """Runs past their retention, a bounded number."""
        return await self.purging.due(now)

    async def purge(self, now: float, only: Sequence[str] | None = None) -> int:
        """Empty runs past their retention, a bounded number at a time."""
        return await self.purging.purge(now, only)

    async def sweep(self, now: float) -> int:
        """Remove leftovers, a bounded amount at a time."""
        return await self.purging.sweep(now)

    async def take_duty(self, duty: str, owner: str, now: float, until: float) -> bool:
        """Take or renew a duty, which one process performs for all."""
        statement = (
            "INSERT INTO duties VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET owner = ?2, until = ?3 "
            "WHERE owner = ?2 OR until <= ?4"
        )
        commit: Commit[bool] = Commit()

        def change(connection: sqlite3.Connection, _transaction: Transaction) -> bool:
            return connection.execute(statement, (duty, owner, until, now)).rowcount == 1

        self.writer.put(Call(change, durable=False, commit=commit, point="purge"))
        return await commit

    async def secret(self, offered: bytes) -> bytes:
        """The secret of all processes of this folder, in a file of its own: no copy of the database contains it."""
        return await self.database.read(lambda _connection: shared_secret(self.database.path.parent, offered))

    async def add_cells(self, cells: Sequence[Cell]) -> None:
        """Add to the counts of cells."""
        await self._write(lambda connection: figures.add_cells(connection, cells))

    async def summed_cells(
        self, width: int, first: int, last: int, tenant: str = ""
    ) -> dict[tuple[str, str], dict[str, int]]:
        """The sums of a tenant's cells."""
        asked = (width, first, last, tenant)
        return await self.database.read(lambda connection: figures.summed_cells(connection, *asked))

    async def learn(self, cells: Sequence[BeliefCell], turns: Sequence[EndedTurn]) -> None:
        """Add to what is learned."""
        await self._write(lambda connection: learned.learn(connection, cells, turns))

    async def learned(self, after: int, limit: int) -> Learned:
        """What has been learned since."""
        return await self.database.read(lambda connection: learned.learned(connection, after, limit))

    async def forget(self, pipeline: str, sla: str, blocks: Sequence[int]) -> None:
        """Remove blocks of cells."""
        await self._write(lambda connection: learned.forget(connection, pipeline, sla, blocks))

    async def turns_of(self, session: str) -> SessionTurns | None:
        """What is known of a session."""
        return await self.database.read(lambda connection: learned.turns_of(connection, session))

    async def _write(self, change: Callable[[sqlite3.Connection], None]) -> None:
        """Make a change that no run waits for; returns when it is visible."""
        commit: Commit[None] = Commit()
        self.writer.put(Call(lambda connection, _: change(connection), durable=False, commit=commit))
        await commit

    async def unfinished(self, limit: int) -> list[RunHead]:
        """Runs that have not ended."""
        return await self.database.read(lambda connection: figures.unfinished(connection, limit))

    async def ids_after(self, run_id: str, limit: int) -> list[str]:
        """The ids of runs above a text."""
        return await self.database.read(lambda connection: figures.ids_after(connection, run_id, limit))

    async def heads(self, ids: Sequence[str]) -> list[RunHead]:
        """The heads of these runs."""
        return await self.database.read(lambda connection: figures.heads(connection, ids))

    async def waiting(self) -> dict[tuple[str, str], int]:
        """How many runs wait, by pipeline and kind of wait."""
        return await self.database.read(count_waiting)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every batch that this process makes visible."""
        self.writer.listeners.append(listener)

    def trouble(self) -> str | None:
        """Why the database cannot be written, now or a moment ago."""
        return self.writer.trouble()

    def on_lost(self, callback: Callable[[Lease], object]) -> None:
        """Call back when a write is refused because its lease is lost."""
        self.writer.on_lost = callback

    async def close(self) -> None:
        """Write all pending operations, then close the connections."""
        self.writer.close()
        self.database.close()
