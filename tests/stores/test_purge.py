"""Purging and listing on SQLite: what each statement reads, what goes and what stays, and the file's size."""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3

import msgspec
import pytest

from offramp.conformance import run_store
from offramp.core import events
from offramp.core.journal import Entry
from offramp.core.run import Outcome, Webhook
from offramp.core.webhooks import Progress
from offramp.ports.listing import RunFilter
from offramp.ports.outbox import UNDELIVERED_KEPT_S, Room
from offramp.ports.store import Idempotency
from offramp.stores.sqlite import Database, listing, purge
from offramp.stores.sqlite.database import FILE_NAME
from offramp.stores.sqlite.outbox import SQLiteOutbox
from tests.conformance.adapters import SQLite
from tests.support import NOW, Files, a_record, accepted, drafted, of_schema

RETENTION_S = 10.0
DUE = NOW + RETENTION_S + 1
HOOK = Webhook("https://example.com/hooks")


async def ended_run(files, *, steps=1, result=b'"done"', key=None, **changes):
    record = a_record(**({"retention_s": RETENTION_S} | changes))
    commit, log = files.store.create(record, accepted(record), owner="a", durable=True, idempotency=key)
    await commit
    for n in range(steps):
        log.append(Entry(f"work:{n}:0", "work", "step", b"1"), drafted(events.StepStarted("work", f"work:{n}:0", 1)))
        await log.durable()
    await log.finish(Outcome("completed", result), drafted(events.RunCompleted()), NOW)
    return record.id


async def whole(files, now, only=None):
    """Purge and sweep to the end: how many runs were emptied."""
    emptied = 0
    while True:
        runs, rest = await files.store.purge(now, only), await files.store.sweep(now)
        emptied += runs
        if not runs and not rest:
            return emptied


def rows_of(files, run):
    tables = ("journal", "events", "signals", "turns", "webhooks")
    return {table: files.query(f"SELECT count(*) FROM {table} WHERE run_id = ?", run)[0][0] for table in tables}


# What is read.


@pytest.fixture
def asked(monkeypatch):
    """The statements of every connection that is opened from here on."""
    said, connect = [], Database.connect

    def traced(self, **options):
        connection = connect(self, **options)
        connection.set_trace_callback(said.append)
        return connection

    monkeypatch.setattr(Database, "connect", traced)
    return said


@pytest.fixture
async def traced(asked, tmp_path):
    made = Files(tmp_path)
    yield made
    await made.close()


SMALL = re.compile(
    "SCAN (owners|durations|syncs|queue|learned|credits|lines)$"
    # Work that waits: their partial indexes have nothing else in them.
    "|SCAN runs USING INDEX (runs_queued|runs_died_once|runs_suspected|runs_unheard)$"
    "|SCAN lines USING (COVERING )?INDEX lines_next$"
    # A bounded number of its newest rows.
    "|SCAN turns_of_sessions USING COVERING INDEX turns_of_sessions_changed$"
)


