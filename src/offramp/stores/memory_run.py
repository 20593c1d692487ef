"""All that the store in memory keeps of one run, and who may write it."""

from __future__ import annotations

from offramp.core.events import Frame
from offramp.core.journal import Entry
from offramp.core.run import RunRecord
from offramp.ports.store import ENGINE, ENTRUSTED_GRACE_S, Lease


class MemoryRun:
    """All that is kept of one run."""

    def __init__(self, record: RunRecord, owner: str | None) -> None:
        self.record = record
        self.owner = owner
        self.token = 1
        self.entries: list[Entry] = []
        self.frames: list[Frame] = []
        self.signals: list[tuple[str, bytes]] = []
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
