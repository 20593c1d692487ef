"""Closes a connection in the middle of a request so that the client still gets the answer.

Closing with unread bytes resets the connection, and the reset may overtake the answer (RFC 9112, 9.6). So the server
first ends its own side, discards further bytes for a moment, and then closes. A closed transport waits until the client
has taken what was written: one that takes nothing is cut off.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

LINGER_S = 1.0
"""How long further bytes of a refused client are discarded."""
UNTAKEN_S_MAX = 30.0
"""How long a client may take nothing of an answer's end; then its closed connection is cut off."""
_RESET = struct.pack("ii", 1, 0)


class LingeringTransport:
    """A transport whose `close` lingers if needed; everything else is the transport's own.

    Args:
        transport: the connection's.
        is_needed: whether a part of a request may be unread.
    """

    def __init__(self, transport: asyncio.Transport, is_needed: Callable[[], bool]) -> None:
        self.own = transport
        self.write: Callable[[bytes], object] = transport.write  # called for every event
        self._is_needed = is_needed
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def is_closing(self) -> bool:
        """Whether further bytes are discarded."""
        return self._timer is not None or self.own.is_closing()

    def close(self) -> None:
        """Close after sending what was written, and after a moment if the client may still be sending."""
        if self.is_closing():
            return
        if not self._is_needed():
            self._close()
            return
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._close)
        self.write = _drop
        if self.own.can_write_eof():
            self.own.write_eof()
        self.own.resume_reading()

    def _close(self) -> None:
        self.own.close()
        self._wait_for(None)

    def _wait_for(self, before: int | None) -> None:
        """Look again whether the client took anything, until nothing is left."""
        left = self.own.get_write_buffer_size()
        if left and left == before:
            # With a reset, so that the kernel drops the rest as well.
            self.own.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.own.abort()
        elif left:
            self._timer = asyncio.get_running_loop().call_later(UNTAKEN_S_MAX, self._wait_for, left)

    def lost(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self.own.close()


def _drop(_data: bytes) -> None:
    """Discard the data, as a closed transport does."""
