"""Fills a database before the server starts: many ended runs, as the store writes them, but all at once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from bench._load import STEP_RESULT, STEPS_PER_RUN
from offramp.core.run import Route, RunRecord, Status, run_id
from offramp.stores.sqlite.database import FILE_NAME, Database
from offramp.stores.sqlite.rows import encode_record, searched

RESULT = STEP_RESULT.encode()
KINDS: tuple[tuple[str, Status], ...] = (("five", "completed"), ("other", "failed"))
"""Pipeline and status of every other run."""
_EVENT = (
    b'{"type":"step.completed","run_id":"%b","seq":%d,"at":"2026-11-30T00:00:00.000Z","step":"note","key":"note:%d:0",'
    b'"attempt":1,"duration_ms":20.0}'
)


def stock(folder: Path, runs: int, *, tenant: str, ended_at: float, purge_at: float, keys: int = 0) -> list[str]:
    """Write ended runs of five steps, and idempotency keys, to a new or existing database; returns the runs' ids.

    Args:
        folder: of the database.
        runs: their number.
        tenant: their tenant.
        ended_at: their end, in epoch seconds.
        purge_at: when they are due, in epoch seconds.
        keys: their total; those of the runs expire with them, the others a day later.
    """
    Database(folder).close()
    ids = [run_id(ended_at - (runs - number) / 1000, number.to_bytes(10, "big")) for number in range(runs)]
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO runs (id, tenant, pipeline, session_id, status, path, priority, token, "
            "started_at, finished_at, retention, purge_at, record, result, class, searched) "
            "VALUES (?, ?, ?, ?, ?, 'deep', 0, 2, ?, ?, 86400, ?, ?, ?, 'default', ?)",
            _runs(ids, tenant, ended_at, purge_at),
        )
        connection.executemany(
            "INSERT INTO journal VALUES (?, ?, ?)",
            ((run, step, RESULT + b"%d" % step) for run in ids for step in range(STEPS_PER_RUN)),
        )
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, 0, ?)", _events(ids))
        connection.executemany("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?)", _keys(ids, tenant, purge_at, keys))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return ids


def _runs(ids: list[str], tenant: str, ended_at: float, purge_at: float) -> Iterator[tuple[Any, ...]]:
    for number, run in enumerate(ids):
        session = f"session-{number % 1000}"
        pipeline, status = KINDS[number % 2]
        record = RunRecord(
            id=run,
            pipeline=pipeline,
            version="",
            status=status,
            path="deep",
            sla="default",
            route=Route("deep", ["asked for"]),
            created_at=ended_at,
            input=b'{"text":"%b"}' % (b"x" * 500),
            budget_s=0.0,
            session_id=session,
            tenant=tenant,
            metadata={"customer": f"customer-{number}"},
        )
        encoded, found_by = encode_record(record), searched(record.metadata)
        yield run, tenant, pipeline, session, status, ended_at, ended_at, purge_at, encoded, RESULT, found_by


def _events(ids: list[str]) -> Iterator[tuple[Any, ...]]:
    for run in ids:
        for seq in range(1, STEPS_PER_RUN * 2 + 1, 2):
            frames = [_EVENT % (run.encode(), number, number) for number in (seq, seq + 1)]
            yield run, seq, seq + 1, b"\n".join(frames)


def _keys(ids: list[str], tenant: str, purge_at: float, keys: int) -> Iterator[tuple[Any, ...]]:
    day = 86_400.0
    for number in range(keys):
        owner = ids[number % len(ids)]
        # In no order, as clients choose them.
        key = f"{(number * 2_654_435_761) % (1 << 32):08x}-{number:06d}-{'k' * 20}"
        yield tenant, key, "f" * 64, owner, purge_at if number < len(ids) else purge_at + day


def due_in(folder: Path, seconds: float) -> float:
    """Make all ended runs, and their keys, due this many seconds from now; returns that time in epoch seconds."""
    due_at = time.time() + seconds
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as connection:
        old = connection.execute("SELECT max(purge_at) FROM runs").fetchone()[0]
        connection.execute("UPDATE runs SET purge_at = ?", (due_at,))
        connection.execute("UPDATE idempotency SET expires_at = expires_at - ? + ?", (old, due_at))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return due_at
