"""Accepts connections from the kernel's backlog while the process has free file descriptors; the others wait there.

Past the limit it accepts a few more, to answer probes and to refuse other requests. Must not read what clients send.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sized

REFUSED_MAX = 32
"""Connections past the limit that may be open at a time, to be answered and closed."""
SPARE_FILES = 16
"""File descriptors reserved for them when the process has no others."""
LOOK_AGAIN_S = 0.05
"""How often a full process checks for room."""
ACCEPTS_MAX = 64
"""Connections accepted in one turn of the loop."""
_NO_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

logger = logging.getLogger("offramp.gateway")


class Acceptor:
    """Accepts from a listening socket; `sockets`, `close` and `wait_closed` are those of an asyncio server.

    Args:
        bound: the socket; `close` leaves it open.
        make: makes the protocol of a connection.
        connections: the open connections.
        most: how many may be open.
    """

    def __init__(
        self, bound: socket.socket, make: Callable[[], asyncio.Protocol], connections: Sized, most: int
    ) -> None:
        self._bound = bound
        self._make = make
        self._connections = connections
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[object]] = set()
        self._spare: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._reported = False
        self._keep_spare()
        self._loop.add_reader(bound, self._accept)

    def _accept(self) -> None:
        if len(self._spare) < SPARE_FILES:
            self._keep_spare()
        for _ in range(ACCEPTS_MAX):
            if len(self._connections) + len(self._beginning) >= self._most + REFUSED_MAX:
                self._pause()
                return
            try:
                accepted, _ = self._bound.accept()
            except OSError as error:
                if error.errno not in _NO_FILES:
                    return  # no connection waits, or the client has left
                if not self._spare:
                    self._pause()
                    return
                self._report()
                os.close(self._spare.pop())
                continue
            accepted.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, accepted))
            self._beginning.add(task)
            task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[object]) -> None:
        self._beginning.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("a connection could not be set up", exc_info=task.exception())

    @property
    def is_crowded(self) -> bool:
        """Whether the connection accepted last is past the limit or uses a spare file descriptor."""
        return len(self._connections) > self._most or len(self._spare) < SPARE_FILES

    def _pause(self) -> None:
        self._loop.remove_reader(self._bound)
        self._timer = self._loop.call_later(LOOK_AGAIN_S, self._resume)

    def _resume(self) -> None:
        self._keep_spare()
        self._loop.add_reader(self._bound, self._accept)

    def _keep_spare(self) -> None:
        try:
            while len(self._spare) < SPARE_FILES:
                self._spare.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return  # keep as many as there are
        self._reported = False

    def _report(self) -> None:
        if not self._reported:
            self._reported = True
            logger.error("no more files can be opened (ulimit -n): new connections get 503")

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening socket."""
        return [self._bound]

    def close(self) -> None:
        """Accept no more connections."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._bound)
        while self._spare:
            os.close(self._spare.pop())

    async def wait_closed(self) -> None:
        """Return at once: closing waits for nothing."""
