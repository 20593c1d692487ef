"""Hints between the processes of many machines, by publish and subscribe in Redis.

Each run's events have a channel. A process subscribes to it while a client follows the run there and another process
executes it, so it receives only what its readers wait for, however many runs and gateways exist. All other hints share
one channel. One connection subscribes, one publishes. Nothing here reads or writes a key.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import msgspec
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from offramp.ports.commit import call_threadsafe
from offramp.ports.hints import IDS_MAX, Hearer, Kind
from offramp.ports.store import Owner
from offramp.stores.redis.address import Address
from offramp.stores.redis.connection import async_client, problem

logger = logging.getLogger("offramp")
T = TypeVar("T")

CLOSE_S_MAX = 5.0
"""Seconds that closing the connections may take: a process leaves all the same."""
PENDING_MAX = 20_000
"""Hints queued for sending, all sent together once earlier ones arrived; more are dropped."""
SETTLE_S = 0.005
"""Seconds for which followed runs are collected before subscribing: a reader that leaves sooner costs nothing."""
PING_EVERY_S = 5.0
"""The interval of PINGs; a connection whose server has not answered by the next one is closed."""
RETRY_BASE_S, RETRY_CAP_S = 0.05, 1.0
"""Seconds between attempts to subscribe again."""
HINT_BYTES_MAX = 64 * 1024
"""The limit of a received message."""

_PUBLISH = "for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end"
_READY = b"ready"


class _Hint(msgspec.Struct, array_like=True):
    sender: str
    kind: Kind
    ids: list[str] = []


_decode = msgspec.msgpack.Decoder(_Hint).decode


class RedisHints:
    """See the port.

    Args:
        address: of the server.
        own: this process's id, by which it recognises its own messages.
    """

    port = 0

    def __init__(self, address: Address, own: str) -> None:
        self._address = address
        self._own = own
        self._common = address.key_of("hints").encode()
        self._of_run = address.key_of("events", "").encode()
        self._hearer: Hearer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._lock = threading.Lock()
        self._pending: dict[tuple[Kind, str], None] = {}
        self._followed: dict[str, None] = {}
        self._changed: dict[str, None] = {}
        self._to_send = asyncio.Event()
        self._to_steer = asyncio.Event()
        self._received = 0

    async def open(self, hearer: Hearer) -> None:
        """Subscribe, as soon as the server is reachable."""
        self._hearer = hearer
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(task) for task in (self._keep_subscribed(), self._keep_publishing())]
        self._to_send.set()

    def peers(self, owners: Sequence[Owner]) -> None:
        """Does nothing: the server knows the subscribers."""

    def send(self, kind: Kind, ids: Sequence[str] = ()) -> None:
        """Queue it to be published with the others."""
        with self._lock:
            idle = not self._pending
            for run_id in ids or ("",):
                if len(self._pending) < PENDING_MAX:
                    self._pending[kind, run_id] = None
        if idle and self._loop is not None:
            call_threadsafe(self._loop, self._to_send.set)

    def follow(self, run_id: str) -> None:
        """Subscribe to the run's channel."""
        with self._lock:
            self._followed[run_id] = None
            self._change(run_id)

    def unfollow(self, run_id: str) -> None:
        """Unsubscribe from the run's channel."""
        with self._lock:
            self._followed.pop(run_id, None)
            self._change(run_id)

    def _change(self, run_id: str) -> None:
        idle = not self._changed
        self._changed[run_id] = None
        if idle and self._loop is not None:
            call_threadsafe(self._loop, self._to_steer.set)

    async def close(self) -> None:
        """Close both connections."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=CLOSE_S_MAX)
            if pending:
                logger.warning("hints are still open after %g s; leaving without them", CLOSE_S_MAX)

    # Subscribing.

    async def _keep_subscribed(self) -> None:
        """Receive hints until closed, over one connection after another."""
        client = async_client(self._address, retries=0)
        wait_s, logged = RETRY_BASE_S, False
        try:
            while True:
                received = self._received
                try:
                    await self._receive(client.connection_pool)
                except (RedisError, OSError) as error:
                    if not logged or self._received > received:  # once for each break
                        logger.warning("%s; trying again", problem(self._address, error))
                except Exception:  # after any error, this process must keep receiving
                    logger.exception("hints are not received; trying again")
                logged, wait_s = True, RETRY_BASE_S if self._received > received else min(2 * wait_s, RETRY_CAP_S)
                await asyncio.sleep(wait_s)
        finally:
            await client.aclose()

    async def _receive(self, pool: ConnectionPool) -> None:
        """Receive hints until the connection breaks."""
        connection: AbstractConnection = await pool.get_connection()  # type: ignore[no-untyped-call]
        tasks: list[asyncio.Task[None]] = []
        try:
            with self._lock:
                subscribed = set(self._followed)
                self._changed.clear()
            await _send(connection, "SUBSCRIBE", [self._common, *map(self._channel, subscribed)])
            await _send(connection, "PING", [_READY])  # from its answer on, no hint is missed
            parts = self._read(connection), self._steer(connection, subscribed), self._ping(connection)
            tasks = [asyncio.create_task(part) for part in parts]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await done.pop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connection.disconnect(nowait=True)
            await pool.release(connection)

    async def _read(self, connection: AbstractConnection) -> None:
        ready = False
        while True:
            received = await connection.read_response(disable_decoding=True, timeout=math.inf)
            self._received += 1
            if isinstance(received, RedisError):
                raise received
            kind, *rest = cast("list[Any]", received)
            if kind == b"message":
                self._message(rest[0], rest[1])
            elif kind == b"pong" and rest[0] == _READY:
                ready = True
                self._report_missed()
            elif kind == b"subscribe" and ready:
                self._report_events(rest[0])  # events may have come before that

    def _message(self, channel: bytes, data: bytes) -> None:
        if channel != self._common:
            if data != self._own.encode():
                self._report_events(channel)
            return
        if len(data) > HINT_BYTES_MAX:
            return
        try:
            hint = _decode(data)
        except msgspec.MsgspecError:
            return  # of a newer version, not for this one
        if hint.sender != self._own and self._hearer is not None:
            self._hearer.hinted(hint.kind, hint.ids[:IDS_MAX])

    def _report_events(self, channel: bytes) -> None:
        if self._hearer is not None and channel.startswith(self._of_run):
            self._hearer.hinted("events", [channel[len(self._of_run) :].decode(errors="replace")])

    def _report_missed(self) -> None:
        if self._hearer is not None:
            self._hearer.missed()

    async def _steer(self, connection: AbstractConnection, subscribed: set[str]) -> None:
        """Subscribe to the runs followed now, and unsubscribe from the others."""
        while True:
            await self._to_steer.wait()
            await asyncio.sleep(SETTLE_S)
            self._to_steer.clear()
            with self._lock:
                changed, self._changed = self._changed.keys(), {}
                wanted = {run_id for run_id in changed - subscribed if run_id in self._followed}
                left = {run_id for run_id in changed & subscribed if run_id not in self._followed}
            subscribed -= left
            subscribed |= wanted
            await _send(connection, "UNSUBSCRIBE", list(map(self._channel, left)))
            await _send(connection, "SUBSCRIBE", list(map(self._channel, wanted)))

    async def _ping(self, connection: AbstractConnection) -> None:
        while True:
            received = self._received
            await _send(connection, "PING", [b"still there"])
            await asyncio.sleep(PING_EVERY_S)
            if received == self._received:
                raise RedisTimeoutError("no answer to a PING")

    def _channel(self, run_id: str) -> bytes:
        return self._of_run + run_id.encode()

    # Publishing.

    async def _keep_publishing(self) -> None:
        client = async_client(self._address, retries=0)
        try:
            while True:
                await self._to_send.wait()
                self._to_send.clear()
                with self._lock:
                    pending, self._pending = self._pending, {}
                try:
                    for some in _parts(self._messages(pending)):
                        await client.eval(_PUBLISH, 0, *[word for pair in some for word in pair])
                except (RedisError, OSError) as error:  # the server is unavailable: processes that miss the hint poll
                    logger.debug("could not send hints: %s", error)
                    await asyncio.sleep(RETRY_BASE_S)
        finally:
            await client.aclose()

    def _messages(self, pending: Iterable[tuple[Kind, str]]) -> list[tuple[bytes, bytes]]:
        """Channels with their messages."""
        messages: list[tuple[bytes, bytes]] = []
        others: dict[Kind, list[str]] = {}
        for kind, run_id in pending:
            if kind == "events":
                messages.append((self._channel(run_id), self._own.encode()))
            else:
                others.setdefault(kind, []).extend([run_id] if run_id else [])
        for kind, run_ids in others.items():
            parts = _parts(run_ids) or [[]]
            hints = [_Hint(self._own, kind, list(part)) for part in parts]
            messages += [(self._common, msgspec.msgpack.encode(hint)) for hint in hints]
        return messages


async def _send(connection: AbstractConnection, command: str, words: Sequence[bytes]) -> None:
    for some in _parts(words):
        await connection.send_command(command, *some, check_health=False)  # that would take the reader's messages


def _parts(items: Sequence[T]) -> list[Sequence[T]]:
    """Split into pieces of at most `IDS_MAX`."""
    return [items[start : start + IDS_MAX] for start in range(0, len(items), IDS_MAX)]
