"""When a run is at rest: what it waits for, seen beside its steps, its results and its last changes."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

import pytest

from offramp.execution.gate import Gate
from offramp.execution.observer import Observer
from offramp.execution.turns import SETTLE_TURNS, ResultOrder, Turns
from offramp.execution.waiting import Mailbox
from offramp.execution.waits import Waits
from offramp.ports.store import Parked
from offramp.testing import FakeClock


class Seen(Observer):
    def __init__(self):
        self.calls = []

    def changed(self):
        self.calls.append("changed")

    def rests(self):
        self.calls.append("rests")


class Run:
    """The waits of a run that has received one signal, beside its gate and its results."""

    def __init__(self):
        self.seen = Seen()
        self.gate = Gate(SimpleNamespace(cancelled=False), None, FakeClock(), observer=self.seen)
        self.order = ResultOrder(0)
        self.waits = Waits(self.gate, self.order, Mailbox([("go", b"1")]))

    def enters(self, key="work:0"):
        attempt = SimpleNamespace(key=key, live=True)
        self.gate.in_flight[key] = attempt
        return attempt


def test_a_run_waits_until_the_first_of_its_waits_ends():
    waits = Run().waits
    assert waits.until() is None
    with waits.to(None):
        assert waits.until() == math.inf
        with waits.to(7.0), waits.to(9.0):
            assert waits.until() == 7.0
        assert waits.until() == math.inf
    assert waits.until() is None


def test_a_wait_whose_signal_has_come_is_over_until_the_body_has_seen_it():
    waits = Run().waits
    with waits.to(9.0) as came:
        came()
        assert waits.until() == 0.0


def test_a_bound_ends_waits_and_is_none_by_itself():
    waits = Run().waits
    bound = waits.begin(5.0, bounds=True)
    assert waits.until() is None
    sleep = waits.begin(9.0, bounds=False)
    assert waits.until() == 5.0
    waits.end(bound)
    assert waits.until() == 9.0
    waits.end(sleep)
    assert waits.until() is None


@pytest.mark.parametrize("state", ["running", "leaving"])
def test_the_observer_hears_of_a_rest_and_of_none_while_a_step_is_in_flight(state):
    run = Run()
    if state == "leaving":
        run.gate.move("leave")
    attempt = run.enters()
    run.seen.calls.clear()
    with run.waits.to(9.0):
        assert run.seen.calls == []
        assert run.waits.until() is None
        assert run.gate.leave(attempt) == (state == "running")
        run.waits.look()
        assert set(run.seen.calls) == {"rests" if state == "running" else "changed"}


def test_a_run_whose_step_waits_for_a_thread_is_not_at_rest():
    run = Run()
    with run.waits.to(9.0):
        with run.gate.queued():
            assert run.waits.until() is None
        assert run.waits.until() == 9.0


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_rest_is_reported_after_the_body_had_time_to_see_its_last_result():
    run, rests = Run(), []
    run.order.turns = Turns(asyncio.get_running_loop())
    with run.waits.to(9.0):
        run.waits.at_rest(8.0, rests.append)
        await turns(SETTLE_TURNS - 1)
        assert rests == []
        await turns(2)
    assert rests == [Parked(9.0, 1)]


async def test_a_change_while_the_body_is_watched_puts_its_rest_off():
    run, rests = Run(), []
    run.order.turns = Turns(asyncio.get_running_loop())
    with run.waits.to(9.0):
        run.waits.at_rest(8.0, rests.append)
        await turns(SETTLE_TURNS - 1)
        run.waits.look()
        await turns(2)
        assert rests == []
        await turns(SETTLE_TURNS)
    assert rests == [Parked(9.0, 1)]


async def test_no_rest_is_reported_for_a_wait_that_ends_too_early_or_a_run_that_continues():
    run, rests = Run(), []
    run.order.turns = Turns(asyncio.get_running_loop())
    with run.waits.to(9.0):
        run.waits.at_rest(9.0, rests.append)
        await turns(2 * SETTLE_TURNS)
        run.waits.at_rest(8.0, rests.append)
        run.enters()
        await turns(2 * SETTLE_TURNS)
    assert rests == []
