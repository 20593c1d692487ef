"""How long runs are expected to take: learned here, and from the processes that share the store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import App
from offramp.core.routing import WEIGHT, Observed
from offramp.errors import StoreError
from offramp.paths import upkeep
from offramp.paths.durations import Durations
from offramp.paths.submission import Submission
from tests.support import eventually, frames_of, member

seconds = st.floats(0.001, 10_000)


@given(seconds, st.lists(seconds, min_size=1, max_size=50))
def test_runs_that_are_told_of_together_count_as_much_as_one_by_one(before, took):
    together, average = Observed("pipe", 0.0, 0.0), before
    for each in took:
        together = together.and_run(each)
        average += WEIGHT * (each - average)
    assert together.moved(before) == pytest.approx(average)
    assert 0 < together.share <= 1


def test_what_was_not_told_yet_counts_on_top_of_what_is_learned():
    durations = Durations()
    assert durations.expected_s("pipe", 6.0) == 6.0
    durations.observe("pipe", 10.0)
    assert durations.expected_s("pipe", 6.0) == pytest.approx(10.0)
    (told,) = durations.take_observed()
    assert told == pytest.approx(("pipe", WEIGHT, 10.0))
    durations.observe("pipe", 30.0)
    durations.learned({"pipe": 20.0, "other": 1.0})
    assert durations.expected_s("pipe", 6.0) == pytest.approx(21.0)
    assert durations.expected_s("other", 6.0) == 1.0
    assert durations.take_observed() == [pytest.approx(("pipe", WEIGHT, 30.0))]
    assert durations.take_observed() == []


def app():
    made = App("short")

    @made.pipeline(budget=60)
    async def pipe() -> str:
        return "done"

    return made


async def test_a_gateway_learns_of_runs_that_ended_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "LEARN_EVERY_S", 0.01)
    async with member(app(), tmp_path, "gateway") as gateway, member(app(), tmp_path, "worker"):
        run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
        await frames_of(gateway, run)
        await eventually(lambda: gateway.live.durations.expected_s("pipe", 99.0) < 99.0)
    async with member(app(), tmp_path, "gateway") as later:
        await eventually(lambda: later.live.durations.expected_s("pipe", 99.0) < 99.0)


async def test_what_was_observed_last_is_told_when_a_process_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "LEARN_EVERY_S", 60.0)
    async with member(app(), tmp_path, "gateway") as gateway:
        await frames_of(gateway, (await gateway.submit(Submission(pipeline="pipe"))).record.id)
    async with member(app(), tmp_path, "gateway") as later:
        await eventually(lambda: later.live.durations.expected_s("pipe", 99.0) < 99.0)


async def test_a_store_that_refuses_is_asked_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(upkeep, "LEARN_EVERY_S", 0.01)
    async with member(app(), tmp_path, "gateway") as gateway:
        store, refused = gateway.process.store, []

        async def refuse(observed):
            refused.append(observed)
            raise StoreError("the disk is full")

        with monkeypatch.context() as failing:
            failing.setattr(store, "learn", refuse)
            await eventually(lambda: len(refused) > 2)
        assert "the durations of runs were not shared: the disk is full" in caplog.text
        await frames_of(gateway, (await gateway.submit(Submission(pipeline="pipe"))).record.id)

        async def is_known():
            return "pipe" in await store.learn([])

        await eventually(is_known)
