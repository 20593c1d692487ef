"""What a coordinator does with a connection that says what it should not: it ends, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from offramp.core.limits.memory import Memory
from offramp.core.limits.spec import RESOURCES_MAX, ResourceSpec
from offramp.limits import address, wire
from offramp.limits.wire import Frames, FromCoordinator, frame
from offramp.ports.limits import Ask
from tests.limits.processes import NAME, ONE
from tests.support import GUARD_S, eventually

HELLO = wire.Hello(wire.VERSION, "stranger", os.getpid(), 0.0, (), ())


class Raw:
    """A connection that sends what it is given."""

    def __init__(self, folder):
        self._folder = folder

    async def __aenter__(self):
        connected = address.connect(self._folder)
        self.reader, self.writer = await asyncio.open_connection(sock=connected)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    def send(self, *messages):
        self.writer.write(b"".join(each if isinstance(each, bytes) else frame(each) for each in messages))

    async def receive(self):
        """All messages until it is disconnected."""
        frames, messages = Frames(FromCoordinator), []
        async with asyncio.timeout(GUARD_S):
            try:
                while data := await self.reader.read(65536):
                    messages += frames.feed(data)
            except ConnectionResetError:
                pass
        return messages


@pytest.mark.parametrize(
    "words",
    [
        [b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"],
        [wire.Asking(Ask(id="1", resource=NAME))],
        [HELLO, wire.Asking(Ask(id="1", resource=NAME))],
        [HELLO, HELLO],
        [wire.Recalled(Memory())],
        [HELLO, wire.Recalled(Memory()), (1 << 31).to_bytes(4, "big")],
        [HELLO, wire.Recalled(Memory()), wire.Recalled(Memory())],
    ],
)
async def test_one_that_says_what_it_should_not_is_disconnected_alone(place, words):
    limits = place.join(ONE)
    pid = await place.connected(limits)
    async with Raw(place.folder) as raw:
        raw.send(*words)
        assert all(isinstance(each, wire.Welcome) for each in await raw.receive())
    await place.ask(limits).grant()
    assert limits.pid == pid


async def test_one_of_another_version_learns_so(place):
    await place.connected(place.join(ONE))
    async with Raw(place.folder) as raw:
        raw.send(wire.Hello(wire.VERSION + 1, "newer", os.getpid(), 0.0, (), ()))
        (welcome,) = await raw.receive()
    assert welcome.version == wire.VERSION


async def test_too_many_resources_are_refused(place):
    limits = place.join(ONE)
    await place.connected(limits)
    many = tuple(ResourceSpec(f"r{number}") for number in range(RESOURCES_MAX + 1))
    async with Raw(place.folder) as raw:
        raw.send(wire.Hello(wire.VERSION, "many", os.getpid(), 0.0, many, ()))
        assert await raw.receive() == []
    assert [level.name for level in await limits.levels()] == [NAME]
    later = place.join((ResourceSpec("later", concurrency=1), *ONE))
    assert {level.name for level in await later.levels()} == {NAME, "later"}


async def test_one_that_dies_in_the_middle_of_a_message_harms_nothing(place):
    limits = place.join(ONE)
    await place.connected(limits)
    async with Raw(place.folder) as raw:
        raw.send(HELLO, wire.Recalled(Memory()), frame(wire.Asking(Ask(id="1", resource=NAME)))[:-3])
    await place.ask(limits).grant()


async def test_what_one_asked_for_ends_with_it(place):
    limits = place.join(ONE)
    await place.connected(limits)
    asked = None
    async with Raw(place.folder) as raw:
        raw.send(HELLO, wire.Recalled(Memory()), wire.Asking(Ask(id="1", resource=NAME)))
        frames = Frames(FromCoordinator)
        messages = []
        async with asyncio.timeout(GUARD_S):
            while len(messages) < 2:
                messages += frames.feed(await raw.reader.read(65536))
        asked = place.ask(limits)
        await eventually(lambda: asked.all)
        assert not asked.granted
    await asked.grant()


async def test_another_user_is_refused(monkeypatch):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert address.is_own(ours)
        own = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: own + 1)
        assert not address.is_own(ours)
