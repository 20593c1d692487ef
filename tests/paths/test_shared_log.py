"""The log of a run that changes hands while steps of it are in flight: nothing of them is lost, no more is written."""

from __future__ import annotations

import asyncio

from offramp.core import events
from offramp.core.journal import Entry
from offramp.core.ownership import ENGINE
from offramp.paths.shared_log import SharedLog
from tests.support import NOW, Files, a_record, accepted, drafted


def started(key):
    return drafted(events.StepStarted(key, key, 1))


def entry(key):
    return Entry(key, key, "step", b"1")


async def opened(files):
    record = a_record()
    created, log = files.store.create(record, accepted(record), owner="g", durable=False)
    await created
    return record, SharedLog(files.store, log)


async def seen(files, record):
    found = await files.store.events(record.id, 0)
    return [(frame.type, events.fold_steps([frame.data])) for frame in found if frame.type != "run.accepted"]


async def test_before_it_is_the_runs_log(tmp_path):
    files = Files(tmp_path)
    record, log = await opened(files)
    log.append(None, started("a"))
    log.append(Entry("v", "offramp.now", "value", b"1"), None)
    await log.durable()
    assert log.lease.owner == "g"
    assert [made.key for made in await files.store.journal(record.id)] == ["v"]
    await files.close()


async def test_what_comes_meanwhile_is_kept_back_and_what_is_no_step_in_flight_is_not_written(tmp_path):
    files = Files(tmp_path)
    record, log = await opened(files)
    log.keep(["a", "b"])
    log.append(entry("a"), started("a"))
    log.append(entry("other"), started("other"))
    log.append(Entry("v", "offramp.now", "value", b"1"), None)
    log.append(None, drafted(events.WaitStarted("sleep", None, "w", None)))
    waiting = asyncio.ensure_future(_done(log.durable()))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert await files.store.journal(record.id) == []
    claim = await files.leases.assign_to_engine(record.id, NOW)
    log.share(claim.lease)
    await waiting
    log.append(None, started("b"))
    await log.durable()
    assert log.lease == claim.lease
    assert [made.key for made in await files.store.journal(record.id)] == ["a"]
    assert [kind for kind, _ in await seen(files, record)] == ["step.started", "step.started"]
    assert log.over == {"a"}
    await files.close()


async def test_a_step_that_was_taken_by_another_is_not_written(tmp_path):
    files = Files(tmp_path)
    record, log = await opened(files)
    log.keep(["a", "b"])
    claim = await files.leases.assign_to_engine(record.id, NOW)
    assert claim.lease.owner == ENGINE
    log.share(claim.lease)
    await files.leases.take_step(claim.lease, "a")
    for key in ("a", "b"):
        log.append(entry(key), started(key))
    await log.durable()
    assert [made.key for made in await files.store.journal(record.id)] == ["b"]
    await files.close()


async def _done(commit):
    await commit
