"""What only the SQLite adapter has: one file, several processes, a disk that can be full."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from offramp.core import events
from offramp.core.claims import UNBOUNDED
from offramp.core.journal import Entry
from offramp.core.run import Outcome
from offramp.errors import LeaseLost, StoreError
from offramp.ports.commit import Commit
from offramp.stores.sqlite import Database
from offramp.stores.sqlite.batch import CHUNK_BYTES_MAX, Call
from offramp.stores.sqlite.database import FILE_NAME
from offramp.stores.sqlite.schema import MIGRATIONS
from offramp.stores.sqlite.writer import BATCH_OPERATIONS_MAX
from tests.support import GUARD_S, NOW, Files, Signal, a_record, accepted, drafted, eventually, of_schema

DONE = Outcome("completed", b'"done"')


def entry(n):
    return Entry(f"work:{n}:0", "work", "step", str(n).encode())


def started(n):
    return drafted(events.StepStarted("work", f"work:{n}:0", 1))


def delta(text):
    return drafted(events.StepDelta("work", "work:0:0", 1, msgspec.Raw(msgspec.json.encode(text))))


def ended():
    return drafted(events.RunCompleted(msgspec.Raw(b'"done"')))


async def created(files, *, by="a", **changes):
    record = a_record(**changes)
    commit, log = files.store.create(record, accepted(record), owner=by, durable=True)
    await commit
    return record, log


async def numbers(files, run):
    found = []
    while part := await files.store.events(run.id, found[-1] if found else 0):
        found += [frame.seq for frame in part]
    return found


# Several processes.


async def test_numbers_have_no_gap_however_often_a_run_changes_hands(two):
    rng, n = random.Random(1), 0
    run, log = await created(two[0], by="p0")
    stale = []
    for _ in range(12):
        for _ in range(rng.randrange(5)):
            log.append(entry(n), started(n))
            n += 1
        await log.durable()
        await two[rng.randrange(2)].leases.retire(log.lease.owner)
        taker = rng.randrange(2)
        [claim] = await two[taker].leases.claim(f"p{taker}", 1, ["research"], NOW)
        stale.append(log)
        log = two[taker].store.log(claim.lease)
        for old in stale:
            old.append(entry(-1), started(-1))
    for old in stale:
        with pytest.raises(LeaseLost):
            await old.durable()
    await log.finish(DONE, ended(), NOW)
    assert await numbers(two[0], run) == list(range(1, n + 3))
    assert await two[1].store.journal(run.id) == [entry(i) for i in range(n)]


async def test_a_run_is_claimed_by_one_process_only(two):
    runs = [(await created(two[0], by=None, status="queued"))[0].id for _ in range(40)]
    claims = await asyncio.gather(
        *(files.leases.claim(f"p{n}", 3, ["research"], NOW) for _ in range(10) for n, files in enumerate(two))
    )
    taken = [claim.record.id for part in claims for claim in part]
    assert sorted(taken) == sorted(runs)


async def test_the_same_key_in_two_processes_makes_one_run(two):
    from offramp.ports.store import Idempotency

    key = Idempotency("k", "body", NOW + 60)
    records = [a_record() for _ in range(10)]
    made = await asyncio.gather(
        *(
            two[n % 2].store.create(record, accepted(record), owner=None, durable=True, idempotency=key)[0]
            for n, record in enumerate(records)
        )
    )
    assert len([answer for answer in made if answer.existing is None]) == 1
    assert len({answer.existing for answer in made} - {None}) == 1
    assert two[0].query("SELECT count(*) FROM runs") == [(1,)]


def test_processes_may_open_a_new_file_at_the_same_moment(tmp_path):
    program = (
        "import sys; from pathlib import Path; from offramp.stores.sqlite import Database\n"
        "sys.stdin.readline(); Database(Path(sys.argv[1])).close(); print('open')"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=60) for child in children]
    assert [out.strip() for out, _ in said] == ["open"] * 6, said


def test_threads_may_open_a_new_file_at_the_same_moment(tmp_path):
    barrier, failures = threading.Barrier(8), []

    def open_it(folder):
        barrier.wait(GUARD_S)
        try:
            Database(folder).close()
        except Exception as error:  # noqa: BLE001 - collected
            failures.append(error)

    for attempt in range(5):
        threads = [threading.Thread(target=open_it, args=(tmp_path / str(attempt),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GUARD_S)
    assert failures == []


# The file.


def test_a_database_of_a_newer_version_is_refused(tmp_path):
    Database(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "offramp.db")) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match="upgrade Offramp or use another --data folder"):
        Database(tmp_path)


@pytest.mark.parametrize("content", [b"this is no database at all" * 400, b"SQLite format 3\0" + b"\1" * 9000])
def test_a_file_that_is_no_database_is_named(tmp_path, content):
    (tmp_path / "offramp.db").write_bytes(content)
    with pytest.raises(StoreError, match=str(tmp_path)):
        Database(tmp_path)


def test_somebody_elses_database_is_left_alone(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "offramp.db")) as connection:
        connection.execute("CREATE TABLE runs (mine TEXT)")
        connection.commit()
    with pytest.raises(StoreError, match="not usable as Offramp"):
        Database(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "offramp.db")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert tables == [("runs",)]


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot open the database in .*data"):
        Database(tmp_path / "data")


def test_the_file_is_for_its_owner_only(tmp_path):
    Database(tmp_path / "a" / "b").close()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "offramp.db").stat().st_mode) == 0o600


async def test_what_was_promised_survives_a_kill(tmp_path):
    program = (
        "import asyncio, sys, time\n"
        "from tests.stores.test_sqlite import Files, created, delta, entry, started\n"
        "async def main():\n"
        "    files = Files(sys.argv[1])\n"
        "    run, log = await created(files)\n"
        "    for n in range(100):\n"
        "        log.append(entry(n), started(n))\n"
        "    await log.durable()\n"
        "    print(run.id, flush=True)\n"
        "    while True:\n"
        "        log.append(None, delta('x'))\n"
        "asyncio.run(main())"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    run = a_record(id=child.stdout.readline().strip())
    child.send_signal(signal.SIGKILL)
    child.wait(GUARD_S)
    child.stdout.close()
    files = Files(tmp_path)
    try:
        assert await files.store.journal(run.id) == [entry(n) for n in range(100)]
        found = await numbers(files, run)
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= 101
    finally:
        await files.close()


# Rows and reads.


@contextlib.contextmanager
def held_up(files):
    """The writer waits, so that what is written meanwhile becomes one commit."""
    entered, go = Signal(), Signal()

    def wait(_connection, _transaction):
        entered.set()
        go.block()

    files.writer.put(Call(wait, durable=False, commit=Commit()))
    entered.block()
    try:
        yield
    finally:
        go.set()


async def test_the_events_of_one_commit_share_rows_and_deltas_have_their_own(files):
    run, log = await created(files)
    with held_up(files):
        for text in "abc":
            log.append(None, delta(text))
        log.append(entry(1), started(1))
        log.append(entry(2), started(2))
        log.append(None, delta("d"))
    await log.durable()
    rows = files.query("SELECT first, last, deltas FROM events WHERE run_id = ? ORDER BY first", run.id)
    assert rows == [(1, 1, 0), (2, 4, 1), (5, 6, 0), (7, 7, 1)]
    for after in range(8):
        assert [frame.seq for frame in await files.store.events(run.id, after)] == list(range(after + 1, 8))


async def test_a_large_commit_is_cut_into_chunks_and_read_in_bounded_parts(tmp_path):
    files = Files(tmp_path, backlog_bytes=1 << 24)
    try:
        run, log = await created(files)
        with held_up(files):
            for n in range(320):
                log.append(None, delta(f"{n:05}" * (CHUNK_BYTES_MAX // 40)))
        await log.durable()
        sizes = [size for (size,) in files.query("SELECT length(data) FROM events WHERE run_id = ?", run.id)]
        assert max(sizes) < 2 * CHUNK_BYTES_MAX
        part = await files.store.events(run.id, 0)
        assert len(part) < 321
        assert await numbers(files, run) == list(range(1, 322))
    finally:
        await files.close()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 130])
async def test_batches_of_any_size_are_written_whole(files, count):
    with held_up(files):
        records = [a_record() for _ in range(count)]
        made = [files.store.create(record, accepted(record), owner="a", durable=False) for record in records]
        for _, log in made:
            log.append(entry(1), started(1))
        ends = [log.finish(DONE, ended(), NOW) for _, log in made]
    for end in ends:
        await end
    for record in records:
        assert await numbers(files, record) == [1, 2, 3]
        assert await files.store.journal(record.id) == [entry(1)]
        assert (await files.store.get(record.id)).status == "completed"


# Backpressure and a disk that refuses.


async def emitting(log, files, size, stop):
    """Emit from a thread until told to stop; returns how many bytes were taken."""
    taken = [0]

    def emit():
        while not stop.is_set():
            log.append(None, delta("x" * size))
            taken[0] += size

    thread = threading.Thread(target=emit, daemon=True)
    thread.start()
    return thread, taken


async def still(value):
    """Wait until a counter has stood still for a while."""
    last, since = value(), 0
    async with asyncio.timeout(GUARD_S):
        while since < 60:
            await asyncio.sleep(0.01)
            now = value()
            last, since = now, since + 1 if now == last else 0
    return last


async def test_emitting_faster_than_the_disk_waits_at_the_backlog(tmp_path):
    files, stop = Files(tmp_path, backlog_bytes=100_000), Signal()
    try:
        run, log = await created(files)
        with held_up(files):
            thread, taken = await emitting(log, files, 1000, stop)
            held = await still(lambda: taken[0])
            assert 90_000 <= held <= 110_000
            log.append(entry(1), started(1))  # no emitted value: it never waits
        await eventually(lambda: taken[0] > held)
        stop.set()
        await asyncio.to_thread(thread.join, GUARD_S)
        await log.durable()
        found = await numbers(files, run)
        assert found == list(range(1, len(found) + 1))
    finally:
        await files.close()


def limit(files, pages):
    """Let the database grow to this many pages; the writer is idle or waits for a retry meanwhile."""
    files.writer.connection.execute(f"PRAGMA max_page_count = {pages}")


def full(files):
    limit(files, 1)  # SQLite takes the present size instead


def freed(files):
    limit(files, 1_000_000)


async def test_a_full_disk_refuses_requests_and_keeps_what_was_accepted(files):
    run, log = await created(files)
    await log.durable()
    full(files)
    text = "x" * 20_000
    for n in range(30):
        log.append(entry(n), delta(text))
    waiting = log.durable()
    refused = a_record(input=msgspec.json.encode(text))
    with pytest.raises(StoreError, match="cannot be written"):
        await files.store.create(refused, accepted(refused), owner="a", durable=True)[0]
    assert await numbers(files, run) == [1]
    freed(files)
    await waiting
    assert await numbers(files, run) == list(range(1, 32))
    assert await files.store.journal(run.id) == [entry(n) for n in range(30)]
    assert await files.store.get(refused.id) is None


async def test_a_request_is_refused_at_once_however_much_waits_in_front_of_it(files):
    record, log = await created(files)
    full(files)
    for n in range(2 * BATCH_OPERATIONS_MAX):
        log.append(entry(n), started(n))
    async with asyncio.timeout(GUARD_S):
        for _ in range(3):
            with pytest.raises(StoreError, match="cannot be written"):
                await created(files)
        with pytest.raises(StoreError, match="cannot be written"):
            await files.store.open_runs()
    freed(files)
    await log.durable()
    assert await numbers(files, record) == list(range(1, 2 * BATCH_OPERATIONS_MAX + 2))
    await created(files)


async def test_the_writer_says_that_it_is_in_trouble_until_it_can_write_again(files, monkeypatch):
    monkeypatch.setattr("offramp.stores.sqlite.writer.TROUBLE_S_MIN", 0.05)
    assert files.store.trouble() is None
    full(files)
    with pytest.raises(StoreError):
        await created(files, metadata={"large": "x" * 100_000})
    assert "cannot be written" in files.store.trouble()
    freed(files)
    await eventually(lambda: files.store.trouble() is None)  # though nothing asks it to write


async def test_what_waits_for_longer_than_a_request_does_is_refused_and_not_written_late(tmp_path):
    files = Files(tmp_path, timeout_s=0.3)
    try:
        run, log = await created(files)
        late = a_record()
        with held_up(files):
            commit, _ = files.store.create(late, accepted(late), owner="a", durable=True)
            signal = asyncio.ensure_future(files.leases.send_signal(run.id, "go", b"1", NOW))
            log.append(entry(1), started(1))  # of a run that was accepted: it waits
            await eventually(lambda: files.store.trouble() is not None)
            assert "has not taken a write for" in files.store.trouble()
            with pytest.raises(StoreError, match="accepts no further requests"):
                await created(files)
            asked = time.monotonic()
            await eventually(lambda: time.monotonic() > asked + 0.3)
        for refused in (commit, signal):
            with pytest.raises(StoreError, match=r"not written|accepts no further requests"):
                await refused
        await log.durable()
        assert await files.store.get(late.id) is None
        assert await files.store.signals(run.id) == []
        assert await files.store.journal(run.id) == [entry(1)]
        await eventually(lambda: files.store.trouble() is None)
        await created(files)
    finally:
        await files.close()


async def test_emitting_waits_while_the_disk_is_full(tmp_path):
    files, stop = Files(tmp_path, backlog_bytes=100_000), Signal()
    try:
        _, log = await created(files)
        await log.durable()
        full(files)
        thread, taken = await emitting(log, files, 10_000, stop)
        held = await still(lambda: taken[0])
        assert held <= 250_000
        freed(files)
        await eventually(lambda: taken[0] > held)
        stop.set()
        await asyncio.to_thread(thread.join, GUARD_S)
    finally:
        await files.close()


async def test_closing_with_a_full_disk_tells_who_waits(tmp_path):
    files = Files(tmp_path)
    _, log = await created(files)
    await log.durable()
    full(files)
    for n in range(30):
        log.append(entry(n), delta("x" * 20_000))
    end = log.finish(DONE, ended(), NOW)
    await files.close()
    with pytest.raises(StoreError, match="could not be written before the end"):
        await end


async def test_after_the_close_everything_is_refused_and_nothing_hangs(tmp_path):
    files = Files(tmp_path)
    record, log = await created(files)
    await files.close()
    late = a_record()
    for write in (
        lambda: files.store.create(late, accepted(late), owner="a", durable=True)[0],
        lambda: log.finish(DONE, ended(), NOW),
        log.durable,
        lambda: files.store.purge(NOW),
        lambda: files.store.get(record.id),
    ):
        with pytest.raises(StoreError, match="closed"):
            async with asyncio.timeout(GUARD_S):
                await write()
    log.append(entry(1), started(1))
    assert record.id


async def test_an_operation_that_cannot_be_built_takes_no_other_with_it(files):
    run, log = await created(files)

    def impossible(_connection, _transaction):
        raise RuntimeError("a bug")

    commit = Commit()
    with held_up(files):
        log.append(entry(1), started(1))
        files.writer.put(Call(impossible, durable=False, commit=commit))
        log.append(entry(2), started(2))
        end = log.finish(DONE, ended(), NOW)
    await end
    with pytest.raises(RuntimeError, match="a bug"):
        await commit
    assert await numbers(files, run) == [1, 2, 3, 4]
    assert await files.store.journal(run.id) == [entry(1), entry(2)]


async def test_a_promise_reaches_the_disk_whatever_else_is_in_its_batch(tmp_path):
    files = Files(tmp_path, sync_every=60)
    try:
        _, log = await created(files)
        log.append(entry(1), None)
        gate, looked = Signal(), Commit()
        files.writer.put(Call(lambda *_: gate.block(), durable=False, commit=Commit()))
        promised = log.durable()
        files.writer.put(Call(lambda *_: None, durable=False, commit=looked))
        before = files.query("SELECT count FROM syncs")
        gate.set()
        await promised
        await looked
        # A transaction that writes nothing would not have made SQLite flush what came before it.
        assert files.query("SELECT count FROM syncs") > before
    finally:
        await files.close()


def test_suspects_of_an_older_version_are_executed_alone_as_they_were(tmp_path):
    with of_schema(8, tmp_path) as connection:
        columns = "id, tenant, pipeline, status, path, priority, token, retention, record, deaths"
        for deaths in range(4):
            values = (f"run_{deaths}", "", "p", "queued", "deep", 0, 1, 1.0, b"", deaths)
            connection.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    Database(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        rows = connection.execute(
            "SELECT deaths, deaths_alone, deaths_silent, company FROM runs ORDER BY id"
        ).fetchall()
    assert rows == [(0, 0, 0, 0), (1, 0, 0, UNBOUNDED), (2, 0, 0, 1), (3, 0, 0, 1)]


async def test_what_waits_in_a_database_of_an_older_version_is_counted(tmp_path):
    with of_schema(9, tmp_path) as connection:
        columns = "id, tenant, pipeline, status, path, priority, token, retention, record"
        for number, (tenant, status) in enumerate(
            [("", "queued"), ("acme", "queued"), ("acme", "queued"), ("acme", "running"), ("beta", "completed")]
        ):
            values = (f"run_{number}", tenant, "p", status, "deep", 0, 1, 1.0, b"")
            connection.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    files = Files(tmp_path)
    try:
        assert await files.leases.queued() == {"": 1, "acme": 2}
        await created(files, by=None, status="queued", tenant="beta")
        assert await files.leases.queued() == {"": 1, "acme": 2, "beta": 1}
    finally:
        await files.close()
