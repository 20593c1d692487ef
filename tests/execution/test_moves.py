"""One function changes the state of an executing run: one of several racing callers wins, and the observer hears."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from offramp.core.critical import union
from offramp.core.run import Outcome
from offramp.execution import stills
from offramp.execution.gate import Gate
from offramp.execution.observer import Observer
from offramp.execution.stills import Stills
from offramp.ports.store import Parked
from offramp.testing import FakeClock

THREADS = 8


class Seen(Observer):
    def __init__(self):
        self.states = []
        self.gate = Gate(SimpleNamespace(cancelled=False), None, FakeClock(), observer=self)

    def changed(self):
        self.states.append(self.gate.state)


@pytest.mark.parametrize("moves", [["leave"], ["end"], ["park", "end"]])
def test_one_of_many_that_move_at_once_wins(moves):
    seen, together = Seen(), threading.Barrier(THREADS)

    def move(number):
        together.wait()
        return seen.gate.move(moves[number % len(moves)])

    with ThreadPoolExecutor(THREADS) as threads:
        won = list(threads.map(move, range(THREADS)))
    assert sum(won) == 1
    assert seen.states == [seen.gate.state]


def test_the_observer_hears_of_moves_that_were_made_and_of_no_other():
    seen = Seen()
    made = [seen.gate.move(move) for move in ("detach", "leave", "leave", "park", "detach", "end", "drop", "drop")]
    assert made == [False, True, False, False, True, False, True, False]
    assert seen.states == ["leaving", "detached", "gone"]


def test_a_run_is_given_back_when_its_step_in_flight_has_ended():
    gate = Seen().gate
    gate.in_flight["work:0"] = object()
    gate.move("leave")
    assert not gate.move("give_back")
    del gate.in_flight["work:0"]
    assert gate.move("give_back", Parked(7.0, 2))
    assert gate.move("drop")
    assert gate.rest == Parked(7.0, 2)


def test_a_run_ends_from_outside_once_and_not_after_its_outcome():
    gate, cancelled, expired = Seen().gate, Outcome("cancelled"), Outcome("expired")
    assert gate.end_from_outside(cancelled, replays=False)
    assert not gate.end_from_outside(expired, replays=False)
    assert gate.ending.outcome == cancelled
    ended = Seen().gate
    ended.move("end")
    assert not ended.end_from_outside(cancelled, replays=False)
    assert ended.ending.outcome is None


def test_what_a_move_asks_for_comes_before_the_observer_hears_of_it():
    seen = Seen()
    assert seen.gate.move("leave", then=lambda: seen.states.append("noted"))
    assert not seen.gate.move("leave", then=lambda: seen.states.append("noted again"))
    assert seen.states == ["noted", "leaving"]


def test_the_last_step_in_flight_of_a_run_that_stays_leaves_it_at_rest():
    seen = Seen()
    first, second = (SimpleNamespace(key=key, live=True) for key in ("a", "b"))
    seen.gate.in_flight.update(a=first, b=second)
    assert [seen.gate.leave(first), seen.gate.leave(second)] == [False, True]
    assert not first.live
    assert seen.states == []


def test_the_observer_hears_of_each_step_that_ends_in_a_run_that_leaves():
    seen = Seen()
    attempt = seen.gate.in_flight["a"] = SimpleNamespace(key="a", live=True)
    seen.gate.move("leave")
    assert not seen.gate.leave(attempt)
    assert seen.states == ["leaving", "leaving"]


def test_many_waits_that_do_not_touch_are_merged_at_most_a_few_times(monkeypatch):
    clock, merged = FakeClock(), []
    waits = Stills(clock)
    monkeypatch.setattr(stills, "union", lambda intervals: merged.append(1) or union(intervals))

    def wait():
        with waits.during():
            clock.advance(1.0)

    for _ in range(3 * stills.STILLS_MAX):
        wait()
        clock.advance(1.0)
    assert len(merged) == 1
    assert len(waits.until(0.0)) == stills.STILLS_MAX


def test_many_waits_at_once_are_remembered_as_one():
    clock = FakeClock()
    waits = Stills(clock)
    for _ in range(3 * stills.STILLS_MAX):
        with waits.during():
            clock.advance(1.0)
    total = union(waits.until(clock.monotonic()))
    assert [stop - start for start, stop in total] == [3.0 * stills.STILLS_MAX]
