"""Databases that old versions made are opened by the present code, and every run in them ends rightly.

`make.py` has them made. Each is opened as it was a minute or two after its processes were killed.
"""

import asyncio
import contextlib
import gzip
import re
import sqlite3
import time
from pathlib import Path

import msgspec
import pytest

from offramp import wiring
from offramp.core.waits import waits_in
from offramp.core.webhooks import Answer
from offramp.egress import http
from offramp.errors import RunGone
from offramp.execution.clock import SystemClock
from offramp.paths.deep import log_of
from offramp.paths.submission import Submission
from offramp.ports.store import RunFilter
from offramp.settings import Settings
from offramp.stores.sqlite.schema import MIGRATIONS
from tests.upgrades.app import app

DATABASES = Path(__file__).parent / "databases"
SCHEMAS = sorted(int(path.name.removeprefix("schema-").removesuffix(".sql.gz")) for path in DATABASES.iterdir())
AFTER_S = 120
"""Seconds between the end of the old processes and the start of the present one: more than a lease, and a deadline."""


def worked(case):
    return f"{case} left, {case} right, {case}, held, 4, True"


ENDS = {
    "completed": ("completed", "completed"),
    "failed": ("failed", "step-failed"),
    "expired": ("expired", "deadline"),
    "cancelled": ("cancelled", "cancelled"),
    "announced": ("completed", "announced"),
    "killed": ("completed", worked("killed")),
    "running": ("completed", worked("running")),
    "paid": ("failed", "effect-unknown"),
    "demoted": ("completed", "demoted, demoted, held"),
    "asked-to-end": ("cancelled", "cancelled"),
    "sleeping": ("completed", "sleeping, slept"),
    "waiting": ("completed", "waiting, yes, sent"),
    "signalled": ("completed", "signalled, late, sent"),
    "streamed": ("completed", "streamed, streamed, held"),
    "queued": ("completed", worked("queued")),
    "queued-to-wait": ("completed", "queued-to-wait, yes, sent"),
    "queued-too-long": ("expired", "deadline"),
}
"""By case, how its run ends, and its result or the code of its error."""
SINCE = {"announced": 2, "waiting": 3, "signalled": 3}
"""The first schema that has a case."""


class Then(SystemClock):
    """The system's clock, as if the databases had been made just now."""

    def __init__(self, made_at):
        super().__init__()
        ahead = made_at + AFTER_S - time.time()
        self.time = lambda: time.time() + ahead


class Receiver:
    """In place of webhooks' receivers: takes everything."""

    def __init__(self):
        self.bodies = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def __call__(self, *_arguments):
        return self

    async def send(self, _target, message):
        self._loop.call_soon_threadsafe(self.bodies.put_nowait, msgspec.json.decode(message.body))
        return Answer("delivered", "200")

    async def close(self):
        pass


def restored(schema, data):
    """The database in a folder; when it was made."""
    script = gzip.decompress((DATABASES / f"schema-{schema}.sql.gz").read_bytes()).decode()
    data.mkdir()
    with contextlib.closing(sqlite3.connect(data / "offramp.db")) as connection:
        connection.executescript(script)
    return float(re.search(r"made at (\d+)", script)[1])


@contextlib.asynccontextmanager
async def upgraded(schema, data, role="local"):
    made_at = restored(schema, data)
    settings = Settings(data=str(data), webhook_secret="whsec_" + "b2ZmcmFtcA" * 4, webhook_allow="127.0.0.1/32")
    service = wiring.build(app, settings, role=role, clock=Then(made_at))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def runs_by_case(service):
    documents, _ = await service.list(RunFilter(limit=100))
    return {listed["metadata"]["case"]: await service.get(listed["id"]) for listed in documents}


def test_every_migration_has_a_database_from_before_it():
    assert set(SCHEMAS) >= set(range(1, len(MIGRATIONS)))


@pytest.mark.parametrize("schema", [schema for schema in SCHEMAS if schema > SINCE["waiting"]])
async def test_the_runs_that_wait_are_known_from_their_events(schema, tmp_path):
    restored(schema, tmp_path / "data")
    service = wiring.build(app, Settings(data=str(tmp_path / "data")), role="local")
    try:
        store, runs = service.process.store, await runs_by_case(service)
        open_now = {
            record.id
            for record in runs.values()
            if not record.finished and waits_in(await log_of(store, record.id)).open
        }
        assert {record.id for record in (await store.runs(RunFilter(waiting=True, limit=100))).runs} == open_now
        assert runs["waiting"].id in open_now
        assert sum((await store.waiting()).values()) == len(open_now)
    finally:
        await service.close()


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_runs_in_every_state_end_as_they_would_have(schema, tmp_path, monkeypatch):
    receiver = Receiver()
    monkeypatch.setattr(http, "HttpSender", receiver)
    async with upgraded(schema, tmp_path / "data") as service:
        runs = await runs_by_case(service)
        expected = {case: end for case, end in ENDS.items() if schema >= SINCE.get(case, 0)}
        assert runs.keys() == expected.keys() | {"purged"}

        for case in expected.keys() & {"waiting", "queued-to-wait"}:
            await service.signal(runs[case].id, "approved", b'"yes"')
        frames = {case: [frame async for part in service.follow(runs[case].id) for frame in part] for case in expected}
        ended = {case: await service.get(runs[case].id) for case in expected}

        assert {case: end_of(record) for case, record in ended.items()} == expected
        for case, told in frames.items():
            assert [frame.seq for frame in told] == [*range(1, len(told) + 1)], case
            assert [frame.terminal for frame in told] == [False] * (len(told) - 1) + [True], case
        with pytest.raises(RunGone):
            await anext(service.follow(runs["purged"].id))
        if "announced" in expected:
            assert (await receiver.bodies.get())["data"]["id"] == runs["announced"].id
        await assert_attached(service, runs["completed"])


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_a_queued_run_expires_though_no_worker_is_there(schema, tmp_path):
    async with upgraded(schema, tmp_path / "data", "gateway") as service:
        run = (await runs_by_case(service))["queued-too-long"]
        async for _ in service.follow(run.id):
            pass
        assert end_of(await service.get(run.id)) == ENDS["queued-too-long"]


def end_of(record):
    """How it ended, and its result or the code of its error."""
    return record.status, msgspec.json.decode(record.result) if record.error is None else record.error.code


async def assert_attached(service, completed):
    """The key that came with the run before leads to it."""
    again = Submission(
        pipeline="quick",
        input=completed.input,
        metadata=completed.metadata,
        session_id="of-then",
        respond_async=True,
        idempotency_key="once-only",
    )
    accepted = await service.submit(again)
    assert (accepted.record.id, accepted.attached) == (completed.id, True)
