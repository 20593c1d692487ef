"""Takes connections from the kernel's backlog as far as there are files for them; the others wait there.

Past what fits a few more are taken, to answer probes and to tell the others so. Must not read what is sent.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sized

REFUSED_MAX = 32
"""Connections past those that fit that are open at a time, to be answered and closed."""
SPARE_FILES = 16
"""Files kept for these where the process has no other left."""
LOOK_AGAIN_S = 0.05
"""How often a full process looks for room."""
ACCEPTS_MAX = 64
"""Connections taken in one turn of the loop."""
_NO_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger("offramp.gateway")


class Acceptor:
    """The accepting end of a listening socket; `sockets`, `close` and `wait_closed` are those of an asyncio server.

    Args:
        bound: the socket; not closed here.
        make: makes the protocol of a connection.
        connections: those that are open.
        most: connections that fit.
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
        self._told = False
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
                    return  # nothing waits, or the client has gone
                if not self._spare:
                    self._pause()
                    return
                self._tell()
                os.close(self._spare.pop())
                continue
            accepted.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, accepted))
            self._beginning.add(task)
            task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[object]) -> None:
        self._beginning.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("a connection was not begun", exc_info=task.exception())

    @property
    def is_crowded(self) -> bool:
        """Whether the connection that was taken last is past those that fit, or has a spare file."""
        return len(self._connections) > self._most or len(self._spare) < SPARE_FILES

    def _pause(self) -> None:
        self._loop.remove_reader(self._bound)
        self._timer = self._loop.call_later(LOOK_AGAIN_S, self._go_on)

    def _go_on(self) -> None:
        self._keep_spare()
        self._loop.add_reader(self._bound, self._accept)

    def _keep_spare(self) -> None:
        try:
            while len(self._spare) < SPARE_FILES:
                self._spare.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return  # as many as there are
        self._told = False

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            log.error("no more files can be opened (ulimit -n): new connections are answered with 503")

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on."""
        return [self._bound]

    def close(self) -> None:
        """Take no more connections."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._bound)
        while self._spare:
            os.close(self._spare.pop())

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""
