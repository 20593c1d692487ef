"""What the supervisor is asked at each look: enough workers, and only idle ones to leave."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from offramp.cli import scaler as module
from offramp.cli.scaler import Scaler
from offramp.core.scaling import Sight, Span
from offramp.paths.crew import Look


class Workers:
    """A supervisor that starts and stops at once."""

    def __init__(self, count):
        self.owners = [f"w{number}" for number in range(count)]
        self.count = count

    def scale(self, count, idle):
        leave = [owner for owner in self.owners if owner in idle][: max(0, len(self.owners) - count)]
        self.owners = [owner for owner in self.owners if owner not in leave]
        self.owners += [f"w{number}" for number in range(len(self.owners), count)]
        self.count = len(self.owners)


@pytest.fixture
def looking(monkeypatch):
    """Looks at workers, a second apart, and tells the number afterwards."""
    now = SimpleNamespace(at=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.at))

    def of(count, span, idle_s=1.5):
        workers, told = Workers(count), []
        scaler = Scaler(workers, span, idle_s, told.append)

        def look(needed, busy):
            now.at += 1.0
            scaler.look(Look(Sight(0, 0, 0, len(busy)), needed, busy))
            return workers.count

        return look, told

    return of


def test_only_a_worker_that_was_idle_twice_leaves(looking):
    look, told = looking(2, Span(1, 3))
    assert look(1, {"w0": 1, "w1": 0}) == 2, "too early"
    assert look(1, {"w0": 0, "w1": 1}) == 2, "w1 took a run, and what w0 says may be late"
    assert look(1, {"w0": 1, "w1": None}) == 2, "nothing is known of w1"
    assert look(1, {"w0": 1, "w1": 0}) == 2
    assert look(1, {"w0": 1, "w1": 0}) == 1
    assert told == [1]


def test_what_other_workers_carry_is_left_to_them(looking, caplog):
    caplog.set_level("INFO", "offramp")
    look, told = looking(1, Span(1, 8))
    others = {"by hand": 2, "other gateway": 2}
    assert look(3, {"w0": 2, **others}) == 1
    assert look(4, {"w0": 2, **others}) == 2
    assert told == [2]
    assert "workers: 2 instead of 1 (1..8): 0 runs waited without room" in caplog.text