def unranged(path, statements):
    """Steps of these statements that read more than a range of an index: a whole table or index, or a sort."""
    found = {}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        listing.prepare(connection)
        tables = "|".join(name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        for statement in statements:
            for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                if (re.match(rf"SCAN ({tables})\b", step) or "TEMP B-TREE" in step) and not SMALL.match(step):
                    found[step] = statement
    return found


def data(statements):
    return {said for said in statements if re.match("SELECT|DELETE|UPDATE|INSERT", said)}


async def test_nothing_that_a_store_does_reads_a_whole_table(asked, tmp_path):
    """Whatever the conformance suite asks for: indexes that are added for one query may mislead another."""
    assert (await run_store(SQLite())).ok
    Database(tmp_path).close()
    of_levels = {said for said in data(asked) if re.search("FROM (tenant_)?outcomes", said)}  # a few classes, by minute
    assert not unranged(tmp_path / FILE_NAME, data(asked) - of_levels)


async def test_every_statement_of_a_purge_is_a_range_of_an_index(traced, asked, monkeypatch):
    monkeypatch.setattr(purge, "PURGE_ROWS_MAX", 20)
    monkeypatch.setattr(purge, "SPARE_PAGES", 0)
    monkeypatch.setattr(purge, "SPARE_SHARE", 0.0)
    for n in range(10):
        await ended_run(traced, key=Idempotency(f"k{n}", "body", NOW + 5), result=b'"%b"' % (b"x" * 9_000))
    await ended_run(traced, steps=40)
    await ended_run(traced, webhook=HOOK)
    named = await traced.store.due(DUE)
    asked.clear()
    assert await whole(traced, DUE, named) == len(named) == 11
    assert await whole(traced, NOW + 1e9) == 1
    done = data(asked)
    assert not unranged(traced.database.path, done)
    removed = {re.match(r"DELETE FROM (\w+)", said)[1] for said in done if said.startswith("DELETE")}
    assert removed == {"runs", "journal", "events", "signals", "turns", "waits", "webhooks", "idempotency"}
    assert any("incremental_vacuum" in said for said in asked), "the file was not cut"


async def test_every_listing_is_a_range_of_an_index(traced, asked):
    for n in range(12):
        await ended_run(traced, tenant="t", session_id=f"s{n % 3}")
    choices = [(None, value) for value in ("t", "s1", "completed", "research")]
    asked.clear()
    for tenant, session, status, pipeline in itertools.product(*choices):
        for after in (None, "run_5"):
            wanted = RunFilter(tenant, session, status, pipeline, after)
            await traced.store.runs(wanted)
            more = {"sla": "c", "path": "deep", "q": "x", "since": NOW, "until": NOW + 9, "newest_first": False}
            await traced.store.runs(msgspec.structs.replace(wanted, **more))
            await traced.store.runs(msgspec.structs.replace(wanted, **more, waiting=True))
    done = data(asked)
    assert len(done) > 32
    assert not unranged(traced.database.path, done)


async def test_a_page_of_two_filters_looks_at_a_bounded_number_of_runs(files, monkeypatch):
    monkeypatch.setattr(listing, "LIST_LOOKS_MAX", 4)
    made = [await ended_run(files, pipeline="rare" if n == 1 else "often") for n in range(10)][::-1]
    wanted = {"status": "completed", "pipeline": "rare", "session_id": None}
    page = await files.store.runs(RunFilter(**wanted))
    assert [run.id for run in page.runs] == [made[8]], "one index has the rare ones alone"
    seen, after = [], ""
    while after is not None:
        page = await files.store.runs(RunFilter(status="failed", pipeline="often", tenant=None, after=after or None))
        seen.append(page.after)
        assert page.runs == []
        after = page.after
    assert seen == [made[3], made[7], None]


# What goes, and what stays.


async def test_a_run_goes_at_its_time_and_its_key_at_that_of_the_key(files):
    run = await ended_run(files, key=Idempotency("k", "body", NOW + 100))
    later = await ended_run(files, retention_s=1_000.0, key=Idempotency("short", "body", NOW + 5))
    assert await whole(files, DUE) == 1
    assert set(rows_of(files, run).values()) == {0}
    assert rows_of(files, later)["journal"] == 1
    assert (await files.store.get(run)).purged
    assert await files.store.holder("", "k", DUE) == run, "the key went with its run"
    assert files.query("SELECT key FROM idempotency") == [("k",)]
    await whole(files, NOW + 101)
    assert files.query("SELECT key FROM idempotency") == []
    assert await files.store.get(run) is not None
    await whole(files, DUE + purge.TOMBSTONE_S)
    assert await files.store.get(run) is None, "a purged run is still known"


async def test_a_run_that_is_too_large_for_a_step_goes_in_several_from_its_end(files, monkeypatch):
    monkeypatch.setattr(purge, "PURGE_ROWS_MAX", 20)
    monkeypatch.setattr(purge, "PURGE_ROWS_MIN", 20)
    files.store.purging.rows = 20
    run, small = await ended_run(files, steps=60), await ended_run(files)
    assert await files.store.purge(DUE) == 1
    assert (await files.store.get(run)).purged
    lengths = []
    while rows_of(files, run)["events"]:
        numbers = [frame.seq for frame in await files.store.events(run, 0)]
        assert numbers == list(range(1, len(numbers) + 1)), "the log has lost its beginning first"
        lengths.append(sum(rows_of(files, run).values()))
        assert 0 < await files.store.sweep(DUE) <= 20
    assert len(lengths) >= 6
    assert await files.store.due(DUE) == [small]
    assert await whole(files, DUE) == 1
    assert files.query("SELECT purged, count(*) FROM runs GROUP BY purged") == [(1, 2)]


async def test_a_run_that_emitted_much_in_few_rows_goes_in_one_step(files):
    record = a_record(retention_s=RETENTION_S)
    _, log = files.store.create(record, accepted(record), owner="a", durable=True)
    for _ in range(purge.PURGE_ROWS_MAX + 1):
        log.append(None, drafted(events.StepDelta("work", "work:0:0", 1, msgspec.Raw(b'"token"'))))
    await log.finish(Outcome("completed", b'"done"'), drafted(events.RunCompleted()), NOW)
    assert rows_of(files, record.id)["events"] < purge.PURGE_ROWS_MAX / 4
    assert await files.store.purge(DUE) == 1
    assert files.query("SELECT purged FROM runs") == [(1,)]
    assert set(rows_of(files, record.id).values()) == {0}


async def test_what_has_still_to_be_announced_is_looked_at_once_and_goes_when_it_was(files):
    outbox = SQLiteOutbox(files.database, files.writer)
    waiting = [await ended_run(files, webhook=HOOK) for _ in range(3)]
    other = await ended_run(files)
    assert await whole(files, DUE) == 1
    assert (await files.store.get(other)).purged
    due = "SELECT count(*) FROM runs WHERE purged = 0 AND purge_at <= ?"
    assert files.query(due, DUE) == [(0,)], "each purge would look at them again"
    room = Room(10, 10, {})
    [first, *_] = await outbox.claim(room, DUE, DUE + 60)
    await outbox.settle(first, Progress(first.latest, done=True))
    assert await whole(files, DUE) == 1
    assert (await files.store.get(first.run_id)).purged
    assert await whole(files, NOW + RETENTION_S + UNDELIVERED_KEPT_S - 1) == 0
    assert await whole(files, DUE + UNDELIVERED_KEPT_S) == len(waiting) - 1


async def test_two_processes_that_purge_at_the_same_time_empty_each_run_once(two):
    for _ in range(20):
        await ended_run(two[0])
    for files in two:
        files.store.purging.rows = purge.PURGE_ROWS_MIN
    counts = [0, 0]
    while not all(files.query("SELECT count(*) FROM runs WHERE purged = 1")[0][0] == 20 for files in two):
        for place, files in enumerate(two):
            counts[place] += await files.store.purge(DUE)
    assert sum(counts) == 20


# The file.


async def test_the_file_shrinks_after_a_purge(files, monkeypatch):
    monkeypatch.setattr(purge, "SPARE_PAGES", 10)
    for _ in range(20):
        await ended_run(files, result=b'"%b"' % (b"x" * 200_000))
    pages = files.query("PRAGMA page_count")[0][0]
    await whole(files, DUE)
    assert files.query("PRAGMA page_count")[0][0] < pages / 4
    assert files.query("PRAGMA freelist_count")[0][0] <= 10 + 0.1 * pages
    assert files.query("PRAGMA integrity_check") == [("ok",)]


async def test_a_file_that_was_made_without_that_keeps_its_size(tmp_path):
    with of_schema(9, tmp_path):
        pass
    files = Files(tmp_path)
    try:
        for _ in range(20):
            await ended_run(files, result=b'"%b"' % (b"x" * 400_000))
        pages = files.query("PRAGMA page_count")[0][0]
        assert await whole(files, DUE) == 20
        assert files.query("PRAGMA page_count")[0][0] == pages
    finally:
        await files.close()
