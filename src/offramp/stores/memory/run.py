"""One run in the memory store; the table of ownership decides its moves."""

from __future__ import annotations

import msgspec

from offramp.core import ownership
from offramp.core.claims import Suspicion
from offramp.core.events import RESULT_INLINE_BYTES_MAX, Frame
from offramp.core.journal import Entry
from offramp.core.ownership import NOT_BEGUN, Ownership, StepTurn
from offramp.core.run import RunHead, RunRecord
from offramp.core.waits import BITS, Change, WaitState
from offramp.ports.listing import Page, RunFilter
from offramp.ports.outbox import UNDELIVERED_KEPT_S
from offramp.ports.store import Claim, Lease
from offramp.stores.memory.queue import MemoryQueue


class MemoryRun:
    """The record, its owner, and its logs."""

    def __init__(self, record: RunRecord, owner: str | None, queue: MemoryQueue) -> None:
        self.record = record
        self._queue = queue
        self.owner = owner
        self.token = 1
        self.entries: list[Entry] = []
        self.frames: list[Frame] = []
        self.signals: list[tuple[str, bytes]] = []
        self.signal_keys: dict[str, int] = {}
        """The places of the signals with a key."""
        self.parked_until: float | None = None
        self.turns: dict[str, StepTurn] = {}
        self.notices = 0
        self._waits: set[tuple[WaitState, str]] = set()
        if record.status == "queued":
            queue.comes(record)

    @property
    def ownership(self) -> Ownership:
        """The facts that the table decides on."""
        record = self.record
        return Ownership(
            record.status,
            self.owner,
            self.token,
            record.path,
            record.started_at,
            self.parked_until,
            record.cancel_requested,
            record.left_by,
            self.notices,
            record.deadline_at,
        )

    @property
    def head(self) -> RunHead:
        """What changes of it."""
        record = self.record
        about = record.tenant, record.pipeline, record.sla, record.session_id, record.status, record.path
        ended = record.finished_at
        return RunHead(record.id, *about, ended, len(self.frames), record.demotion is not None)

    def move(self, moved: Ownership) -> None:
        """Apply the table's answer."""
        before = self.record
        self.owner, self.token, self.parked_until = moved.owner, moved.token, moved.parked_until
        self.notices, self.record = moved.notices, ownership.shown(before, moved)
        if before.status != moved.status:
            if moved.status == "queued":
                self._queue.comes(self.record)
            elif before.status == "queued":
                self._queue.leaves(before)

    def note_wait(self, change: Change) -> None:
        """Note that a wait begins or ends."""
        wait = change.wait, change.key
        (self._waits.add if change.begins else self._waits.discard)(wait)
        self._show_waits()

    def note_end(self) -> None:
        """Note that the run has ended, and waits for nothing."""
        self._waits.clear()
        self._show_waits()

    def _show_waits(self) -> None:
        mask = sum({BITS[wait] for wait, _ in self._waits})
        if mask != self.record.waits:
            self.record = msgspec.structs.replace(self.record, waits=mask)

    def held(self, lease: Lease) -> bool:
        """Whether the lease is current, and has the newest turn at its step."""
        is_newest = ownership.has_turn(self.turn(lease.step), lease.turn)
        return is_newest and ownership.holds(self.ownership, lease.owner, lease.token)

    def turn(self, step: str) -> StepTurn:
        """The newest turn at a step."""
        return self.turns.get(step, NOT_BEGUN)

    def suspect(self, suspicion: Suspicion) -> None:
        """Record the deaths of its processes."""
        deaths, alone, silent, company = suspicion
        self.record = msgspec.structs.replace(
            self.record, deaths=deaths, deaths_alone=alone, deaths_silent=silent, company=company
        )

    def give(self, moved: Ownership | None, *, fresh: bool) -> Claim | None:
        """Move it to the owner that the table chose; None if it chose none."""
        if moved is None or moved.owner is None:
            return None
        self.move(moved)
        lease = Lease(self.record.id, moved.owner, moved.token)
        return Claim(msgspec.structs.replace(self.record), lease, fresh)

    def claim(self, owner: str, now: float) -> Claim | None:
        """Give it to a process, if it is free."""
        run = self.ownership
        return self.give(ownership.claim(run, owner, now), fresh=ownership.is_fresh(run))

    def is_due(self, now: float, *, announces: bool) -> bool:
        """Whether its retention is over; a run with pending announcements stays longer."""
        record = self.record
        kept_s = record.retention_s + (UNDELIVERED_KEPT_S if announces else 0.0)
        return record.finished_at is not None and record.finished_at + kept_s <= now and not record.purged

    def empty(self) -> None:
        """Remove its data."""
        demotion = self.record.demotion
        self.record = msgspec.structs.replace(
            self.record,
            purged=True,
            result=None,
            input=b"{}",
            webhook=None,
            seen=None,
            route=self.record.route.without_data(),
            demotion=None if demotion is None else demotion.without_data(),
        )
        self.entries, self.frames, self.signals, self.signal_keys = [], [], [], {}

    def retried(self, by: str) -> None:
        """Note that another run retries it."""
        self.record = msgspec.structs.replace(self.record, retried_as=[*self.record.retried_as, by])

    def beyond(self, seq: int) -> bool:
        """Whether a reader that has the events up to `seq` must read: the run has more, or has ended."""
        return self.record.finished or len(self.frames) > seq


def listed(record: RunRecord) -> RunRecord:
    """A copy for listings, without a large result."""
    small = record.result is not None and len(record.result) <= RESULT_INLINE_BYTES_MAX
    return msgspec.structs.replace(record, result=record.result if small else None)


def paged(records: list[RunRecord], wanted: RunFilter) -> Page:
    """One page of a listing, from all records."""
    fitting = [record for record in records if wanted.fits(record)]
    matching = sorted(fitting, key=lambda record: record.id, reverse=wanted.newest_first)
    page = [listed(record) for record in matching[: wanted.limit]]
    return Page(page, page[-1].id if len(matching) > wanted.limit else None)
