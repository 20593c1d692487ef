"""What a replay knows by itself: recorded calls, calls begun before, a body that never asks for the rest."""

from __future__ import annotations

import asyncio

import pytest

from offramp.core.events import StepState
from offramp.core.journal import DUE, TIMER, Entry
from offramp.execution.endings import ExecutionOver
from offramp.execution.history import History
from offramp.execution.replay import Replay
from offramp.execution.turns import Turns
from offramp.testing import FakeClock


def entry(key, name="a", **fields):
    return Entry(key, name, "step", b"1", **fields)


def replay_of(*entries, clock=None, **history):
    replay = Replay(History(entries, **history), clock or FakeClock())
    replay.result_order.turns = Turns(asyncio.get_running_loop())
    return replay


async def test_a_new_run_repeats_nothing_and_waits_for_nothing():
    replay = replay_of()
    assert not (replay.repeats)
    assert not (replay.began_before)
    assert not (replay.is_under_way)
    assert replay.began_at is None
    await replay.complete("calls step 'a'")


async def test_a_run_that_was_taken_up_without_a_record_may_have_been_called_before():
    assert replay_of(resumed=True).began_before


async def test_due_times_of_timers_are_no_calls_that_the_body_has_to_make():
    key = f"{TIMER}:sleep:0"
    replay = replay_of(Entry(f"{key}:due", DUE, "value", b"12.5", started_at=3.0), entry("a:1:0", started_at=4.0))
    assert replay.dues == {key: 12.5}
    assert [each.key for each in replay.journal.entries] == ["a:1:0"]
    assert replay.began_at == 3.0


async def test_a_replay_is_complete_once_the_body_has_asked_for_everything():
    replay = replay_of(entry("a:1:0"), entry("b:1:0", "b"))
    new = asyncio.ensure_future(replay.complete("calls step 'c'", "c:1:0"))
    for key in ("a:1:0", "b:1:0"):
        assert replay.repeats
        assert not new.done()
        replay.journal.ask(key)
        await replay.turn(key)
    await new
    assert not (replay.repeats)
    assert not (replay.is_under_way)


async def test_a_body_that_never_asks_for_a_record_diverges_and_makes_no_other_call(monkeypatch):
    monkeypatch.setattr("offramp.execution.replay.DIVERGENCE_GRACE_S", 0.0)
    monkeypatch.setattr("offramp.execution.replay.LOOK_EVERY_S", 0.0)
    clock = FakeClock()
    replay = replay_of(entry("a:1:0"), clock=clock)
    with pytest.raises(ExecutionOver):
        await replay.complete("calls step 'b'", "b:1:0")
    assert "'a'" in replay.diverged
    assert "calls step 'b'" in replay.diverged
    with pytest.raises(ExecutionOver):
        await replay.complete("calls step 'c'", "c:1:0")


async def test_a_run_repeats_until_the_body_has_made_the_calls_that_were_begun():
    begun = {key: StepState("a", key, "running", 1, "2026-01-01T00:00:00Z") for key in ("a:1:0", "a:2:0")}
    replay = replay_of(interrupted=begun, waiting=frozenset({"offramp.sleep:1:0"}))
    for key in ("a:2:0", "offramp.sleep:1:0"):
        replay.reached(key)
        assert replay.repeats
    replay.reached("a:1:0")
    assert not replay.repeats
    assert replay.interrupted == begun


async def test_a_new_call_shows_that_the_body_makes_none_of_those_that_were_begun():
    replay = replay_of(waiting=frozenset({"offramp.sleep:1:0"}))
    replay.reached("a:1:0")
    assert not replay.repeats


async def test_a_later_record_does_not_pass_an_earlier_one():
    replay = replay_of(entry("a:1:0"), entry("b:1:0", "b"))
    assert not replay.passes("b:1:0")
    assert replay.passes("a:1:0")
    assert replay.passes("b:1:0")
