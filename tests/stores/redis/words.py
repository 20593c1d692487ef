"""Short words for what these tests do with a store."""

from __future__ import annotations

import msgspec

from offramp.core import events
from offramp.core.journal import Entry
from offramp.core.run import Outcome
from tests.support import NOW, a_record, accepted, drafted

DONE = Outcome("completed", b'"done"')


def entry(n):
    return Entry(f"work:{n}:0", "work", "step", str(n).encode())


def started(n):
    return drafted(events.StepStarted("work", f"work:{n}:0", 1))


def delta(text):
    return drafted(events.StepDelta("work", "work:0:0", 1, msgspec.Raw(msgspec.json.encode(text))))


def ended():
    return drafted(events.RunCompleted(msgspec.Raw(b'"done"')))


def create(opened, *, by="a", key=None, **changes):
    """A run that is asked for: its record, the commit, and its log."""
    if by is None:
        changes = {"status": "queued"} | changes
    record = a_record(**changes)
    commit, log = opened.store.create(record, accepted(record), owner=by, durable=True, idempotency=key)
    return record, commit, log


async def created(opened, **changes):
    record, commit, log = create(opened, **changes)
    assert (await commit).existing is None
    return record, log


async def numbers(opened, run):
    found = []
    while part := await opened.store.events(run.id, found[-1] if found else 0):
        found += [frame.seq for frame in part]
    return found


async def keys_of(opened, run):
    return [made.key for made in await opened.store.journal(run.id)]


async def claim(opened, by, limit=1, now=NOW):
    return list(await opened.leases.claim(by, limit, ["research"], now))


def names_in(server, opened, pattern="*"):
    """The keys of a store, without its tag and its writers' memory."""
    tag = opened.address.tag
    with server.client() as client:
        found = [key.decode().removeprefix(tag) for key in client.scan_iter(tag + pattern, count=1000)]
    return {name for name in found if not name.startswith("writer:")}
