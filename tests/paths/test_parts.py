"""Parts of a process, and duties that one process has for all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from offramp import App, testing
from offramp.paths.parts import Single
from offramp.ports.parts import Part
from offramp.stores.memory import MemoryStore
from offramp.testing import FakeClock


class Noted(Part):
    def __init__(self, name, notes):
        self.name = name
        self.notes = notes

    async def start(self):
        self.notes.append(("start", self.name))

    async def drain(self):
        self.notes.append(("drain", self.name))

    async def close(self):
        self.notes.append(("close", self.name))


async def test_parts_start_in_order_drain_and_close_in_the_reverse_order():
    notes = []
    async with testing.runtime(App("parts")) as runtime:
        parts = [Noted(name, notes) for name in "abc"]
        runtime.service.parts += parts
        for part in parts:
            await part.start()
        await runtime.service.drain()
    assert notes[:6] == [(what, name) for what in ("start", "drain") for name in "abc"]
    assert notes[6:9] == [("close", name) for name in "cba"]
    assert not [what for what, _ in notes[6:] if what == "drain"], "it drains once"


@pytest.fixture
def candidates():
    clock = FakeClock()
    store = MemoryStore()
    return clock, [Single(SimpleNamespace(id=name, store=store, clock=clock), "sweep") for name in ("one", "two")]


async def test_one_process_holds_a_duty_until_it_gives_it_up(candidates):
    _, (one, two) = candidates
    assert (await one.is_mine(), await two.is_mine()) == (True, False)
    await one.give_up()
    assert (await two.is_mine(), await one.is_mine()) == (True, False)


async def test_a_holder_that_asks_keeps_its_duty(candidates):
    clock, (one, two) = candidates
    for _ in range(10):
        assert (await one.is_mine(), await two.is_mine()) == (True, False)
        clock.advance(14.0)


async def test_the_duty_of_a_killed_process_is_free_when_its_time_is_over(candidates):
    clock, (one, two) = candidates
    assert await one.is_mine()
    clock.advance(29.0)
    assert not await two.is_mine()
    clock.advance(2.0)
    assert (await two.is_mine(), await one.is_mine()) == (True, False)
