"""Clocks with one bug each."""

from __future__ import annotations

from offramp.testing import FakeClock
from tests.conformance.broken.marks import breaks


@breaks("C1")
class OneTime(FakeClock):
    """Monotonic until somebody sets the time."""

    def set_wall(self, epoch):
        self._elapsed += epoch - self.time()


@breaks("C1")
class Hiccup(FakeClock):
    """Goes back once."""

    _calls = 0

    def monotonic(self):
        self._calls += 1
        return super().monotonic() - (self._calls == 60)


@breaks("C2")
class Early(FakeClock):
    """Calls before the time."""

    def call_at(self, when, callback):
        return super().call_at(when - 0.01, callback)


@breaks("C2")
class Twice(FakeClock):
    """Calls, and calls again."""

    def call_at(self, when, callback):
        super().call_at(when + 0.001, callback)
        return super().call_at(when, callback)


class _Uncancelled:
    def cancel(self):
        """To no effect."""


@breaks("C2")
class Stubborn(FakeClock):
    """What is cancelled is called nevertheless."""

    def call_at(self, when, callback):
        super().call_at(when, callback)
        return _Uncancelled()


@breaks("C2")
class Inline(FakeClock):
    """What is past is called by who asks."""

    def call_at(self, when, callback):
        if when < self.monotonic():
            callback()
            return _Uncancelled()
        return super().call_at(when, callback)


@breaks("C2")
class FirstCome(FakeClock):
    """Called in the order in which they were asked for."""

    def call_at(self, when, callback):
        self._last = max(when, getattr(self, "_last", when))
        return super().call_at(self._last, callback)


@breaks("C2")
class Single(FakeClock):
    """A timer that is set by a timer is forgotten."""

    _calling = False

    def call_at(self, when, callback):
        if self._calling:
            return _Uncancelled()

        def call():
            self._calling = True
            callback()
            self._calling = False

        return super().call_at(when, call)


@breaks("C3")
class Inclusive(FakeClock):
    """Sometimes 1."""

    def random(self):
        return round(super().random(), 1)


@breaks("C3")
class Repeating(FakeClock):
    """The same bytes now and then."""

    def random_bytes(self, count):
        return (super().random_bytes(1) * count)[:count]
