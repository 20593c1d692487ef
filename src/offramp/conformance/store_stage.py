"""The stage of a case of the store suite: a fresh store, its other processes, and short words for their actions."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from typing import Any

from offramp.conformance.case import until
from offramp.conformance.harness import StoreHarness, StoreInstance
from offramp.conformance.sample import NOW, PIPELINE, accepted, record_of
from offramp.core.events import Frame
from offramp.core.journal import Entry
from offramp.core.run import RunRecord
from offramp.errors import LeaseLost, NotSupported, SettingsError
from offramp.ports.listing import RunFilter
from offramp.ports.outbox import Outbox
from offramp.ports.store import Claim, Idempotency, Leases, RunLog, Store


class StoreStage:
    """One case's store; `store` and `leases` are those of its first process."""

    def __init__(self, harness: StoreHarness, instance: StoreInstance) -> None:
        self._harness = harness
        self._first = instance
        self._opened = [instance]
        self._numbers = itertools.count(1)
        self.store: Store = instance.store
        self.leases: Leases = instance.leases

    @property
    def outbox(self) -> Outbox:
        """The outbox of its first process."""
        return self._first.outbox

    @classmethod
    async def open(cls, harness: StoreHarness) -> StoreStage:
        """With fresh data."""
        return cls(harness, await harness.open())

    async def close(self) -> None:
        """Close every process, the first one last."""
        while self._opened:
            await self._opened.pop().close()

    async def peer(self) -> StoreInstance:
        """Another process; if only one is possible, the same one, which then acts for two owners."""
        return await self.reopen() if "shared" in self._harness.capabilities else self._first

    async def reopen(self) -> StoreInstance:
        """Another process at the same data."""
        self._opened.append(await self._harness.reopen(self._first))
        return self._opened[-1]

    async def crash(self) -> StoreInstance:
        """The process dies; another one opens the remaining data."""
        self._opened.append(await self._harness.crash(self._first))
        return self._opened[-1]

    async def end(self) -> StoreInstance:
        """The process stops in order; another one opens its data."""
        successor = await self.reopen()
        await self._first.store.close()
        return successor

    def record(self, **changes: Any) -> RunRecord:
        """A record that is not stored; each is younger than the one before."""
        return record_of(next(self._numbers), **changes)

    async def running(self, by: str = "a", **changes: Any) -> tuple[RunRecord, RunLog]:
        """A run that is leased to its creator."""
        record = self.record(**changes)
        commit, log = self.store.create(record, accepted(record), owner=by, durable=True)
        assert (await commit).existing is None, f"{record.id} is new, but was said to exist"
        assert log is not None, "a run that was created leased has no log"
        return record, log

    async def queued(self, **changes: Any) -> RunRecord:
        """A run that waits for an owner."""
        record = self.record(**({"status": "queued"} | changes))
        commit, log = self.store.create(record, accepted(record), owner=None, durable=True)
        assert (await commit).existing is None, f"{record.id} is new, but was said to exist"
        assert log is None, "a run that was created queued has a log"
        return record

    async def keyed(self, key: Idempotency, **changes: Any) -> tuple[RunRecord, str | None]:
        """Ask for a run with an idempotency key: the record, and which run holds the key already."""
        record = self.record(**changes)
        commit, _ = self.store.create(record, accepted(record), owner="a", durable=True, idempotency=key)
        return record, (await commit).existing

    async def stored(self, run: RunRecord) -> RunRecord:
        """The record as it is stored."""
        stored = await self.store.get(run.id)
        assert stored is not None, f"{run.id} is not there"
        return stored

    async def listed(self, **wanted: Any) -> list[str]:
        """The ids of a listing."""
        return [run.id for run in (await self.store.runs(RunFilter(**wanted))).runs]

    async def paged(self, **wanted: Any) -> list[str]:
        """The same, page by page to the end."""
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = await self.store.runs(RunFilter(**wanted, after=after or None))
            assert len(page.runs) <= wanted["limit"], "a page is longer than asked for"
            assert page.after != after, "a page ends where the one before did: a reader would never get to the end"
            found += [run.id for run in page.runs]
            after = page.after
        return found

    async def listed_record(self, run: RunRecord) -> RunRecord:
        """A record as a listing shows it."""
        [found] = [listed for listed in (await self.store.runs(RunFilter())).runs if listed.id == run.id]
        return found


async def frames_of(store: Store, run: RunRecord, after: int = 0, *, skip_deltas: bool = False) -> list[Frame]:
    """Every event above `after`, batch by batch."""
    found: list[Frame] = []
    while part := await store.events(run.id, after, skip_deltas=skip_deltas):
        assert part[-1].seq > after, f"reading after {after} gives {part[-1].seq}: a reader would never get to the end"
        found += part
        after = part[-1].seq
    return found


async def count_of(store: Store, run: RunRecord) -> int:
    """How many events a run has."""
    return len(await frames_of(store, run))


async def numbers_of(store: Store, run: RunRecord) -> list[int]:
    """The numbers of a run's events."""
    return [frame.seq for frame in await frames_of(store, run)]


async def journaled(store: Store, run: RunRecord, count: int) -> None:
    """Wait until so many entries are visible."""

    async def visible() -> bool:
        return len(await store.journal(run.id)) >= count

    await until(visible)


def names(entries: list[Entry]) -> list[str]:
    """The entries by their keys, for a message that can be read."""
    return [entry.key for entry in entries]


async def claimed(leases: Leases, by: str, limit: int = 10, now: float = NOW) -> list[Claim]:
    """Claim the suite's runs."""
    return list(await leases.claim(by, limit, [PIPELINE], now))


async def claimed_one(leases: Leases, by: str, now: float = NOW) -> Claim:
    """Claim the one run that there is to claim."""
    claims = await claimed(leases, by, now=now)
    assert len(claims) == 1, f"expected one run to claim, got {[claim.record.id for claim in claims]}"
    return claims[0]


async def refused(write: Awaitable[object], what: str) -> None:
    """A write under a lost lease has to raise `LeaseLost`."""
    try:
        await write
    except LeaseLost:
        return
    raise AssertionError(f"{what} was accepted without the lease")


async def unsupported(call: Awaitable[object], capability: str) -> None:
    """Use of a capability that is not declared has to raise `NotSupported` or `SettingsError`."""
    try:
        await call
    except (NotSupported, SettingsError):
        return
    raise AssertionError(f"{capability!r} is not declared, but its use raised neither NotSupported nor SettingsError")
