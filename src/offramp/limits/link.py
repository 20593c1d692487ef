"""The connection of a process to its coordinator, on one thread: made, watched, and made anew when it is lost.

It starts a coordinator where there is none, and ends one that does not answer. It knows nothing of permits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from offramp.errors import OfframpError
from offramp.limits import address, starting
from offramp.limits.wire import VERSION, FrameError, Frames, FromCoordinator, Ping, Pong, Welcome, frame
from offramp.ports import forks

BEAT_S = 1.0
"""Silence after which a process asks whether its coordinator lives."""
MISSED_MAX = 3
"""Beats without an answer after which the coordinator counts as hung, and is killed."""
RETRY_FIRST_S = 0.02
RETRY_MAX_S = 2.0
"""Seconds between attempts to reach or start a coordinator, doubled after each failure."""
LOOK_S = 0.02
"""Seconds between looks whether the coordinator that another process starts listens."""
LATER_S = 0.05
"""Seconds after an answer for which what need not be said at once may wait for a message to go with. Shorter, the
thread would wake for it as often as the coordinator does without."""
READ_BYTES = 1 << 16
LEAVE_S_MAX = 1.0
"""Seconds that closing waits for the thread."""

logger = logging.getLogger("offramp")


class Owner(Protocol):
    """The process's side of the limits, whose lock is held around `send`, `recall` and `catch_up`."""

    def hello(self) -> bytes:
        """The first message, framed."""

    def recall(self) -> Callable[[], bytes]:
        """What the process remembers now: a function that encodes it, without the lock."""

    def catch_up(self) -> None:
        """Send what was not sent at once."""

    def receive(self, message: object) -> None:
        """A message has come."""


class _Lost(Exception):
    """The connection is of no use any more, for this reason; empty if this process closes."""


class _Connection(NamedTuple):
    socket: socket.socket
    frames: Frames
    pid: int
    """Of the coordinator."""


