"""What the store in memory keeps of one run. Locking is the store's."""

from __future__ import annotations

import msgspec

from offramp.core.events import RESULT_INLINE_BYTES_MAX, Frame
from offramp.core.journal import Entry
from offramp.core.run import RunRecord
from offramp.ports.store import Lease


class MemoryRun:
    """The record, who holds it, and its logs."""

    def __init__(self, record: RunRecord, owner: str | None) -> None:
        self.record = record
        self.owner = owner
        self.token = 1
        self.entries: list[Entry] = []
        self.frames: list[Frame] = []
        self.signals: list[tuple[str, bytes]] = []
        self.parked_until: float | None = None

    def held(self, lease: Lease) -> bool:
        """Whether this lease is the current one."""
        return self.owner == lease.owner and self.token == lease.token

    def beyond(self, seq: int) -> bool:
        """Whether a reader that has the events up to `seq` has to look: there are more, or no more to come."""
        return self.record.finished or len(self.frames) > seq


def listed(record: RunRecord) -> RunRecord:
    """A copy as listings show it, without a large result."""
    small = record.result is not None and len(record.result) <= RESULT_INLINE_BYTES_MAX
    return msgspec.structs.replace(record, result=record.result if small else None)
