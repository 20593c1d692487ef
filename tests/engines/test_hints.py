"""The obligations of hints, over UDP and over Redis; those that only one of both has to care about are below."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading

import msgspec
import pytest

from offramp.engines.leased.hints import UDPHints
from offramp.ports.hints import IDS_MAX
from offramp.ports.store import Owner
from offramp.stores.redis.address import Address
from tests import valkey
from tests.support import GUARD_S, eventually

needs_redis = pytest.mark.skipif(valkey.missing() is not None, reason=valkey.missing() or "")
names = (f"member{number}" for number in itertools.count())


class Member:
    """A process that writes down what it hears; `kind` as in `Owner`."""

    def __init__(self, hints, kind):
        self.hints, self.kind = hints, kind
        self.received, self.missed_count = [], 0

    def hinted(self, kind, ids):
        self.received.append((kind, list(ids)))

    def missed(self):
        self.missed_count += 1

    def heard_of(self, kind):
        return [run_id for told, ids in self.received if told == kind for run_id in ids]


class Place:
    """Processes that can hear each other."""

    def __init__(self, make):
        self._make = make
        self.members = []

    async def join(self, kind="gateway"):
        member = Member(self._make(), kind)
        await member.hints.open(member)
        self.members.append(member)
        owners = [Owner(next(names), one.kind, one.hints.port, True, 0.0, 0.0) for one in self.members]
        for one in self.members:
            one.hints.peers(owners)
        await eventually(lambda: member.missed_count or member.hints.port)
        return member


def udp():
    return UDPHints


def redis():
    from offramp.stores.redis.hints import RedisHints

    address = Address.parse(valkey.server().url())
    return lambda: RedisHints(address, next(names))


@contextlib.asynccontextmanager
async def opened(make):
    place = Place(make)
    try:
        yield place
    finally:
        for member in place.members:
            await member.hints.close()


@pytest.fixture(params=[udp, pytest.param(redis, marks=needs_redis)])
async def place(request):
    async with opened(request.param()) as made:
        yield made


async def followed(member, run_id):
    """Follow, until it has had its effect."""
    member.hints.follow(run_id)
    if member.hints.port == 0:
        await eventually(lambda: run_id in member.heard_of("events"))
        member.received.clear()


async def test_h3_every_other_process_hears(place):
    sender, gateway, worker = await place.join(), await place.join(), await place.join("worker")
    for kind, ids in (("work", []), ("cancel", ["run_1"]), ("signal", ["run_2", "run_3"]), ("webhooks", [])):
        sender.hints.send(kind, ids)
        await eventually(lambda kind=kind, ids=ids: (kind, ids) in gateway.received and (kind, ids) in worker.received)


async def test_h3_who_follows_a_run_hears_of_its_events(place):
    worker, gateway = await place.join("worker"), await place.join()
    await followed(gateway, "run_1")
    worker.hints.send("events", ["run_1"])
    await eventually(lambda: gateway.heard_of("events") == ["run_1"])


async def test_h3_a_process_without_readers_hears_of_no_events(place):
    sender, worker = await place.join(), await place.join("worker")
    sender.hints.send("events", ["run_1"])
    sender.hints.send("cancel", ["run_1"])  # in order: what came before it would be heard first
    await eventually(lambda: worker.received)
    assert [kind for kind, _ in worker.received] == ["cancel"]


async def test_h4_nobody_hears_itself(place):
    sender, other = await place.join(), await place.join()
    await followed(sender, "run_1")
    sender.hints.send("events", ["run_1"])
    sender.hints.send("work")
    other.hints.send("work")
    await eventually(lambda: sender.received)
    assert sender.received == [("work", [])]


async def test_h2_from_any_thread(place):
    sender, receiver = await place.join(), await place.join()
    thread = threading.Thread(target=sender.hints.send, args=("cancel", ["run_1"]))
    thread.start()
    await eventually(lambda: receiver.heard_of("cancel") == ["run_1"])
    thread.join()


async def test_more_ids_than_fit_into_one_hint_all_arrive(place):
    sender, receiver = await place.join(), await place.join()
    runs = [f"run_{n}" for n in range(2 * IDS_MAX + 1)]
    sender.hints.send("cancel", runs)
    await eventually(lambda: sorted(receiver.heard_of("cancel")) == sorted(runs))
    assert [len(ids) for _, ids in receiver.received] == [IDS_MAX, IDS_MAX, 1]


async def test_a_hint_to_nobody_before_the_beginning_or_after_the_end_is_no_error(place):
    alone = await place.join()
    alone.hints.send("work")
    unopened = place._make()
    unopened.send("events", ["run_1"])
    await alone.hints.close()
    alone.hints.send("work")
    alone.hints.follow("run_1")
    alone.hints.unfollow("run_1")
    await unopened.close()


async def test_what_is_not_a_hint_is_not_heard_over_udp():
    async with opened(UDPHints) as place:
        sender, receiver = await place.join(), await place.join()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for noise in (b"", b"\xff" * 10, b"hello", msgspec.msgpack.encode(["nonsense", []])):
                stranger.sendto(noise, ("127.0.0.1", receiver.hints.port))
        sender.hints.send("work")
        await eventually(lambda: receiver.received)
        assert receiver.received == [("work", [])]


# Redis.


class Shared:
    """A server with processes that share a prefix."""

    def __init__(self, server):
        self.server = server
        self.address = Address.parse(server.url())

    def make(self):
        from offramp.stores.redis.hints import RedisHints

        return RedisHints(self.address, next(names))

    def subscribers(self):
        """The connections that are subscribed to something of ours, with how many channels."""
        with self.server.client() as client:
            mine = {channel.decode() for channel in client.pubsub_channels(f"{self.address.tag}*")}
            return mine, [int(one["sub"]) for one in client.client_list() if int(one["sub"])]


@pytest.fixture
def shared(tmp_path):
    made = valkey.Server(tmp_path, "--appendonly", "no")
    try:
        yield Shared(made)
    finally:
        made.kill()


@needs_redis
async def test_h5_a_followed_run_is_told_of_once_it_is_subscribed_to(shared):
    async with opened(shared.make) as place:
        gateway = await place.join()
        gateway.hints.follow("run_1")
        await eventually(lambda: gateway.received == [("events", ["run_1"])])
        assert shared.subscribers()[1] == [2]


@needs_redis
async def test_one_connection_follows_however_many_runs(shared):
    async with opened(shared.make) as place:
        gateway, other = await place.join(), await place.join()
        runs = [f"run_{n}" for n in range(2_500)]
        for run_id in runs:
            gateway.hints.follow(run_id)
        await eventually(lambda: sorted(gateway.heard_of("events")) == sorted(runs))
        assert sorted(shared.subscribers()[1]) == [1, 2_501]
        for run_id in runs[1:]:
            gateway.hints.unfollow(run_id)
        await eventually(lambda: sorted(shared.subscribers()[1]) == [1, 2])
        gateway.received.clear()
        other.hints.send("events", runs)
        await eventually(lambda: gateway.received)
        assert gateway.received == [("events", ["run_0"])]


@needs_redis
async def test_who_comes_and_goes_at_once_is_never_subscribed(shared):
    async with opened(shared.make) as place:
        gateway = await place.join()
        for number in range(100):
            gateway.hints.follow(f"run_{number}")
            gateway.hints.unfollow(f"run_{number}")
        gateway.hints.follow("run_last")
        await eventually(lambda: gateway.received)
        assert gateway.received == [("events", ["run_last"])]


@needs_redis
async def test_after_a_restart_of_the_server_everything_is_looked_at_and_heard_again(shared, caplog, monkeypatch):
    from offramp.stores.redis import hints

    attempts = []
    pool = hints.ConnectionPool.get_connection
    monkeypatch.setattr(hints.ConnectionPool, "get_connection", lambda self: attempts.append(self) or pool(self))
    async with opened(shared.make) as place:
        gateway, worker = await place.join(), await place.join("worker")
        await followed(gateway, "run_1")
        shared.server.kill()
        gateway.hints.follow("run_2")
        gateway.hints.unfollow("run_1")
        worker.hints.send("work")  # lost, and no error
        tried = len(attempts)
        await eventually(lambda: len(attempts) > tried + 6)  # of which no more is said
        shared.server.start()
        await eventually(lambda: gateway.missed_count == worker.missed_count == 2)
        assert caplog.text.count("trying again") == 2, "once in each process"
        worker.hints.send("events", ["run_1", "run_2"])
        await eventually(lambda: gateway.heard_of("events"))
        assert gateway.heard_of("events") == ["run_2"]


@needs_redis
async def test_a_connection_that_is_cut_is_replaced(shared):
    async with opened(shared.make) as place:
        gateway, worker = await place.join(), await place.join("worker")
        await followed(gateway, "run_1")
        with shared.server.client() as client:
            client.client_kill_filter(_type="pubsub")
        await eventually(lambda: gateway.missed_count == 2)
        worker.hints.send("events", ["run_1"])
        await eventually(lambda: gateway.heard_of("events") == ["run_1"])


@needs_redis
async def test_a_server_that_is_silent_is_given_up(monkeypatch):
    """Its connection stays open, as behind a firewall that forgot it."""
    from offramp.stores.redis import hints

    monkeypatch.setattr(hints, "PING_EVERY_S", 0.05)
    connected = []
    enough = asyncio.Event()

    async def answer_until_subscribed(reader, writer):
        connected.append(writer)
        silent = False
        while data := await reader.read(65_536):
            silent = silent or b"SUBSCRIBE" in data
            if not silent:
                writer.write(b"+PONG\r\n" if b"PING" in data else b"+OK\r\n" * data.count(b"*"))
            elif len(connected) > 1:
                enough.set()

    server = await asyncio.start_server(answer_until_subscribed, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = hints.RedisHints(Address.parse(f"redis://127.0.0.1:{port}/0"), "me")
    await made.open(Member(made, "gateway"))
    try:
        await asyncio.wait_for(enough.wait(), GUARD_S)
    finally:
        await made.close()
        server.close()
        for writer in connected:
            writer.close()


@needs_redis
async def test_what_is_not_a_hint_is_not_heard_over_redis(shared):
    from offramp.stores.redis.hints import HINT_BYTES_MAX

    async with opened(shared.make) as place:
        sender, receiver = await place.join(), await place.join()
        huge = msgspec.msgpack.encode(["x" * HINT_BYTES_MAX, "work", []])
        with shared.server.client() as client:
            for noise in (b"", b"\xff" * 10, msgspec.msgpack.encode(["other", "nonsense", []]), huge):
                client.publish(shared.address.key_of("hints"), noise)
        sender.hints.send("work")
        await eventually(lambda: receiver.received)
        assert receiver.received == [("work", [])]


@needs_redis
async def test_what_waits_to_be_sent_is_bounded(shared, monkeypatch):
    from offramp.stores.redis import hints

    monkeypatch.setattr(hints, "PENDING_MAX", 3)
    async with opened(shared.make) as place:
        receiver = await place.join()
        sender = Member(shared.make(), "worker")
        sender.hints.send("cancel", [f"run_{n}" for n in range(5)])
        await sender.hints.open(sender)
        place.members.append(sender)
        await eventually(lambda: receiver.heard_of("cancel"))
        assert receiver.heard_of("cancel") == ["run_0", "run_1", "run_2"]
