"""What the supervisor is asked at each look: enough workers, and only idle ones to leave."""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace

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

        def look(needed, busy, starting=MappingProxyType({})):
            now.at += 1.0
            scaler.look(Look(Sight(0, 0, 0, len(busy)), needed, busy, starting))
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


def test_workers_that_another_process_starts_are_not_started_here_too(looking):
    look, _ = looking(1, Span(1, 8))
    warm = {"w0": 2, "other gateway": 2}
    assert look(4, warm, {"b": 2}) == 1
    assert look(5, warm, {"b": 2}) == 2


def test_a_worker_that_does_not_start_counts_for_others_no_longer_than_it_should_take(monkeypatch):
    now = SimpleNamespace(at=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.at))
    scaler = Scaler(Workers(1), Span(1, 2), 60.0, lambda _: None)
    said = []
    for now.at in (1.0, 9.0, 12.0):
        scaler.look(Look(Sight(0, 0, 0, 1), 2, {"w0": 2}))
        said.append(scaler.starting)
    assert said == [1, 1, 0]


@pytest.mark.parametrize("gateways", [1, 2, 4])
def test_gateways_that_see_the_same_shortage_share_it(gateways, monkeypatch):
    """Each looks at what the others said a second before, and all workers are warm three seconds after their start."""
    now = SimpleNamespace(at=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.at))
    crews = [Workers(1) for _ in range(gateways)]
    scalers = [Scaler(crew, Span(1, 64), 60.0, lambda _: None) for crew in crews]
    warm = [1] * gateways
    for second in range(1, 40):
        now.at = float(second)
        said = [scaler.starting for scaler in scalers]
        for own, scaler in enumerate(scalers):
            busy = dict.fromkeys(crews[own].owners[: warm[own]], 2)
            busy |= {f"{other}-{n}": 2 for other in range(gateways) if other != own for n in range(warm[other])}
            starting = {str(other): said[other] for other in range(gateways) if other != own}
            scaler.look(Look(Sight(0, 0, 0, sum(warm)), 12, busy, starting))
        if second % 3 == 0:
            warm = [crew.count for crew in crews]
    assert 12 <= sum(crew.count for crew in crews) < 12 + gateways
