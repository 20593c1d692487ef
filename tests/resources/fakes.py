"""Limits that note what is reported to them, and grant as a test says."""

from __future__ import annotations

import threading

from offramp.ports.limits import Done, Granted, Refused, Waits


class FakeLimits:
    """Grants as many permits at a time as it has room for; `refuses` are the next answers instead."""

    def __init__(self, room=1_000):
        self.room = room
        self.asks = []
        self.reported = []
        """`(what, permit, value)` of all calls but the asks, in order."""
        self.refuses: list[Refused] = []
        self._open = {}
        self._waiting = {}
        self._lock = threading.RLock()

    def start(self):
        """There is nothing to connect to."""

    def ask(self, ask, notify):
        with self._lock:
            self.asks.append(ask)
            if self.refuses:
                notify(self.refuses.pop(0))
            elif len(self._open) < self.room:
                self._open[ask.id] = ask
                notify(Granted(ask.tokens or ask.tokens_max or 0))
            elif self._open and set(self._open) <= set(ask.within):
                notify(Refused("deadlock", f"{ask.resource}: would wait for itself"))
            else:
                self._waiting[ask.id] = ask, notify
                notify(Waits("concurrency", len(self._waiting) - 1, 1.0))

    def _leave(self, permit_id):
        self._open.pop(permit_id, None)
        self._waiting.pop(permit_id, None)
        while self._waiting and len(self._open) < self.room:
            first = next(iter(self._waiting))
            ask, notify = self._waiting.pop(first)
            self._open[first] = ask
            notify(Granted())

    def withdraw(self, permit_id):
        with self._lock:
            self.reported.append(("withdraw", permit_id, None))
            self._leave(permit_id)

    def written(self, permit_id):
        self.reported.append(("written", permit_id, None))

    def slow(self, permit_id):
        self.reported.append(("slow", permit_id, None))

    def done(self, permit_id, done):
        with self._lock:
            self.reported.append(("done", permit_id, done))
            self._leave(permit_id)

    def give(self, room):
        """From now on there is room for as many."""
        with self._lock:
            self.room = room
            self._leave("")

    @property
    def in_use(self):
        return len(self._open)

    @property
    def waiting(self):
        return len(self._waiting)

    @property
    def dones(self) -> list[Done]:
        return [value for what, _, value in self.reported if what == "done"]

    def what(self):
        """What was reported, by name."""
        return [what for what, _, _ in self.reported]
