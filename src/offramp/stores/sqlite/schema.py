"""The tables, as numbered migrations. A migration that has been released is never changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from offramp.core.run import key_digest
from offramp.errors import StoreError
from offramp.stores.sqlite.rows import class_in, deadline_in, searched_in
from offramp.stores.sqlite.waits import OpenWaits

MIGRATIONS: list[str] = [
    # 1: runs, with columns for queries and the rest in `record`; events in chunks of one commit each.
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        session_id TEXT,
        status TEXT NOT NULL,
        path TEXT NOT NULL,
        priority INTEGER NOT NULL,
        owner TEXT,
        token INTEGER NOT NULL,
        started_at REAL,
        finished_at REAL,
        retention REAL NOT NULL,
        purge_at REAL,
        purged INTEGER NOT NULL DEFAULT 0,
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        record BLOB NOT NULL,
        demotion BLOB,
        result BLOB,
        error BLOB
    );
    CREATE INDEX runs_queued ON runs (priority DESC, id) WHERE status = 'queued';
    CREATE INDEX runs_owned ON runs (owner) WHERE owner IS NOT NULL;
    CREATE INDEX runs_session ON runs (session_id, id) WHERE session_id IS NOT NULL;
    CREATE INDEX runs_purge ON runs (purge_at) WHERE purge_at IS NOT NULL;
    CREATE TABLE journal (
        run_id TEXT NOT NULL, position INTEGER NOT NULL, entry BLOB NOT NULL,
        PRIMARY KEY (run_id, position)
    ) WITHOUT ROWID;
    CREATE TABLE events (
        run_id TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, deltas INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (run_id, first)
    ) WITHOUT ROWID;
    CREATE TABLE owners (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, port INTEGER NOT NULL, ready INTEGER NOT NULL,
        expires_at REAL NOT NULL, started_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE idempotency (
        tenant TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, run_id TEXT NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (tenant, key)
    ) WITHOUT ROWID;
    CREATE TABLE syncs (only INTEGER PRIMARY KEY CHECK (only = 1), count INTEGER NOT NULL);
    INSERT INTO syncs VALUES (1, 0);
    """,
    # 2: webhooks as cursors over the event log. `latest` is the newest requested or terminal event; `due_at` is NULL
    # while none is above the cursor, 0 for at once, and the end of the claim while a message is sent.
    """
    CREATE TABLE webhooks (
        run_id TEXT PRIMARY KEY,
        host TEXT NOT NULL,
        token INTEGER NOT NULL DEFAULT 0,
        latest INTEGER NOT NULL DEFAULT 0,
        cursor INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        failing_since REAL,
        due_at REAL
    ) WITHOUT ROWID;
    CREATE INDEX webhooks_due ON webhooks (due_at, host) WHERE due_at IS NOT NULL;
    """,
    # 3: parked runs: running without an owner, until a time or a signal. Deadlines, to end queued runs on time.
    # Earlier versions stored idempotency keys unhashed.
    """
    ALTER TABLE runs ADD COLUMN parked_until REAL;
    ALTER TABLE runs ADD COLUMN deadline_at REAL;
    CREATE INDEX runs_parked ON runs (parked_until) WHERE parked_until IS NOT NULL;
    CREATE INDEX runs_deadline ON runs (deadline_at) WHERE deadline_at IS NOT NULL AND finished_at IS NULL;
    CREATE TABLE signals (
        run_id TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (run_id, number)
    ) WITHOUT ROWID;
    UPDATE runs SET deadline_at = deadline_in(record) WHERE finished_at IS NULL;
    UPDATE idempotency SET key = key_digest(key);
    """,
    # 4: how many runs met or missed the target of their class, by minute since the epoch.
    """
    CREATE TABLE outcomes (
        minute INTEGER NOT NULL, class TEXT NOT NULL, good INTEGER NOT NULL, bad INTEGER NOT NULL,
        PRIMARY KEY (minute, class)
    ) WITHOUT ROWID;
    """,
    # 5: the key that identifies a repeated signal.
    """
    ALTER TABLE signals ADD COLUMN key TEXT;
    CREATE UNIQUE INDEX signals_key ON signals (run_id, key) WHERE key IS NOT NULL;
    """,
    # 6: consecutive deaths of processes that executed a run, and processes that are stopping.
    """
    ALTER TABLE runs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE owners ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX runs_died ON runs (owner) WHERE deaths > 0;
    CREATE INDEX runs_suspected ON runs (priority DESC, id) WHERE status = 'queued' AND deaths > 1;
    """,
    # 7: runs assigned to an engine of many processes: the newest turn at each step, and the engine's pending notices.
    """
    CREATE TABLE turns (
        run_id TEXT NOT NULL, step TEXT NOT NULL, turn INTEGER NOT NULL, finished INTEGER NOT NULL,
        PRIMARY KEY (run_id, step)
    ) WITHOUT ROWID;
    ALTER TABLE runs ADD COLUMN unheard INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX runs_unheard ON runs (id) WHERE unheard > 0;
    """,
    # 8: the recent duration of runs of each pipeline, as a moving average.
    """
    CREATE TABLE durations (pipeline TEXT PRIMARY KEY, seconds REAL NOT NULL) WITHOUT ROWID;
    """,
    # 9: how many of a run's consecutive deaths happened alone, and how many in silence; the number of runs with deaths
    # among which it is executed next. A run with two deaths is executed alone, as before.
    """
    ALTER TABLE runs ADD COLUMN deaths_alone INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE runs ADD COLUMN deaths_silent INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE runs ADD COLUMN company INTEGER NOT NULL DEFAULT 0;
    UPDATE runs SET company = iif(deaths > 1, 1, 2147483647) WHERE deaths > 0;
    """,
    # 10: how the last owner of a run left it. How many runs of each tenant are queued, counted by triggers, so
    # that no submission counts them: a deleted run has ended. Service levels of single tenants. An index for every
    # listing and deletion; the duties of one process for all. `purged` is 1 for an emptied run, and 2 for one that is
    # being emptied, as it is too large for one step.
    """
    ALTER TABLE runs ADD COLUMN left_by TEXT;
    CREATE TABLE queue (tenant TEXT PRIMARY KEY, runs INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO queue SELECT tenant, count(*) FROM runs WHERE status = 'queued' GROUP BY tenant;
    CREATE TRIGGER runs_come_queued AFTER INSERT ON runs WHEN NEW.status = 'queued' BEGIN
        INSERT INTO queue VALUES (NEW.tenant, 1) ON CONFLICT (tenant) DO UPDATE SET runs = runs + 1;
    END;
    CREATE TRIGGER runs_queue AFTER UPDATE OF status ON runs
    WHEN NEW.status = 'queued' AND OLD.status <> 'queued' BEGIN
        INSERT INTO queue VALUES (NEW.tenant, 1) ON CONFLICT (tenant) DO UPDATE SET runs = runs + 1;
    END;
    CREATE TRIGGER runs_unqueue AFTER UPDATE OF status ON runs
    WHEN OLD.status = 'queued' AND NEW.status <> 'queued' BEGIN
        UPDATE queue SET runs = runs - 1 WHERE tenant = OLD.tenant;
    END;
    CREATE TABLE tenant_outcomes (
        tenant TEXT NOT NULL, minute INTEGER NOT NULL, class TEXT NOT NULL, good INTEGER NOT NULL, bad INTEGER NOT NULL,
        PRIMARY KEY (tenant, minute, class)
    ) WITHOUT ROWID;
    CREATE INDEX tenant_outcomes_minute ON tenant_outcomes (minute);
    DROP INDEX runs_session;
    DROP INDEX runs_purge;
    CREATE INDEX runs_of_tenant ON runs (tenant, id);
    CREATE INDEX runs_of_status ON runs (tenant, status, id);
    CREATE INDEX runs_of_pipeline ON runs (tenant, pipeline, id);
    CREATE INDEX runs_of_session ON runs (tenant, session_id, id) WHERE session_id IS NOT NULL;
    CREATE INDEX runs_due ON runs (purged, purge_at) WHERE purge_at IS NOT NULL;
    CREATE INDEX idempotency_expiry ON idempotency (expires_at);
    CREATE TABLE duties (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
    """,
    # 11: what listings filter by beside the columns of before: a run's class, and the values of its metadata; NULL for
    # earlier runs, whose record has them. What a process says about itself. Statistics of ended runs in cells of
    # `width` minutes, numbered from the epoch; they take over the counts of service levels, and replace the averages.
    """
    ALTER TABLE runs ADD COLUMN class TEXT;
    ALTER TABLE runs ADD COLUMN searched TEXT;
    ALTER TABLE owners ADD COLUMN about BLOB;
    CREATE TABLE cells (
        tenant TEXT NOT NULL, width INTEGER NOT NULL, number INTEGER NOT NULL, pipeline TEXT NOT NULL,
        class TEXT NOT NULL, counts BLOB NOT NULL,
        PRIMARY KEY (tenant, width, number, pipeline, class)
    ) WITHOUT ROWID;
    CREATE INDEX cells_number ON cells (width, number);
    INSERT INTO cells SELECT '', 240, minute / 240, '', class, json_object('good', sum(good), 'bad', sum(bad))
        FROM outcomes GROUP BY minute / 240, class;
    INSERT INTO cells SELECT tenant, 240, minute / 240, '', class, json_object('good', sum(good), 'bad', sum(bad))
        FROM tenant_outcomes GROUP BY tenant, minute / 240, class;
    DROP TABLE outcomes;
    DROP TABLE tenant_outcomes;
    DROP TABLE durations;
    """,
    # 12: what runs wait for: their open waits, and in the run's own row a mask of the kinds of them.
    """
    ALTER TABLE runs ADD COLUMN waits INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE waits (run_id TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (run_id, key)) WITHOUT ROWID;
    INSERT INTO waits SELECT run_id, value FROM (
        SELECT run_id, open_waits(first, data) AS open FROM (
            SELECT id FROM runs WHERE status = 'queued' UNION SELECT id FROM runs WHERE owner IS NOT NULL
            UNION SELECT id FROM runs WHERE parked_until IS NOT NULL
        ) CROSS JOIN events ON run_id = id WHERE deltas = 0 GROUP BY run_id
    ), json_each(open);
    UPDATE runs SET waits = (SELECT sum(DISTINCT iif(key < 'signal!', 1, 2)) FROM waits WHERE run_id = id)
    WHERE id IN (SELECT run_id FROM waits);
    CREATE INDEX runs_waiting ON runs (tenant, id) WHERE waits > 0;
    CREATE INDEX runs_waits ON runs (waits, pipeline) WHERE waits > 0;
    """,
    # 13: what is learned of runs: weights in cells, and the turns of sessions; each change of them has a number.
    """
    CREATE TABLE learned (only INTEGER PRIMARY KEY CHECK (only = 1), newest INTEGER NOT NULL);
    INSERT INTO learned VALUES (1, 0);
    CREATE TABLE beliefs (
        pipeline TEXT NOT NULL, class TEXT NOT NULL, block INTEGER NOT NULL, name TEXT NOT NULL,
        changed INTEGER NOT NULL, weights BLOB NOT NULL,
        PRIMARY KEY (pipeline, class, block, name)
    ) WITHOUT ROWID;
    CREATE INDEX beliefs_changed ON beliefs (changed);
    CREATE INDEX beliefs_of ON beliefs (pipeline, class, changed);
    CREATE TABLE turns_of_sessions (
        session TEXT PRIMARY KEY, changed INTEGER NOT NULL, turns INTEGER NOT NULL, last BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX turns_of_sessions_changed ON turns_of_sessions (changed);
    """,
    # 14: the API key that started a run, if the key has limits: what it started lately, and what of it is open.
    """
    ALTER TABLE runs ADD COLUMN api_key TEXT;
    CREATE INDEX runs_of_key ON runs (api_key, id) WHERE api_key IS NOT NULL;
    CREATE INDEX runs_open_of_key ON runs (api_key) WHERE api_key IS NOT NULL AND finished_at IS NULL;
    """,
    # 15: the order of the queue (core/claims.py): lines of the tenants that wait, kept by triggers; the greatest tag
    # of each priority; what classes have earned while they were overdue. A line without runs stays for its tag.
    """
    UPDATE runs SET class = class_in(record), searched = searched_in(record)
        WHERE class IS NULL AND finished_at IS NULL;
    DROP INDEX runs_queued;
    CREATE INDEX runs_queued ON runs (pipeline, priority, tenant, class, deaths, id) WHERE status = 'queued';
    CREATE INDEX runs_died_once ON runs (priority DESC, id) WHERE status = 'queued' AND deaths = 1;
    CREATE TABLE lines (
        pipeline TEXT NOT NULL, priority INTEGER NOT NULL, tenant TEXT NOT NULL, class TEXT NOT NULL,
        tag REAL NOT NULL, oldest TEXT NOT NULL, runs INTEGER NOT NULL,
        PRIMARY KEY (pipeline, priority, tenant, class)
    ) WITHOUT ROWID;
    CREATE INDEX lines_next ON lines (pipeline, priority DESC, tag, oldest) WHERE runs > 0;
    CREATE INDEX lines_of_class ON lines (pipeline, class, oldest) WHERE runs > 0;
    CREATE TABLE levels (priority INTEGER PRIMARY KEY, tag REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE credits (class TEXT PRIMARY KEY, credit REAL NOT NULL) WITHOUT ROWID;
    INSERT INTO lines SELECT pipeline, priority, tenant, class, 0, min(id), count(*) FROM runs
        WHERE status = 'queued' AND deaths = 0 GROUP BY pipeline, priority, tenant, class;
    DROP TRIGGER runs_come_queued;
    DROP TRIGGER runs_queue;
    DROP TRIGGER runs_unqueue;
    DROP TABLE queue;
    CREATE VIEW comes AS SELECT '' AS pipeline, 0 AS priority, '' AS tenant, '' AS class, '' AS id;
    CREATE TRIGGER comes_into_line INSTEAD OF INSERT ON comes BEGIN
        INSERT INTO lines SELECT NEW.pipeline, NEW.priority, NEW.tenant, NEW.class, max(
            coalesce((SELECT max(tag) FROM lines
                WHERE pipeline = NEW.pipeline AND priority = NEW.priority AND tenant = NEW.tenant), 0),
            coalesce(
                (SELECT min(tag) FROM lines INDEXED BY lines_next
                    WHERE runs > 0 AND pipeline = NEW.pipeline AND priority = NEW.priority),
                (SELECT tag FROM levels WHERE priority = NEW.priority),
                0)
        ), NEW.id, 1 WHERE true
        ON CONFLICT (pipeline, priority, tenant, class) DO UPDATE SET
            oldest = iif(runs > 0, min(oldest, excluded.oldest), excluded.oldest),
            tag = iif(runs > 0, tag, excluded.tag), runs = runs + 1;
    END;
    CREATE TRIGGER runs_come_queued AFTER INSERT ON runs WHEN NEW.status = 'queued' BEGIN
        INSERT INTO comes VALUES (NEW.pipeline, NEW.priority, NEW.tenant, NEW.class, NEW.id);
    END;
    CREATE TRIGGER runs_queue AFTER UPDATE OF status ON runs
    WHEN NEW.status = 'queued' AND OLD.status <> 'queued' AND NEW.deaths = 0 BEGIN
        INSERT INTO comes VALUES (NEW.pipeline, NEW.priority, NEW.tenant, NEW.class, NEW.id);
    END;
    CREATE TRIGGER runs_unqueue AFTER UPDATE OF status ON runs
    WHEN OLD.status = 'queued' AND NEW.status <> 'queued' AND NEW.deaths = 0 BEGIN
        UPDATE lines SET runs = runs - 1, oldest = iif(runs > 1 AND oldest = NEW.id, coalesce((SELECT min(id) FROM runs
            WHERE status = 'queued' AND pipeline = NEW.pipeline AND priority = NEW.priority AND tenant = NEW.tenant
            AND class = NEW.class AND deaths = 0), ''), oldest)
        WHERE pipeline = NEW.pipeline AND priority = NEW.priority AND tenant = NEW.tenant AND class = NEW.class;
    END;
    """,
]


def _readable(read: Callable[[bytes], str]) -> Callable[[bytes], str]:
    """A function of a record that gives nothing where that is damaged: one record must not keep a database closed."""

    def function(encoded: bytes) -> str:
        try:
            return read(encoded)
        except msgspec.DecodeError:
            return ""

    return function


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; a trigger with its own statements is one."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if statement.strip() and sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to this version's schema; safe if several processes do so at once.

    Raises:
        StoreError: the database was written by a newer version.
    """
    connection.create_function("deadline_in", 1, deadline_in, deterministic=True)
    for read in (class_in, searched_in):
        connection.create_function(read.__name__, 1, _readable(read), deterministic=True)
    connection.create_function("key_digest", 1, key_digest, deterministic=True)
    connection.create_aggregate("open_waits", 2, cast("Any", OpenWaits))
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StoreError(
                f"the database has schema {version}, this version of Offramp knows {len(MIGRATIONS)}: upgrade Offramp "
                "or use another --data folder"
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number:d}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
