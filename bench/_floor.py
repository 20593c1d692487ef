"""The floor: the rows that Offramp writes for a run, written only by a group-committing thread.

The rows come from a run that Offramp executed, so both write the same bytes into the same tables. Everything else is
missing: pipelines, journals, leases, events to readers.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

from bench import _offramp
from bench._load import STEPS_PER_RUN, OneRun
from offramp.core.run import RUN_ID_LENGTH
from offramp.stores.sqlite import Database

BATCH_MAX = 5_000
ROWS_PER_STATEMENT = (64, 8, 1)
"""Statements release the interpreter lock, so few large ones are the fastest from Python."""

FINISH = (
    "UPDATE OR ROLLBACK runs SET status = 'completed', finished_at = v.column2, result = v.column3, owner = NULL, "
    "purge_at = v.column2 + retention FROM (VALUES {rows}) AS v WHERE runs.id = v.column1"
)


class Template(NamedTuple):
    """One executed run as rows: the run at creation, its entries and events, and its end."""

    id: bytes
    columns: list[str]
    created: list[Any]
    entries: list[bytes]
    frames: list[bytes]
    finished_at: float
    result: bytes


class Part(NamedTuple):
    """One write for a run; with a future, it is durable before the future resolves."""

    run_id: str
    created: list[Any] | None
    entries: list[tuple[int, bytes]]
    frames: list[tuple[int, bytes]]
    finished: tuple[float, bytes] | None
    future: asyncio.Future[None] | None


async def template() -> Template:
    """Execute a run with Offramp and read back what it wrote."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        async with _offramp.app.local(data=str(folder)) as runtime:
            await _offramp.run_to_result(runtime)
        with closing(sqlite3.connect(Database(folder).path)) as connection:
            rows = connection.execute("SELECT * FROM runs")
            columns = [item[0] for item in rows.description]
            row = dict(zip(columns, rows.fetchone(), strict=True))
            entries = [entry for (entry,) in connection.execute("SELECT entry FROM journal ORDER BY position")]
            chunks = connection.execute("SELECT data FROM events ORDER BY first").fetchall()
    created = row | {"status": "running", "owner": "bench", "finished_at": None, "purge_at": None, "result": None}
    frames = [frame for (chunk,) in chunks for frame in chunk.split(b"\n")]
    expected = (STEPS_PER_RUN, 2 + 2 * STEPS_PER_RUN)  # accepted, started and completed per step, completed
    if (len(entries), len(frames)) != expected:
        raise AssertionError(f"a run has {len(entries)} entries and {len(frames)} events, expected {expected}")
    return Template(
        row["id"].encode(), columns, list(created.values()), entries, frames, row["finished_at"], row["result"]
    )


class GroupCommit:
    """The writer thread: takes the queued writes, commits them in one transaction, resolves their futures."""

    def __init__(self, database: Database, columns: list[str]) -> None:
        self._connection = database.connect()
        self._run_insert = f"INSERT OR ROLLBACK INTO runs ({', '.join(columns)}) VALUES "
        self._parts: deque[Part] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._is_full = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, part: Part) -> None:
        with self._changed:
            self._parts.append(part)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._parts:
                    if self._closing:
                        self._connection.close()
                        return
                    self._changed.wait()
                parts = [self._parts.popleft() for _ in range(min(len(self._parts), BATCH_MAX))]
            self._write(parts)
            _wake([part.future for part in parts if part.future is not None])

    def _write(self, parts: list[Part]) -> None:
        full = any(part.future is not None for part in parts)
        if full is not self._is_full:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._is_full = full
        runs: list[list[Any]] = []
        entries: list[list[Any]] = []
        frames: dict[str, list[tuple[int, bytes]]] = {}
        finished: list[list[Any]] = []
        for part in parts:
            if part.created is not None:
                runs.append(part.created)
            entries.extend([part.run_id, position, entry] for position, entry in part.entries)
            frames.setdefault(part.run_id, []).extend(part.frames)
            if part.finished is not None:
                finished.append([part.run_id, *part.finished])
        chunks = [
            [run_id, group[0][0], group[-1][0], 0, b"\n".join([frame for _, frame in group])]
            for run_id, group in frames.items()
        ]
        self._connection.execute("BEGIN IMMEDIATE")
        self._insert(self._run_insert + "{rows}", runs)
        self._insert("INSERT OR ROLLBACK INTO journal VALUES {rows}", entries)
        self._insert("INSERT OR ROLLBACK INTO events VALUES {rows}", chunks)
        self._insert(FINISH, finished)
        self._connection.execute("COMMIT")

    def _insert(self, statement: str, rows: list[list[Any]]) -> None:
        at = 0
        for count in ROWS_PER_STATEMENT:
            while len(rows) - at >= count:
                part = rows[at : at + count]
                marks = ",".join(["(" + ",".join("?" * len(part[0])) + ")"] * count)
                self._connection.execute(statement.format(rows=marks), list(itertools.chain.from_iterable(part)))
                at += count


def _wake(futures: list[asyncio.Future[None]]) -> None:
    def set_all() -> None:
        for future in futures:
            future.set_result(None)

    if futures:
        futures[0].get_loop().call_soon_threadsafe(set_all)


def parts_of(run: Template, run_id: str, accepted: asyncio.Future[None], ended: asyncio.Future[None]) -> list[Part]:
    """The life of a run: created, five steps, finished."""
    frames = list(enumerate((frame.replace(run.id, run_id.encode()) for frame in run.frames), start=1))
    parts = [Part(run_id, [run_id, *run.created[1:]], [], frames[:1], None, accepted)]
    for position, entry in enumerate(run.entries):
        at = 1 + 2 * position
        parts.append(Part(run_id, None, [], frames[at : at + 1], None, None))
        parts.append(Part(run_id, None, [(position, entry)], frames[at + 1 : at + 2], None, None))
    parts.append(Part(run_id, None, [], frames[-1:], (run.finished_at, run.result), ended))
    return parts


@asynccontextmanager
async def contender(folder: Path) -> AsyncIterator[OneRun]:
    run = await template()
    writer = GroupCommit(Database(folder), run.columns)
    loop = asyncio.get_running_loop()
    numbers = itertools.count()

    async def one_run() -> float:
        run_id = f"run_{next(numbers):0{RUN_ID_LENGTH - 4}d}"
        accepted, ended = loop.create_future(), loop.create_future()
        for part in parts_of(run, run_id, accepted, ended):
            writer.put(part)
        await accepted
        acked = time.perf_counter()
        await ended
        return acked

    try:
        yield one_run
    finally:
        writer.close()
