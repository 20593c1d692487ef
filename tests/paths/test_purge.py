"""The purge of a service: one process at a time, at rest between steps, and taken up by another when it is killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from offramp.core import events
from offramp.core.journal import Entry
from offramp.core.run import Outcome
from offramp.errors import ObjectsUnavailable
from offramp.paths.purge import DUTY, DUTY_S, REST, REST_S_MAX, purge
from tests.support import GUARD_S, NOW, Files, a_record, accepted, drafted

VICTIM = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from offramp.execution.clock import SystemClock
from offramp.paths.purge import purge
from offramp.stores.sqlite import Database, SQLiteStore
from offramp.stores.sqlite.crash_points import CrashPoint
from offramp.stores.sqlite.writer import Writer

async def main():
    database = Database(Path(sys.argv[1]))
    crash = CrashPoint("purge", sys.argv[2], 4)  # the duty is the first
    store = SQLiteStore(database, Writer(database, 0.05, 1 << 20, lambda *_: None, 5.0, crash))
    store.purging.rows = 25
    nothing = SimpleNamespace(blobs=None)
    metrics = SimpleNamespace(purged=lambda runs: print(runs, flush=True))
    await purge(SimpleNamespace(id="victim", store=store, clock=SystemClock(), values=nothing, metrics=metrics))

asyncio.run(main())
"""


class Clock:
    """Stands still but for what a test adds."""

    def __init__(self, now):
        self.now = now

    def time(self):
        return self.now

    def monotonic(self):
        return self.now


class One:
    """What a purge needs of a process, and how many runs it emptied."""

    def __init__(self, store, name, *, now=NOW + 100, blobs=None):
        self.id = name
        self.store = store
        self.clock = Clock(now)
        self.values = SimpleNamespace(blobs=blobs)
        self.metrics = self
        self.emptied = 0

    def purged(self, runs):
        self.emptied += runs


async def ended(files, count, at=NOW):
    made = []
    for _ in range(count):
        record = a_record(retention_s=10.0)
        commit, log = files.store.create(record, accepted(record), owner="a", durable=True)
        await commit
        log.append(Entry("work:0:0", "work", "step", b"1"), drafted(events.StepStarted("work", "work:0:0", 1)))
        await log.finish(Outcome("completed", b'"done"'), drafted(events.RunCompleted()), at)
        made.append(record.id)
    return made


@pytest.fixture
async def files(tmp_path):
    made = Files(tmp_path)
    yield made
    await made.close()


async def test_one_process_purges_for_all_and_gives_the_duty_back(files):
    await ended(files, 5)
    first, second = One(files.store, "first"), One(files.store, "second")
    assert await files.store.take_duty(DUTY, "other", NOW, NOW + 100 + DUTY_S)
    await purge(first)
    assert first.emptied == 0
    assert await files.store.take_duty(DUTY, "other", NOW, NOW)
    await purge(first)
    assert first.emptied == 5
    await ended(files, 3)
    await purge(second)
    assert second.emptied == 3


async def test_it_rests_after_each_step_for_as_long_as_that_says(files, monkeypatch):
    await ended(files, 60)
    files.store.purging.rows = 20
    one, rests = One(files.store, "one"), []
    inner, sleep = files.store.purge, asyncio.sleep

    async def slow(now, only=None):
        one.clock.now += 0.1
        return await inner(now, only)

    async def rest(seconds):
        rests.append(round(seconds, 6))
        await sleep(0)

    monkeypatch.setattr(files.store, "purge", slow)
    monkeypatch.setattr(asyncio, "sleep", rest)
    await purge(one)
    assert one.emptied == 60
    assert set(rests) <= {0.0, round(REST * 0.1, 6)}
    assert len(rests) >= 5
    assert REST * 0.1 <= REST_S_MAX


async def test_a_process_that_stops_leaves_the_rest_to_others(files):
    await ended(files, 60)
    files.store.purging.rows = 20
    one, other = One(files.store, "one"), One(files.store, "other")
    await purge(one, lambda: one.emptied > 0)
    assert 0 < one.emptied < 60
    await purge(other)
    assert one.emptied + other.emptied == 60


async def test_a_run_whose_objects_are_there_still_stays(files):
    class Away:
        async def delete(self, runs):
            raise ObjectsUnavailable("away")

    [run] = await ended(files, 1)
    one = One(files.store, "one", blobs=Away())
    with pytest.raises(ObjectsUnavailable):
        await purge(one)
    assert not (await files.store.get(run)).purged
    one.values.blobs = SimpleNamespace(delete=lambda runs: asyncio.sleep(0))
    await purge(one)
    assert (await files.store.get(run)).purged


@pytest.mark.parametrize("when", ["before", "after"])
async def test_another_process_goes_on_where_one_was_killed(files, when):
    runs = await ended(files, 31, time.time() - 60)
    victim = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", VICTIM, str(files.database.path.parent), when],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    emptied = files.query("SELECT count(*) FROM runs WHERE purged = 1")[0][0]
    assert 0 < emptied < 31
    soon, later = One(files.store, "heir", now=time.time()), One(files.store, "heir", now=time.time() + DUTY_S)
    await purge(soon)
    assert soon.emptied == 0, "the duty was taken from a process that may live"
    await purge(later)
    assert later.emptied == 31 - emptied
    assert files.query("SELECT count(*) FROM journal") == files.query("SELECT count(*) FROM events") == [(0,)]
    assert all([(await files.store.get(run)).purged for run in runs])
    assert files.query("PRAGMA integrity_check") == [("ok",)]
