"""A process's side of the limits of a data directory: one connection for all its loops and threads.

It remembers what it holds, asks for and has called, for the coordinator that follows one that dies. Each message wakes
the coordinator: that a request was written may be said with the next one, as its age is said, too.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from offramp.core.limits.memory import Remembered, State
from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.errors import StoreError
from offramp.limits import address, wire
from offramp.limits.link import BEAT_S, Link
from offramp.limits.naming import keyed
from offramp.ports import forks
from offramp.ports.clock import Clock
from offramp.ports.commit import Commit
from offramp.ports.limits import Answer, Ask, Done, Level, Notify, Refused, Waits

LEVELS_S_MAX = 10.0
"""Seconds that a look at all resources waits for a coordinator: longer than one that hangs takes to be replaced."""
CLOSED = Refused("closed", "this process stops")

logger = logging.getLogger("offramp")

_state = msgspec.msgpack.Decoder(State)


class SocketLimits:
    """See the port.

    Args:
        data: the data directory.
        resources: what the app declares.
        classes: of the app, by name.
        clock: for the ages of what this process remembers; the coordinator has its own.
        declared_at: when the service began, in epoch seconds: of two declarations of a resource the later one counts.
        beat_s: seconds of silence after which the coordinator is asked whether it lives.
    """

    def __init__(
        self,
        data: Path,
        resources: Sequence[ResourceSpec],
        classes: Mapping[str, SLA],
        clock: Clock,
        declared_at: float,
        *,
        beat_s: float = BEAT_S,
    ) -> None:
        self._data = data.absolute()
        self._resources = tuple(resources)
        self._classes = tuple(classes.values())
        self._clock = clock
        self._declared_at = declared_at
        self._beat_s = beat_s
        self._begin()

    def _begin(self) -> None:
        """With nothing held, and not connected; `start` or the first use does that."""
        self._lock = threading.Lock()
        self._log = Remembered(self._resources)
        self._asked: dict[str, Notify] = {}
        self._unsaid: list[tuple[str, float]] = []
        """The permits whose requests were written, and when: said with the next message, or by `catch_up`."""
        self._lookers: dict[int, Commit[tuple[Level, ...]]] = {}
        self._watchers: list[Callable[[Sequence[Level]], object]] = []
        self._numbers = itertools.count(1)
        self._shared: tuple[msgspec.Raw, float] | None = None
        self._closed = self._started = False
        # Not from the clock, whose lock another thread may hold at a fork.
        self._name = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._link = Link(self._data, self, self._lock, self._beat_s)
        forks.on_fork(self)

    def start(self) -> None:
        """See the port."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if not self._started and not self._closed:
            self._started = True
            self._link.start()

    def forked(self) -> None:
        """In a forked child: begin anew. What the parent holds and waits for is the parent's alone."""
        self._link.forked()
        self._begin()

    @property
    def pid(self) -> int | None:
        """Of the coordinator; None while this process is not connected."""
        return self._link.pid

    # The port.

    def ask(self, ask: Ask, notify: Notify) -> None:
        """See the port."""
        with self._lock:
            closed = self._closed
            if not closed:
                self._start()
                if ask.credential:
                    ask = msgspec.structs.replace(ask, credential=keyed(self._data, ask.credential))
                self._asked[ask.id] = notify
                self._log.asked(self._clock.monotonic(), ask)
                self._send(wire.Asking(ask))
        if closed:
            notify(CLOSED)

    def withdraw(self, permit_id: str) -> None:
        """See the port."""
        with self._lock:
            self._asked.pop(permit_id, None)
            self._log.withdrawn(self._clock.monotonic(), permit_id)
            self._send(wire.Withdrawn(permit_id))

    def written(self, permit_id: str) -> None:
        """See the port."""
        with self._lock:
            now = self._clock.monotonic()
            self._log.written(now, permit_id)
            if self._link.catches_up:
                self._unsaid.append((permit_id, now))
            else:
                self._send(wire.Written(permit_id))

    def slow(self, permit_id: str) -> None:
        """See the port."""
        with self._lock:
            self._send(wire.Slow(permit_id))

    def done(self, permit_id: str, done: Done) -> None:
        """See the port."""
        with self._lock:
            self._log.done(self._clock.monotonic(), permit_id, done)
            self._send(wire.Over(permit_id, done))

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """See the port."""
        with self._lock:
            self._log.lift(run_id, sla, priority)
            self._send(wire.Lifting(run_id, sla, priority))

    def watch(self, notify: Callable[[Sequence[Level]], object]) -> None:
        """See the port. It does not connect for this alone."""
        with self._lock:
            self._watchers.append(notify)
            self._send(wire.Watching())

    async def levels(self) -> Sequence[Level]:
        """See the port.

        Raises:
            StoreError: no coordinator has answered for `LEVELS_S_MAX` seconds.
        """
        commit: Commit[tuple[Level, ...]] = Commit()
        with self._lock:
            if self._closed:
                return ()
            self._start()
            number = next(self._numbers)
            self._lookers[number] = commit
            self._send(wire.Looking(number))
        try:
            async with asyncio.timeout(LEVELS_S_MAX):
                return await commit
        except TimeoutError:
            raise StoreError(
                f"no coordinator of limits in {self._data / address.FOLDER} answers; the log says why"
            ) from None
        finally:
            with self._lock:
                self._lookers.pop(number, None)

    def close(self) -> None:
        """See the port. What is held ends with the connection."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            asked, self._asked = self._asked, {}
            lookers, self._lookers = self._lookers, {}
        self._link.close()
        for notify in asked.values():
            _call(notify, CLOSED)
        for commit in lookers.values():
            commit.resolve(())

    def _send(self, message: object) -> None:
        """Say this, with the lock held, and before it what was not said yet."""
        framed = wire.frame(message)
        self._link.send(self._late() + framed if self._unsaid else framed)

    def _late(self) -> bytes:
        now = self._clock.monotonic()
        unsaid, self._unsaid = self._unsaid, []
        return b"".join(wire.frame(wire.Written(name, now - at)) for name, at in unsaid)

    # What the link asks for, on its thread.

    def catch_up(self) -> None:
        """See `link.Owner`."""
        if self._unsaid:
            self._link.send(self._late())

    def hello(self) -> bytes:
        """See `link.Owner`."""
        return wire.frame(
            wire.Hello(wire.VERSION, self._name, os.getpid(), self._declared_at, self._resources, self._classes)
        )

    def recall(self) -> Callable[[], bytes]:
        """See `link.Owner`."""
        if self._shared is not None:
            state, at = self._shared
            self._log.keeps(at, _state.decode(state))
        self._unsaid.clear()
        memory = self._log.memory(self._clock.monotonic())
        messages: list[object] = [wire.Recalled(memory)]
        if self._watchers:
            messages.append(wire.Watching())
        messages += [wire.Looking(number) for number in self._lookers]
        return lambda: b"".join(map(wire.frame, messages))

    def receive(self, message: object) -> None:
        """See `link.Owner`."""
        match message:
            case wire.Answered(permit_id, answer):
                self._answered(permit_id, answer)
            case wire.Levels(0, levels):
                for notify in tuple(self._watchers):
                    _call(notify, levels)
            case wire.Levels(number, levels):
                with self._lock:
                    commit = self._lookers.pop(number, None)
                if commit is not None:
                    commit.resolve(levels)
            case wire.Shared(state):
                self._shared = state, self._clock.monotonic()

    def _answered(self, permit_id: str, answer: Answer) -> None:
        final = not isinstance(answer, Waits)
        with self._lock:
            # Withdrawn meanwhile: the coordinator learns of that, too.
            notify = self._asked.pop(permit_id, None) if final else self._asked.get(permit_id)
            if notify is not None:
                self._log.answered(self._clock.monotonic(), permit_id, answer)
                self._link.catch_up_later()
        if notify is not None:
            _call(notify, answer)


def _call(notify: Callable[..., object], value: object) -> None:
    try:
        notify(value)
    except Exception:
        logger.exception("what asked for a permit failed when it got the answer")
