"""The coordinator's connections, and the book of all resources between them. On one loop, without user code.

It serves what processes ask, and after a takeover waits until those that its predecessor served have said what they
hold.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import msgspec

from offramp.core.limits import recovery
from offramp.core.limits.book import Book, Tell
from offramp.core.limits.memory import Called, Memory
from offramp.core.limits.spec import RESOURCES_MAX, ResourceSpec
from offramp.core.sla import SLA
from offramp.limits import known, wire
from offramp.limits.address import is_own, peer_pid
from offramp.limits.known import Client
from offramp.limits.wire import FrameError, Frames, frame
from offramp.ports.limits import Waits

RECOVERY_S_MAX = 3.0
"""Seconds that a successor grants nothing while a living process of its predecessor has not said what it holds."""
LOOK_EVERY_S = 0.1
"""Seconds between looks whether such a process still lives."""
SHOWS_EVERY_S = 1.0
"""Seconds between levels, and between what all processes remember together, while they change."""
SHARES_EVERY_S = 0.1
"""Seconds, at least, between what all processes remember together because of a refusal or a breaker."""
UNREAD_BYTES_MAX = 64 << 20
"""Bytes that wait for a process which does not read; past it the process is disconnected."""
SAVE_SHARE = 0.05
"""The most of its time that it spends on writing what it has counted."""
SAVE_S_MAX = 2.0
"""Seconds that its end waits for that."""

logger = logging.getLogger("offramp.limits")


class Seat(asyncio.Protocol):
    """The connection of one process."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._frames = Frames(wire.FromClient)
        self._out: list[bytes] = []
        self._dropped = False
        self.transport: asyncio.Transport | None = None
        self.pid: int | None = None
        """Of the process, as this system shows it."""
        self.client: Client | None = None
        self.key = ""
        """Of this connection in the book; empty until it has said hello."""
        self.joined = False
        """Whether it has said what it remembers."""
        self.watches = False
        self.lags = False
        """Whether it does not read what it is sent."""

    @property
    def name(self) -> str:
        """Of the process; empty until it has said hello."""
        return "" if self.client is None else self.client.name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        peer: socket.socket = transport.get_extra_info("socket")
        if not is_own(peer):
            logger.error("a process of another user is refused")
            self.transport.abort()
        self.pid = peer_pid(peer)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        now = time.monotonic()
        try:
            for message in self._frames.feed(data):
                if self._dropped:
                    break
                self._desk.receive(now, self, message)
        except FrameError as error:
            self.drop(f"sent {error}")
        self._desk.flush(now)

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio."""
        self.transport = None
        self._desk.leave(time.monotonic(), self)

    def pause_writing(self) -> None:
        """See asyncio."""
        self.lags = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self.lags = False

    def put(self, framed: bytes) -> None:
        """Send this with the next `flush`."""
        self._out.append(framed)

    def flush(self) -> None:
        """Send what was put."""
        transport, self._out, out = self.transport, [], self._out
        if transport is None:
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self.lags and transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.drop("does not read")

    def drop(self, why: str) -> None:
        """Disconnect the process."""
        logger.error("process %s %s, and is disconnected", self.key or "(unknown)", why)
        self._dropped = True
        if self.transport is not None:
            self.transport.abort()


class Desk:
    """What the connections share.

    Args:
        folder: for the list of clients.
        loop: that it is on.
        on_empty: called when the last process has left.
    """

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, on_empty: Callable[[], object]) -> None:
        self._folder = folder
        self._loop = loop
        self._on_empty = on_empty
        self._seats: dict[str, Seat] = {}
        self._dirty: dict[str, Seat] = {}
        self._made = 0
        self._declared: dict[str, tuple[float, ResourceSpec | SLA]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self._showing: asyncio.TimerHandle | None = None
        self._shown: tuple[object, ...] | None = None
        self._shared_at = -math.inf
        self._began = time.monotonic()
        self._awaited = {client.name: client for client in known.living_clients(folder)}
        self._book = Book((), {}, recovering=True)
        self._steps: dict[type, Callable[[float, Seat, Any], None]] = {
            wire.Asking: self._ask,
            wire.Written: self._written,
            wire.Over: self._over,
            wire.Withdrawn: self._withdraw,
            wire.Slow: self._slow,
            wire.Lifting: self._lift,
            wire.Ping: self._pong,
            wire.Looking: self._look_at,
            wire.Watching: self._watch,
            wire.Hello: self._again,
            wire.Recalled: self._again,
        }
        self._recovering = True
        self._before: tuple[dict[str, tuple[Called, ...]], float] = {}, 0.0
        """The calls of processes that the predecessor served and that have not joined, and when they counted so."""
        self._saver = concurrent.futures.ThreadPoolExecutor(1)
        self._saving: concurrent.futures.Future[None] | None = None
        self._save_at = 0.0
        self._is_saved = False
        self._joined = False
        """Whether a process has: before, no resource is declared of which something could be recalled."""

    @property
    def empty(self) -> bool:
        """Whether it serves no process."""
        return not self._seats

    def begin(self) -> None:
        """Recall what the predecessor left, and serve."""
        now = time.monotonic()
        left = known.read_state(self._folder, time.time())
        if left is not None:
            counted, ago_s = left
            recovery.restore(self._book, now, "", Memory(state=counted.state, state_ago_s=ago_s))
            self._before = counted.calls, now - ago_s
        if self._awaited:
            logger.info("takes over: waits for %s", ", ".join(self._awaited))
        self._look()

    def _look(self) -> None:
        """Grant permits, unless a living process has not said yet what it holds."""
        if not self._recovering:
            return
        self._awaited = {name: client for name, client in self._awaited.items() if known.lives(client)}
        if not self._awaited and self._joined:
            self._recover("every process has said what it holds")
        elif self._awaited and time.monotonic() - self._began >= RECOVERY_S_MAX:
            self._recover(f"{', '.join(self._awaited)} said nothing for {RECOVERY_S_MAX:g} s")
            self._awaited.clear()
        else:
            self._loop.call_later(LOOK_EVERY_S, self._look)

    def end(self) -> None:
        """Leave what counts to a successor."""
        try:
            self._saver.submit(known.write_state, self._folder, self._counted()).result(SAVE_S_MAX)
            known.write_clients(self._folder, [])
        except (OSError, TimeoutError) as error:  # the data directory may have been removed, as that of a test
            logger.warning("what was counted cannot be left to a successor: %s", error)

    def _recover(self, why: str) -> None:
        if not self._recovering:
            return
        self._recovering = False
        now = time.monotonic()
        logger.info("grants permits after %.3f s: %s", now - self._began, why)
        calls, at = self._before
        for each in calls.values():
            recovery.recall_gone(self._book, now, each, now - at)
        self._before = {}, 0.0
        self._tell(recovery.recovered(self._book, now))
        self.flush(now)

    # What processes say.

    def receive(self, now: float, seat: Seat, message: object) -> None:
        """A message of a process."""
        if seat.joined:
            self._steps[type(message)](now, seat, message)
        elif isinstance(message, wire.Hello) and seat.client is None:
            self._greet(now, seat, message)
        elif isinstance(message, wire.Recalled) and seat.client is not None:
            self._join(now, seat, message.memory)
        else:
            seat.drop("asks for something before it has said what it holds")

    def _ask(self, now: float, seat: Seat, message: wire.Asking) -> None:
        self._tell(self._book.ask(now, seat.key, message.ask))

    def _written(self, now: float, seat: Seat, message: wire.Written) -> None:
        self._is_saved = False
        self._tell(self._book.written(now, seat.key, message.id, message.ago_s))

    def _over(self, now: float, seat: Seat, message: wire.Over) -> None:
        self._is_saved = False
        self._tell(self._book.done(now, seat.key, message.id, message.done))

    def _withdraw(self, now: float, seat: Seat, message: wire.Withdrawn) -> None:
        self._tell(self._book.withdraw(now, seat.key, message.id))

    def _slow(self, now: float, seat: Seat, message: wire.Slow) -> None:
        self._tell(self._book.slow(now, seat.key, message.id))

    def _lift(self, now: float, _seat: Seat, message: wire.Lifting) -> None:
        self._tell(self._book.lift(now, message.run_id, message.sla, message.priority))

    def _pong(self, _now: float, seat: Seat, _message: wire.Ping) -> None:
        self._put(seat, wire.Pong())

    def _look_at(self, now: float, seat: Seat, message: wire.Looking) -> None:
        self._put(seat, wire.Levels(message.number, self._book.levels(now)))

    def _watch(self, now: float, seat: Seat, _message: wire.Watching) -> None:
        seat.watches = True
        self._put(seat, wire.Levels(0, self._book.levels(now)))

    def _again(self, _now: float, seat: Seat, _message: object) -> None:
        seat.drop("says twice what it is, or what it holds")

    def _greet(self, now: float, seat: Seat, hello: wire.Hello) -> None:
        welcome = wire.Welcome(wire.VERSION, os.getpid(), self._recovering)
        if hello.version != wire.VERSION:
            logger.warning("process %s is of another version, and has to wait until those of this one end", hello.pid)
            seat.put(frame(welcome))
            seat.flush()
            if seat.transport is not None:
                seat.transport.close()
            return
        self._made += 1
        seat.client = known.client(hello.client, hello.pid if seat.pid in {None, hello.pid} else 0)
        seat.key = f"{hello.client}/{self._made}"
        if not self._declare(now, hello):
            seat.drop(f"declares more than {RESOURCES_MAX} resources with all others")
            return
        self._seats[seat.key] = seat
        self._write_clients()
        self._put(seat, welcome)

    def _declare(self, now: float, hello: wire.Hello) -> bool:
        """Take what is new, and what is newer than what was declared before; False if it is too much."""
        names = {f"resource {each.name!r}" for each in hello.resources}
        names.update(name for name in self._declared if name.startswith("resource "))
        if len(names) > RESOURCES_MAX:
            return False
        newer: dict[str, ResourceSpec | SLA] = {}
        for kind, declared in (("resource", hello.resources), ("class", hello.classes)):
            for each in declared:
                name = f"{kind} {each.name!r}"
                at, before = self._declared.get(name, (-math.inf, None))
                if before is not None and before != each:
                    which = "this one counts" if hello.declared_at > at else "the other, which is newer, counts"
                    logger.warning("%s: process %d declares it otherwise than before; %s", name, hello.pid, which)
                if hello.declared_at > at:
                    self._declared[name] = hello.declared_at, each
                    if before != each:
                        newer[name] = each
        specs = [each for each in newer.values() if isinstance(each, ResourceSpec)]
        classes = {each.name: each for each in newer.values() if isinstance(each, SLA)}
        if newer:
            self._tell(self._book.declare(now, specs, classes))
        return True

    def _join(self, now: float, seat: Seat, memory: Memory) -> None:
        seat.joined, self._is_saved = True, False
        self._tell(recovery.restore(self._book, now, seat.key, memory))
        self._awaited.pop(seat.name, None)
        self._before[0].pop(seat.name, None)  # it says by itself what it called
        self._joined = True
        if not self._awaited:
            self._recover("every process has said what it holds")

    def leave(self, now: float, seat: Seat) -> None:
        """A process has gone, with all that it held."""
        if self._seats.pop(seat.key, None) is None:
            return
        logger.info("process %s has gone", seat.key)
        self._tell(self._book.leave(now, seat.key))
        self._write_clients()
        self.flush(now)
        self._share()
        if self.empty:
            self._on_empty()

    def _write_clients(self) -> None:
        clients = [seat.client for seat in self._seats.values() if seat.client is not None]
        try:
            known.write_clients(self._folder, [*self._awaited.values(), *clients])
        except OSError:
            logger.exception("the list of processes cannot be written: a successor will not wait for them")

    # What processes are sent.

    def _tell(self, tells: Iterable[Tell]) -> None:
        for key, permit_id, answer in tells:
            seat = self._seats.get(key)
            if seat is not None and not (seat.lags and isinstance(answer, Waits)):
                self._put(seat, wire.Answered(permit_id, answer))

    def _put(self, seat: Seat, message: object) -> None:
        seat.put(frame(message))
        self._dirty[seat.key] = seat

    def flush(self, now: float) -> None:
        """Send what was put, and look ahead to when something changes by itself."""
        dirty, self._dirty = self._dirty, {}
        for seat in dirty.values():
            seat.flush()
        due = self._book.due()
        if due is not None and due < self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._due = due
            self._timer = self._loop.call_later(max(0.0, due - now), self._pass)
        if self._book.urgent and now >= self._shared_at + SHARES_EVERY_S:
            self._share()
        if self._showing is None:
            self._showing = self._loop.call_later(SHOWS_EVERY_S, self._show)

    def _pass(self) -> None:
        self._timer, self._due = None, math.inf
        now = time.monotonic()
        self._tell(self._book.pass_to(now))
        self.flush(now)

    def _show(self) -> None:
        """Send what all remember together, and the levels, if they have changed; again later, as long as they do."""
        self._showing = None
        self._share()
        self._save()
        watching = [seat for seat in self._seats.values() if seat.watches and not seat.lags]
        if not watching:
            return
        levels = self._book.levels(time.monotonic())
        if levels != self._shown:
            self._shown = levels
            framed = frame(wire.Levels(0, levels))
            for seat in watching:
                seat.put(framed)
                seat.flush()
            if self._showing is None:
                self._showing = self._loop.call_later(SHOWS_EVERY_S, self._show)

    def _counted(self) -> bytes:
        now = time.monotonic()
        calls = {key.rpartition("/")[0]: each for key, each in recovery.called(self._book, now).items()}
        return msgspec.msgpack.encode(known.Counted(time.time(), recovery.state(self._book, now), calls))

    def _save(self) -> None:
        """Write what is counted, for a successor that no process can tell it: all may be killed at once."""
        began = time.monotonic()
        if self._recovering or self._is_saved:
            return
        if began < self._save_at or not (self._saving is None or self._saving.done()):
            self._showing = self._loop.call_later(SHOWS_EVERY_S, self._show)
            return
        if self._saving is not None and (error := self._saving.exception()) is not None:
            logger.warning("what is counted cannot be written: %s", error)
        self._is_saved = True
        # On a thread, as a disk may hang.
        self._saving = self._saver.submit(known.write_state, self._folder, self._counted())
        self._save_at = began + (time.monotonic() - began) / SAVE_SHARE

    def _share(self) -> None:
        if not self._book.changed or self._recovering:
            return
        self._book.changed = self._book.urgent = self._is_saved = False
        self._shared_at = time.monotonic()
        framed = frame(wire.Shared(msgspec.Raw(msgspec.msgpack.encode(recovery.state(self._book, time.monotonic())))))
        for seat in self._seats.values():
            if seat.joined and not seat.lags:
                seat.put(framed)
                seat.flush()
