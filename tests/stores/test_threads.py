"""The threads that read: what one tenant may hold of them, and in which order those that wait have their turn."""

from __future__ import annotations

import asyncio
import threading

import pytest

from offramp.errors import StoreError
from offramp.ports import readers
from offramp.stores.threads import Readers, read_on
from tests.support import GUARD_S


class Held:
    """Reads that end when they are told to, and the order in which they began."""

    def __init__(self, threads, **options):
        self.readers = Readers(threads, **options)
        self.began = []
        self._gates = {}
        self._changed = threading.Condition()

    def ask(self, tenant, name):
        """Have a tenant read; the answer is its name."""
        token = readers.tenant.set(tenant)
        self._gates[name] = threading.Event()
        try:
            return self.readers.submit(self._read, name)
        finally:
            readers.tenant.reset(token)

    def _read(self, name):
        with self._changed:
            self.began.append(name)
            self._changed.notify_all()
        assert self._gates[name].wait(GUARD_S)
        return name

    def until(self, *names):
        with self._changed:
            assert self._changed.wait_for(lambda: set(names) <= set(self.began), GUARD_S), self.began

    def end(self, *names):
        for name in names:
            self._gates[name].set()

    def close(self):
        self.end(*self._gates)
        self.readers.shutdown()


@pytest.fixture
def four():
    held = Held(4, share=0.5)
    yield held
    held.close()


def test_a_tenant_holds_no_more_than_its_share(four):
    answers = [four.ask("a", f"a{n}") for n in range(5)]
    four.until("a0", "a1")
    four.ask("b", "b0")
    four.ask(None, "own")
    four.until("b0", "own")
    assert four.began[:2] == ["a0", "a1"]
    assert len(four.began) == 4, "a third read of one tenant began"
    four.end("a0")
    assert answers[0].result(GUARD_S) == "a0"
    four.until("a2")


def test_those_that_wait_take_turns_and_the_service_goes_first(four):
    for n in range(2):
        four.ask("a", f"a{n}")
        four.ask("b", f"b{n}")
    four.until("a0", "a1", "b0", "b1")
    for n in (2, 3):
        four.ask("a", f"a{n}")
    four.ask("c", "c0")
    four.ask(None, "own")
    four.end("b0")
    four.until("own")
    four.end("b1")
    four.until("c0")
    four.end("a0")
    four.until("a2")
    assert four.began[4:] == ["own", "c0", "a2"]


def test_the_service_itself_may_hold_every_thread(four):
    for n in range(4):
        four.ask(None, f"own{n}")
    four.until("own0", "own1", "own2", "own3")


@pytest.mark.parametrize(("share", "threads"), [(0.1, 1), (0.5, 2), (1.0, 4)])
def test_a_share_is_at_least_one_thread(share, threads):
    held = Held(4, share=share)
    try:
        for n in range(4):
            held.ask("a", f"a{n}")
        held.until(*(f"a{n}" for n in range(threads)))
        held.ask(None, "own")
        if threads < 4:
            held.until("own")
        assert len([name for name in held.began if name != "own"]) == threads
    finally:
        held.close()


def test_what_was_given_up_is_not_read(four):
    for n in range(2):
        four.ask("a", f"a{n}")
    four.until("a0", "a1")
    gone = four.ask("a", "gone")
    four.ask("a", "a2")
    assert gone.cancel()
    four.end("a0")
    four.until("a2")
    assert "gone" not in four.began


def test_a_failure_is_the_answer_and_frees_the_thread():
    made = Readers(1)
    with pytest.raises(ZeroDivisionError):
        made.submit(lambda number: 1 // number, 0).result(GUARD_S)
    assert made.submit(lambda number: number, 1).result(GUARD_S) == 1
    made.shutdown()


async def test_the_end_waits_for_what_was_taken_and_refuses_the_rest():
    held = Held(1)
    answers = [held.ask("a", "a0"), held.ask("b", "b0")]
    ending = asyncio.ensure_future(asyncio.to_thread(held.readers.shutdown))
    held.until("a0")
    held.end("a0", "b0")
    await ending
    assert [answer.result() for answer in answers] == ["a0", "b0"]
    with pytest.raises(StoreError, match="closed"):
        await read_on(held.readers, lambda name: name, "late")
