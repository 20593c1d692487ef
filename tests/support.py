"""What the tests of the runtime share: signals across threads and loops, and readers of a run's events.

A wait here is a guard against hanging, never a way to let time pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sqlite3
import threading
from pathlib import Path

from offramp import wiring
from offramp.core import events
from offramp.core.run import Route, RunRecord, run_id
from offramp.core.timestamps import rfc3339
from offramp.ports.commit import Commit
from offramp.ports.seams import NO_SEAMS
from offramp.settings import Settings
from offramp.stores.sqlite import Database, SQLiteStore
from offramp.stores.sqlite.batch import Call
from offramp.stores.sqlite.database import FILE_NAME
from offramp.stores.sqlite.leases import SQLiteLeases
from offramp.stores.sqlite.schema import MIGRATIONS
from offramp.stores.sqlite.writer import Writer

GUARD_S = 20.0
NOW = 1_700_000_000.0


class Signal:
    """Something happened; awaited from any event loop, blocked on from any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._commit = Commit()

    def set(self):
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
        self._commit.resolve()

    def is_set(self):
        return self._event.is_set()

    async def wait(self):
        async with asyncio.timeout(GUARD_S):
            await self._commit

    def block(self):
        assert self._event.wait(GUARD_S), "the signal did not come"


async def eventually(condition, guard_s=GUARD_S):
    """Wait for something that announces itself by no signal; the condition may be a coroutine function."""
    async with asyncio.timeout(guard_s):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.005)


async def reach(handle, kind, step=None):
    """Read a run's events from the start until one of this type, for this step if one is named."""
    seen = []
    async with asyncio.timeout(GUARD_S), contextlib.aclosing(handle.events()) as stream:
        async for event in stream:
            seen.append(event)
            if event.type == kind and step in {None, event.data.get("step")}:
                return seen
    raise AssertionError(f"the run ended without {kind}: {types(seen)}")


async def log_of(handle):
    """All events of a run, which ends within the guard."""
    async with asyncio.timeout(GUARD_S):
        return [event async for event in handle]


async def result_of(handle):
    """The run's result, or what it raises."""
    async with asyncio.timeout(GUARD_S):
        return await handle.result()


async def failure_of(handle):
    """The exception that `result` raises."""
    try:
        value = await result_of(handle)
    except Exception as error:  # noqa: BLE001 - it is what was asked for
        return error
    raise AssertionError(f"the run completed with {value!r}")


async def frames_of(service, run_id, after=0):
    """Every frame above `after`, as a reader of this service gets them."""
    frames = []
    async with asyncio.timeout(GUARD_S), contextlib.aclosing(service.follow(run_id, after)) as parts:
        async for part in parts:
            frames += part
    return frames


def reading(service, name, **labels):
    """What a service's metrics show under a name and labels; 0 where nothing was recorded.

    Names as a scraper sees them: counters end in `_total`, histograms have `_count` and `_sum`.
    """
    for collector in service.collectors:
        for family in collector.collect():
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
    return 0.0


def types(seen):
    return [event.type for event in seen]


def of(seen, kind):
    return [event for event in seen if event.type == kind]


def assert_one_log(frames):
    """E1: numbered from 1 without a gap, one terminal event, at the end."""
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert [frame.seq for frame in frames if frame.type in events.TERMINAL] == [len(frames)]


@contextlib.asynccontextmanager
async def member(app, folder, role, *, clock=None, owner=None, seams=NO_SEAMS, limits=None, **settings):
    """One process of a service, in this process; leaves as a stopping process does."""
    given = {"data": str(folder), "write_timeout": GUARD_S} | settings
    loaded = Settings.load({}, Path("absent.toml"), **given)
    service = wiring.build(app, loaded, role=role, owner=owner, clock=clock, seams=seams, limits=limits)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def know_each_other(*services):
    """Until the hints of each reach the others, where no poll comes in time: a newcomer is heard of, and looked up."""
    await eventually(
        lambda: all(len(service.engine.membership.links.hints.ports) == len(services) - 1 for service in services)
    )


async def let_leases_pass(clock, lease_s, *services):
    """Two leases go by, a third of one at a time, in which each of these renews its own."""
    for _ in range(6):
        clock.advance(lease_s / 3)
        held_until = clock.monotonic() + lease_s
        await eventually(lambda until=held_until: {service.engine.seat.held_until for service in services} == {until})


async def swept(execution):
    """Until the timers that the clock has brought are dealt with."""
    await eventually(lambda: not execution.scope.timers.sweeping)


@contextlib.asynccontextmanager
async def hung(service):
    """The writer of a service waits inside a transaction, as for a disk that does not answer."""
    entered, go = Signal(), Signal()

    def wait(_connection, _transaction):
        entered.set()
        go.block()

    service.process.store.writer.put(Call(wait, durable=True, commit=Commit()))
    await entered.wait()
    try:
        yield
    finally:
        go.set()


class Files:
    """A database as one process has it open: store, leases and the writer between them."""

    def __init__(self, folder, **writer):
        self.database = Database(Path(folder))
        given = {"sync_every": 0.05, "backlog_bytes": 1 << 20, "timeout_s": GUARD_S} | writer
        self.writer = Writer(self.database, committed=lambda *_: None, **given)
        self.store = SQLiteStore(self.database, self.writer)
        self.leases = SQLiteLeases(self.database, self.writer)

    async def close(self):
        self.leases.leave()
        await self.store.close()

    def query(self, statement, *values):
        with contextlib.closing(sqlite3.connect(self.database.path)) as connection:
            return connection.execute(statement, values).fetchall()


@contextlib.contextmanager
def of_schema(number, folder):
    """A database without runs, as an older version made it."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection, connection:
        for function in ("deadline_in", "key_digest"):  # which migrations call for rows that are not here
            connection.create_function(function, 1, str)
        for script in MIGRATIONS[:number]:
            connection.executescript(script)
        connection.execute(f"PRAGMA user_version = {number}")
        yield connection


_ids = iter(range(1, 1 << 40))


def a_record(**changes):
    number = next(_ids)
    made = {
        "id": run_id(NOW + number, number.to_bytes(10, "big")),
        "pipeline": "research",
        "version": "1",
        "status": "running",
        "path": "fast",
        "sla": "default",
        "route": Route("fast", ["because"]),
        "created_at": NOW,
        "started_at": NOW,
        "input": b"{}",
        "budget_s": 6.0,
    }
    if changes.get("status") == "queued":
        made |= {"path": "deep", "started_at": None}
    return RunRecord(**(made | changes))


def accepted(record):
    return drafted(events.RunAccepted(record.pipeline, None, record.path, record.sla, record.route.shown()))


def drafted(body, at=NOW):
    return events.draft(body, rfc3339(at))
