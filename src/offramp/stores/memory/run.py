"""All that the store in memory keeps of one run, and who may write it."""

from __future__ import annotations

import msgspec

from offramp.core.claims import LeftBy, Suspicion
from offramp.core.events import RESULT_INLINE_BYTES_MAX, Frame
from offramp.core.journal import Entry
from offramp.core.run import RunRecord
from offramp.ports.listing import Page, RunFilter
from offramp.ports.outbox import UNDELIVERED_KEPT_S
from offramp.ports.store import ENGINE, ENTRUSTED_GRACE_S, Claim, Lease


class MemoryRun:
    """The record, who holds it, and its logs."""

    def __init__(self, record: RunRecord, owner: str | None) -> None:
        self.record = record
        self.owner = owner
        self.token = 1
        self.entries: list[Entry] = []
        self.frames: list[Frame] = []
        self.signals: list[tuple[str, bytes]] = []
        self.signal_keys: dict[str, int] = {}
        """Which of them came with a key."""
        self.parked_until: float | None = None
        self.turns: dict[str, tuple[int, bool]] = {}
        self.unheard = 0

    def held(self, lease: Lease) -> bool:
        newest = self.turns.get(lease.step, (0, False))[0]
        return self.owner == lease.owner and self.token == lease.token and newest <= lease.turn

    def may_write(self, lease: Lease) -> bool:
        return not self.turns.get(lease.step, (0, False))[1]

    def lets_pass(self, now: float) -> bool:
        """Whether an engine does not end it though its deadline has passed."""
        deadline = self.record.deadline_at
        return self.owner == ENGINE and deadline is not None and deadline <= now - ENTRUSTED_GRACE_S

    def queue(self, left_by: LeftBy = "wait") -> None:
        """Leave it to whoever takes it next."""
        self.owner = self.parked_until = None
        self.record = msgspec.structs.replace(self.record, status="queued", left_by=left_by)

    def suspect(self, suspicion: Suspicion) -> None:
        """Note what is known of the processes that died with it."""
        deaths, alone, silent, company = suspicion
        self.record = msgspec.structs.replace(
            self.record, deaths=deaths, deaths_alone=alone, deaths_silent=silent, company=company
        )

    def take(self, owner: str, now: float) -> Claim:
        """Give it to an owner."""
        fresh = self.record.started_at is None
        self.owner, self.token, self.parked_until = owner, self.token + 1, None
        self.record = msgspec.structs.replace(
            self.record, status="running", path="deep", started_at=self.record.started_at or now
        )
        return Claim(msgspec.structs.replace(self.record), Lease(self.record.id, owner, self.token), fresh)

    def is_due(self, now: float, *, announces: bool) -> bool:
        """Whether it is past its retention; what a webhook is still to announce is kept longer."""
        record = self.record
        kept_s = record.retention_s + (UNDELIVERED_KEPT_S if announces else 0.0)
        return record.finished_at is not None and record.finished_at + kept_s <= now and not record.purged

    def empty(self) -> None:
        """Remove its data."""
        self.record = msgspec.structs.replace(self.record, purged=True, result=None, input=b"{}", webhook=None)
        self.entries, self.frames, self.signals, self.signal_keys = [], [], [], {}

    def beyond(self, seq: int) -> bool:
        """Whether a reader that has the events up to `seq` has to look: there are more, or no more to come."""
        return self.record.finished or len(self.frames) > seq


def listed(record: RunRecord) -> RunRecord:
    """A copy as listings show it, without a large result."""
    small = record.result is not None and len(record.result) <= RESULT_INLINE_BYTES_MAX
    return msgspec.structs.replace(record, result=record.result if small else None)


def paged(newest: list[RunRecord], wanted: RunFilter) -> Page:
    """The page of a listing, from all records, newest first."""
    asked = {name: getattr(wanted, name) for name in ("tenant", "session_id", "status", "pipeline")}
    matching = [
        record
        for record in newest
        if (wanted.after is None or record.id < wanted.after)
        and all(value is None or getattr(record, name) == value for name, value in asked.items())
    ]
    page = [listed(record) for record in matching[: wanted.limit]]
    return Page(page, page[-1].id if len(matching) > wanted.limit else None)
