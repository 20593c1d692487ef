"""The outbox port in memory, beside the memory store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec

from offramp.core.events import TERMINAL
from offramp.core.run import RunRecord
from offramp.core.webhooks import Progress, target_of
from offramp.ports.outbox import CANDIDATES_MAX, Pending, Room


class _Entry(msgspec.Struct):
    """One run's webhook; `due_at` is None while there is nothing to announce."""

    host: str
    events: frozenset[str]
    token: int = 0
    latest: int = 0
    due_at: float | None = None
    progress: Progress = Progress()


class MemoryOutbox:
    """Entries in a dictionary; see the port."""

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        """What may have to be announced, by run."""
        self._listeners: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    # Calls of the store.

    def add(self, record: RunRecord) -> None:
        """A run was created."""
        if record.webhook is not None:
            entry = _Entry(target_of(record.webhook.url).host, TERMINAL | set(record.webhook.events))
            with self._lock:
                self.entries[record.id] = entry

    def note(self, run_id: str, seq: int, event: str) -> None:
        """An event became visible."""
        with self._lock:
            entry = self.entries.get(run_id)
            if entry is None or event not in entry.events:
                return
            entry.latest = seq
            if entry.due_at is None:
                entry.due_at = 0.0
        for listener in self._listeners:
            listener()

    def holds(self, run_id: str) -> bool:
        """Whether an announcement of the run may be pending."""
        return run_id in self.entries

    def drop(self, run_id: str) -> None:
        """The run was purged."""
        with self._lock:
            self.entries.pop(run_id, None)

    # The port.

    async def claim(self, room: Room, now: float, until: float) -> Sequence[Pending]:
        """Take due entries."""
        full = room.full()
        with self._lock:
            waiting = [
                (entry.due_at, run_id, entry.host)
                for run_id, entry in self.entries.items()
                if entry.due_at is not None and entry.due_at <= now and entry.host not in full
            ]
            due = [(run_id, host) for _, run_id, host in sorted(waiting)[:CANDIDATES_MAX]]
            return [self._take(run_id, until) for run_id in room.choose(due)]

    def _take(self, run_id: str, until: float) -> Pending:
        entry = self.entries[run_id]
        entry.token, entry.due_at = entry.token + 1, until
        return Pending(run_id, entry.host, entry.token, entry.latest, entry.progress)

    async def settle(self, pending: Pending, progress: Progress) -> bool:
        """Give an entry back."""
        with self._lock:
            entry = self.entries.get(pending.run_id)
            if entry is None or entry.token != pending.token:
                return False
            if progress.done:
                del self.entries[pending.run_id]
                return True
            entry.progress = progress._replace(due_at=None)
            more = 0.0 if entry.latest > progress.cursor else None
            entry.due_at = more if progress.due_at is None else progress.due_at
            return True

    def listen(self, listener: Callable[[], object]) -> None:
        """Call back when an entry became due."""
        self._listeners.append(listener)
