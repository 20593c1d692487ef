"""That a request was written is said with the process's next message, or soon after; nothing else waits."""

from __future__ import annotations

import asyncio
import os

import pytest

from offramp.limits import address, link, wire
from offramp.limits.client import SocketLimits
from offramp.limits.wire import Frames, FromClient, frame
from offramp.ports.limits import Ask, Done, Granted
from offramp.testing import FakeClock
from tests.limits.processes import NAME, THREE, Answers
from tests.support import GUARD_S, eventually


class Coordinator:
    """Grants all, and keeps what one process says, by the reads in which it came."""

    def __init__(self, folder):
        self._folder = folder
        self._messages = asyncio.Queue()

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(self._serve, sock=address.listen(self._folder))
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        frames = Frames(FromClient)
        while data := await reader.read(65536):
            for message in frames.feed(data):
                if isinstance(message, wire.Hello):
                    writer.write(frame(wire.Welcome(wire.VERSION, os.getpid(), False)))
                elif isinstance(message, wire.Ping):
                    writer.write(frame(wire.Pong()))
                elif isinstance(message, wire.Asking):
                    writer.write(frame(wire.Answered(message.ask.id, Granted())))
                elif isinstance(message, (wire.Written, wire.Withdrawn, wire.Over)):
                    self._messages.put_nowait(message)
        writer.close()

    async def next(self):
        async with asyncio.timeout(GUARD_S):
            return await self._messages.get()


@pytest.fixture
async def served(tmp_path):
    """The limits of a process that has two permits, its coordinator, and its clock."""
    clock = FakeClock()
    async with Coordinator(address.open_folder(tmp_path)) as coordinator:
        limits = SocketLimits(tmp_path, THREE, {}, clock, 0.0)
        limits.start()
        await eventually(lambda: limits.pid is not None)
        for name in ("one", "two"):
            answers = Answers(name)
            limits.ask(Ask(id=name, resource=NAME), answers)
            await answers.grant()
        yield limits, coordinator, clock
        await asyncio.to_thread(limits.close)


@pytest.fixture
def late(monkeypatch):
    """Nothing is said by itself."""
    monkeypatch.setattr(link, "LATER_S", 10 * GUARD_S)


@pytest.mark.usefixtures("late")
async def test_it_goes_with_the_end_of_any_call_and_says_how_long_ago_it_was(served):
    limits, coordinator, clock = served
    limits.written("one")
    clock.advance(2.0)
    limits.written("two")
    clock.advance(0.5)
    limits.done("two", Done())
    assert [await coordinator.next() for _ in range(3)] == [
        wire.Written("one", 2.5),
        wire.Written("two", 0.5),
        wire.Over("two", Done()),
    ]


@pytest.mark.usefixtures("late")
async def test_what_is_given_back_goes_at_once(served):
    limits, coordinator, _clock = served
    limits.withdraw("one")
    assert await coordinator.next() == wire.Withdrawn("one")
    limits.done("two", Done())
    assert await coordinator.next() == wire.Over("two", Done())


async def test_it_is_said_soon_where_nothing_else_is(served):
    limits, coordinator, _clock = served
    limits.written("one")
    assert await coordinator.next() == wire.Written("one", 0.0)
    limits.written("two")
    assert await coordinator.next() == wire.Written("two", 0.0)
