"""Outboxes with one bug each, beside a store in memory."""

from __future__ import annotations

import itertools

from offramp.core.events import TERMINAL
from offramp.ports.outbox import CANDIDATES_MAX, UNDELIVERED_KEPT_S, Room
from offramp.stores.memory import MemoryStore
from offramp.stores.memory.outbox import MemoryOutbox
from tests.conformance.broken.marks import breaks


class _Broken(MemoryStore):
    """`make` makes the outbox."""

    make = MemoryOutbox

    def __init__(self):
        super().__init__()
        self.outbox = self.make()


class _Late(MemoryOutbox):
    def __init__(self):
        super().__init__()
        self._waiting = {}

    def add(self, record):
        self._waiting[record.id] = record

    def note(self, run_id, seq, event):
        if run_id in self._waiting:
            super().add(self._waiting.pop(run_id))
        else:
            super().note(run_id, seq, event)


@breaks("W1")
class LateEntry(_Broken):
    """An entry comes a moment after its run."""

    make = _Late


@breaks("W1")
class EntryWithoutRun(_Broken):
    """A run that was not created is announced."""

    def create(self, record, event, **options):
        if record.id not in self._runs:
            self.outbox.add(record)
            self.outbox.note(record.id, 1, event.type)
        return super().create(record, event, **options)


class _DeafToTheEnd(MemoryOutbox):
    def add(self, record):
        super().add(record)
        if record.webhook is not None:
            self.entries[record.id].events = frozenset(record.webhook.events)


@breaks("W2")
class DeafToTheEnd(_Broken):
    """An end that was not asked for leaves the entry without limit."""

    make = _DeafToTheEnd


class _Busy(MemoryOutbox):
    def note(self, run_id, seq, event):
        entry = self.entries.get(run_id)
        if entry is None or not entry.due_at or event in TERMINAL:
            super().note(run_id, seq, event)


@breaks("W2")
class LostMeanwhile(_Broken):
    """What happens while a message is sent is not announced."""

    make = _Busy


class _Hasty(MemoryOutbox):
    def note(self, run_id, seq, event):
        super().note(run_id, seq, event)
        if run_id in self.entries and event in TERMINAL:
            self.entries[run_id].due_at = 0.0


@breaks("W2")
class Hurried(_Broken):
    """The end of a run is announced though its receiver asked for time."""

    make = _Hasty


class _Eager(MemoryOutbox):
    def note(self, run_id, seq, event):
        if run_id in self.entries and event == "step.started":
            event = "step.completed"
        super().note(run_id, seq, event)


@breaks("W2")
class Eager(_Broken):
    """What was not asked for makes an entry due."""

    make = _Eager


class _Silent(MemoryOutbox):
    def listen(self, listener):
        """No process is notified."""


@breaks("W2")
class Silent(_Broken):
    """No process learns that an entry is due."""

    make = _Silent


@breaks("W2")
class LeftBehind(_Broken):
    """A run that continues in another process is not announced."""

    async def release(self, lease, parked=None):
        self.outbox.drop(lease.run_id)
        await super().release(lease, parked)


class _TakesTwice(MemoryOutbox):
    def _take(self, run_id, until):
        return super()._take(run_id, until - 1)


@breaks("W3")
class EarlyEndOfAClaim(_Broken):
    """A claim runs out before its time."""

    make = _TakesTwice


class _Trusting(MemoryOutbox):
    async def settle(self, pending, progress):
        entry = self.entries.get(pending.run_id)
        return await super().settle(pending if entry is None else pending._replace(token=entry.token), progress)


@breaks("W3")
class StaleSettlement(_Broken):
    """A claim that ran out is settled."""

    make = _Trusting


class _SameToken(MemoryOutbox):
    def _take(self, run_id, until):
        pending = super()._take(run_id, until)
        self.entries[run_id].token = 1
        return pending._replace(token=1)


@breaks("W3")
class SameToken(_Broken):
    """The token does not grow."""

    make = _SameToken


@breaks("W5")
class PurgedUnannounced(_Broken):
    """A run's end is not announced if its retention is shorter than its receiver's absence."""

    async def purge(self, now, only=None):
        for run_id, entry in list(self.outbox.entries.items()):
            if entry.due_at is not None:
                self.outbox.drop(run_id)
        return await super().purge(now, only)


@breaks("W5")
class KeptForEver(_Broken):
    """Entries that no process takes stay without limit."""

    async def purge(self, now, only=None):
        held = any(self.outbox.holds(run_id) for run_id in self._runs)
        return await super().purge(now - UNDELIVERED_KEPT_S / 2 if held and now > 1_700_100_000.0 else now, only)


class _Greedy(MemoryOutbox):
    async def claim(self, room, now, until):
        return await super().claim(room._replace(total=max(1, room.total)), now, until)


@breaks("W6")
class OneTooMany(_Broken):
    """One is taken though there is no room."""

    make = _Greedy


class _Crowding(MemoryOutbox):
    async def claim(self, room, now, until):
        return await super().claim(Room(room.total, room.per_host + 1, room.busy), now, until)


@breaks("W6")
class Crowding(_Broken):
    """A host gets one more than its share."""

    make = _Crowding


class _FirstOnes(MemoryOutbox):
    async def claim(self, room, now, until):
        kept, self.entries = self.entries, dict(itertools.islice(self.entries.items(), CANDIDATES_MAX))
        claimed = await super().claim(room, now, until)
        self.entries = kept
        return claimed


@breaks("W6")
class HiddenHosts(_Broken):
    """Those that wait for a full host hide the others."""

    make = _FirstOnes
