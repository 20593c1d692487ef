"""Toy limits for tests of what uses them: so many permits of each resource, given by hand or as they come back."""

from __future__ import annotations

import threading

import msgspec

from offramp.core.spec import uses_of
from offramp.ports.limits import Granted, Limits, Refused, Waits
from tests.support import Signal


def uses(step, *names):
    """Have a declared step use these resources."""
    msgspec.structs.force_setattr(step.spec.policy, "uses", uses_of(names))
    return step


class Toy(Limits):
    """Grants `free[resource]` permits in the order of class, then id; from any thread, outside of its lock."""

    def __init__(self, expected_s=None, reason="concurrency", **free):
        self.free = dict(free)
        self.expected_s = expected_s
        self.reason = reason
        self.refuses = None
        self.asked = []
        self.held = {}
        self.waiting = {}
        self.withdrawn = []
        self.dones = []
        self.lifted = []
        self.waits = Signal()
        self.idle = Signal()
        self.most = 0
        self.granted = lambda ask: None
        self._lock = threading.RLock()

    def ask(self, ask, notify):
        with self._lock:
            self.asked.append(ask)
            if self.refuses is not None:
                answer = self.refuses
            elif self.free[ask.resource] and not any(a.resource == ask.resource for a, _ in self.waiting.values()):
                self.free[ask.resource] -= 1
                self.held[ask.id] = ask
                self.most = max(self.most, len(self.held))
                answer = Granted()
            elif not ask.queues:
                answer = Refused("busy", "no place", 1.0)
            else:
                answer = Waits(self.reason, len(self.waiting), self.expected_s)
                self.waiting[ask.id] = ask, notify
        notify(answer)
        if isinstance(answer, Waits):
            self.waits.set()

    def again(self, expected_s, reason=None):
        """The waits look different now."""
        with self._lock:
            self.expected_s, self.reason = expected_s, reason or self.reason
            waiting = list(self.waiting.values())
        for number, (_, notify) in enumerate(waiting):
            notify(Waits(self.reason, number, expected_s))

    def refuse(self, answer):
        """All that waits is refused."""
        with self._lock:
            waiting, self.waiting = self.waiting, {}
        for _, notify in waiting.values():
            notify(answer)

    def grant(self, resource, count=1):
        """More permits."""
        with self._lock:
            self.free[resource] += count
            given = self._give(resource)
        for notify in given:
            notify(Granted())

    def _give(self, resource):
        given = []
        while self.free[resource]:
            mine = [each for each in self.waiting.values() if each[0].resource == resource]
            if not mine:
                break
            ask, notify = min(mine, key=lambda each: (-each[0].priority, each[0].id))
            del self.waiting[ask.id]
            self.free[resource] -= 1
            self.held[ask.id] = ask
            self.most = max(self.most, len(self.held))
            self.granted(ask)
            given.append(notify)
        return given

    def _end(self, permit_id):
        given = []
        with self._lock:
            self.waiting.pop(permit_id, None)
            ask = self.held.pop(permit_id, None)
            if ask is not None:
                self.free[ask.resource] += 1
                given = self._give(ask.resource)
            if not self.held and not self.waiting:
                self.idle.set()
        for notify in given:
            notify(Granted())

    def withdraw(self, permit_id):
        self.withdrawn.append(permit_id)
        self._end(permit_id)

    def done(self, permit_id, done):
        self.dones.append((permit_id, done.how))
        self._end(permit_id)

    def written(self, permit_id):
        assert permit_id in self.held

    def slow(self, permit_id):
        pass

    def lift(self, run_id, sla, priority):
        self.lifted.append((run_id, sla, priority))

    def watch(self, notify):
        pass

    async def levels(self):
        return []

    def close(self):
        self.refuse(Refused("closed", "it stops"))

    @property
    def in_use(self):
        return len(self.held)
