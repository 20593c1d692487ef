"""The limits' state machine in this process, on the clock of a test."""

from __future__ import annotations

import threading

from offramp.core.limits.book import Book
from offramp.ports.limits import Waits

OWN = "here"


class Booked:
    """Every method takes the lock; answers are given outside of it."""

    def __init__(self, app, clock):
        self._book = Book([resource.spec for resource in app.resources.values()], app.classes)
        self._clock = clock
        self._lock = threading.RLock()
        self._asked = {}

    def _do(self, method, *given):
        with self._lock:
            tells = getattr(self._book, method)(self._clock.monotonic(), *given)
            answers = [
                (self._asked[tell.id] if isinstance(tell.answer, Waits) else self._asked.pop(tell.id), tell.answer)
                for tell in tells
                if tell.id in self._asked
            ]
            due = self._book.due()
        if due is not None:
            self._clock.call_at(due, lambda: self._do("pass_to"))
        for notify, answer in answers:
            notify(answer)

    def ask(self, ask, notify):
        with self._lock:
            self._asked[ask.id] = notify
        self._do("ask", OWN, ask)

    def withdraw(self, permit_id):
        with self._lock:
            self._asked.pop(permit_id, None)
        self._do("withdraw", OWN, permit_id)

    def written(self, permit_id):
        self._do("written", OWN, permit_id)

    def slow(self, permit_id):
        self._do("slow", OWN, permit_id)

    def done(self, permit_id, done):
        self._do("done", OWN, permit_id, done)

    def lift(self, run_id, sla, priority):
        self._do("lift", run_id, sla, priority)

    def watch(self, notify):
        notify(self._book.levels(self._clock.monotonic()))

    def level(self, name):
        with self._lock:
            return next(each for each in self._book.levels(self._clock.monotonic()) if each.name == name)

    def close(self):
        pass