class Link:
    """See above.

    Args:
        data: the data directory.
        owner: what is connected.
        lock: the owner's.
        beat_s: see `BEAT_S`.
    """

    def __init__(self, data: Path, owner: Owner, lock: threading.Lock, beat_s: float = BEAT_S) -> None:
        self._data = data
        self._folder = data / address.FOLDER
        self._owner = owner
        self._lock = lock
        self._beat_s = beat_s
        self._socket: socket.socket | None = None
        self._out = bytearray()
        self._corked: bytearray | None = None
        self._starting: int | None = None
        self._late_at: float | None = None
        """When the owner catches up next; None while nothing is left to it."""
        self._closed = False
        self._wakes, self._woken = os.pipe()
        for end in (self._wakes, self._woken):
            os.set_blocking(end, False)
        self._thread: threading.Thread | None = None
        self.pid: int | None = None
        """Of the coordinator; None while there is no connection."""

    def start(self) -> None:
        """Connect, from now on."""
        self._thread = threading.Thread(target=self._run, name="offramp-limits", daemon=True)
        self._thread.start()

    def send(self, framed: bytes) -> None:
        """Send a message, with the owner's lock held. Without a connection it is dropped: `recall` has it."""
        if self._socket is None:
            return
        if self._corked is not None:
            self._corked += framed
        elif self._out:
            self._out += framed
        else:
            try:
                sent = self._socket.send(framed)
            except BlockingIOError:
                sent = 0
            except OSError:  # the thread notices, too
                return
            if sent < len(framed):
                self._out += framed[sent:]
                self._wake()

    @property
    def catches_up(self) -> bool:
        """Whether the owner is called soon to catch up, and need not send at once. With its lock held."""
        return self._late_at is not None

    def catch_up_later(self) -> None:
        """Have the owner catch up after a while; on the thread, which is awake anyway, with the owner's lock held."""
        if self._late_at is None and self._socket is not None:
            self._late_at = time.monotonic() + LATER_S

    def close(self) -> None:
        """End the connection, and the thread."""
        with self._lock:
            self._closed = True
            self._wake()
        if self._thread is None:
            self._end()
        elif self._thread is not threading.current_thread():
            self._thread.join(LEAVE_S_MAX)

    def forked(self) -> None:
        """In a forked child: drop the copies. The parent's stay open."""
        if self._socket is not None:
            forks.close_copy(self._socket.detach())
        forks.close_copy(self._wakes, self._woken, -1 if self._starting is None else self._starting)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._woken, b".")

    def _end(self) -> None:
        with self._lock:
            wakes, self._wakes = self._wakes, -1
            woken, self._woken = self._woken, -1
        forks.close_copy(wakes, woken)

    # The thread.

    def _run(self) -> None:
        try:
            while not self._closed:
                connection = self._connect()
                if connection is None:
                    return
                try:
                    self._talk(connection)
                except _Lost as lost:
                    if not self._closed:
                        logger.warning(
                            "the coordinator of limits (pid %d) %s; another takes over", connection.pid, lost
                        )
                finally:
                    self._drop(connection.socket)
        except Exception:
            logger.exception("the connection to the coordinator of limits failed: no permit is granted any more")
        finally:
            self._end()

    def _drop(self, used: socket.socket) -> None:
        with self._lock:
            self._socket, self.pid, self._corked, self._late_at = None, None, None, None
            self._out.clear()
        used.close()

    def _connect(self) -> _Connection | None:
        """A connection to a coordinator that has answered; None if this process closes."""
        pause_s, reported, since = RETRY_FIRST_S, "", time.monotonic()
        while not self._closed:
            try:
                made = self._reach()
                if made is not None:
                    return made
                if time.monotonic() - since < starting.START_S_MAX:
                    self._pause(LOOK_S)
                    continue
                trouble = f"it does not listen after {starting.START_S_MAX:g} s; {starting.last_words(self._folder)}"
                self._end_hung(address.holder(self._data))
                since = time.monotonic()
            except _Lost as lost:
                trouble = str(lost)
            except (OSError, OfframpError) as error:
                trouble = str(error)
            if trouble != reported and not self._closed:
                logger.error("no coordinator of limits in %s: %s; calls wait", self._folder, trouble)
                reported = trouble
            self._pause(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
        return None

    def _reach(self) -> _Connection | None:
        """A connection; None if another process is starting the coordinator, or the last one is ending."""
        try:
            made = address.connect(self._folder)
        except (FileNotFoundError, ConnectionRefusedError):
            if self._start():
                made = address.connect(self._folder)
            else:
                return None
        except BlockingIOError:
            raise _Lost("it lets no process in") from None
        try:
            return self._greet(made)
        except (ConnectionResetError, BrokenPipeError):  # it has just ended
            made.close()
            return None
        except BaseException:
            made.close()
            raise

    def _start(self) -> bool:
        """Start a coordinator, unless another process does."""
        address.open_folder(self._data)
        self._starting = address.take_lock(self._data)
        if self._starting is None:
            return False
        try:
            start = starting.Start(self._data, self._starting)
        finally:
            self._starting = None
        trouble = start.wait(lambda: self._closed)
        if trouble is not None:
            raise _Lost(trouble)
        return True

    def _greet(self, made: socket.socket) -> _Connection:
        made.settimeout(self._beat_s)
        made.sendall(self._owner.hello())
        made.setblocking(False)
        frames = Frames(FromCoordinator)
        messages: list[object] = []
        for _ in range(MISSED_MAX):
            if self._readable(made):
                data = made.recv(READ_BYTES)
                if not data:
                    raise _Lost("it closed the connection")
                messages = list(frames.feed(data))
                if messages:
                    break
        else:
            self._end_hung(_peer(made, self._data))
            raise _Lost("it did not answer")
        welcome = messages[0]
        if not isinstance(welcome, Welcome) or welcome.version != VERSION:
            raise _Lost("it is of another version of offramp, and ends once the processes of that version have ended")
        return _Connection(made, frames, _peer(made, self._data) or welcome.pid)

    def _readable(self, made: socket.socket) -> bool:
        poll = select.poll()
        poll.register(made, select.POLLIN)
        poll.register(self._wakes, select.POLLIN)
        ready = {number for number, _ in poll.poll(self._beat_s * 1000)}
        if self._closed:
            raise _Lost
        self._drain(ready)
        return made.fileno() in ready

    def _talk(self, connection: _Connection) -> None:
        """Send what this process remembers, then take what comes, until the connection is lost."""
        made, frames, missed = connection.socket, connection.frames, 0
        with self._lock:
            self._socket, self.pid, self._corked = made, connection.pid, bytearray()
            encode = self._owner.recall()
        remembered = encode()
        with self._lock:
            self._out += remembered + self._corked
            self._corked = None
        poll = select.poll()
        poll.register(self._wakes, select.POLLIN)
        while True:
            poll.register(made, select.POLLIN | (select.POLLOUT if self._out else 0))
            late_s = None if self._late_at is None else max(0.0, self._late_at - time.monotonic())
            ready = dict(poll.poll((self._beat_s if late_s is None else min(self._beat_s, late_s)) * 1000))
            if self._closed:
                raise _Lost
            self._drain(ready)
            self._catch_up()
            events = ready.get(made.fileno(), 0)
            if events & select.POLLOUT:
                self._flush(made)
            if events & ~select.POLLOUT:
                self._read(made, frames)
                missed = 0
            elif not ready and late_s is None:
                # Counted in waits that were really waited: a process that was stopped itself sees one, not all.
                missed += 1
                if missed > MISSED_MAX:
                    self._end_hung(_peer(made, self._data))
                    raise _Lost("does not answer")
                with self._lock:
                    self.send(frame(Ping()))

    def _catch_up(self) -> None:
        if self._late_at is not None and time.monotonic() >= self._late_at:
            with self._lock:
                self._late_at = None
                self._owner.catch_up()

    def _read(self, made: socket.socket, frames: Frames) -> None:
        try:
            data = made.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise _Lost(f"is gone ({error.strerror})") from error
        if not data:
            raise _Lost("ended")
        try:
            for message in frames.feed(data):
                if not isinstance(message, Pong):
                    self._owner.receive(message)
        except FrameError as error:
            raise _Lost(f"sent {error}") from error

    def _flush(self, made: socket.socket) -> None:
        with self._lock:
            try:
                sent = made.send(memoryview(self._out)[:READ_BYTES])
            except BlockingIOError:
                return
            except OSError as error:
                raise _Lost(f"is gone ({error.strerror})") from error
            del self._out[:sent]

    def _end_hung(self, pid: int | None) -> None:
        if pid and starting.end_hung(self._data, pid):
            logger.error("the coordinator of limits (pid %d) does not answer, and is killed", pid)
        elif pid == 0:
            logger.error("the coordinator of limits does not answer, and cannot be seen from here to be killed")

    def _pause(self, seconds: float) -> None:
        self._drain(dict.fromkeys(_ready(self._wakes, seconds)))

    def _drain(self, ready: object) -> None:
        if isinstance(ready, (dict, set)) and self._wakes in ready:
            with contextlib.suppress(OSError):
                os.read(self._wakes, READ_BYTES)


def _peer(made: socket.socket, data: Path) -> int | None:
    """The coordinator's id as seen from here: 0 if it cannot be seen; what it signed where the system does not say."""
    pid = address.peer_pid(made)
    return address.holder(data) if pid is None else pid


def _ready(wakes: int, seconds: float) -> list[int]:
    poll = select.poll()
    poll.register(wakes, select.POLLIN)
    return [number for number, _ in poll.poll(seconds * 1000)]
