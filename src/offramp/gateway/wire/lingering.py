"""Closing a connection in the middle of a request, so that the client still hears the answer.

What is closed with bytes unread is reset, and a reset may overtake the answer on its way (RFC 9112, 9.6): so the server
says that it sends no more, throws away what still comes for a moment, and only then closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LINGER_S = 1.0
"""How long what a refused client still sends is thrown away."""


class LingeringTransport:
    """A transport whose `close` lingers if that is called for; all else is the transport's own.

    Args:
        transport: of the connection.
        is_needed: whether something of a request may be unread.
    """

    def __init__(self, transport: asyncio.Transport, is_needed: Callable[[], bool]) -> None:
        self.own = transport
        self.write: Callable[[bytes], object] = transport.write  # called for every event
        self._is_needed = is_needed
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def is_closing(self) -> bool:
        """Whether nothing that comes is read any more."""
        return self._timer is not None or self.own.is_closing()

    def close(self) -> None:
        """Close once what was written is sent, after a moment if the client may be sending still."""
        if self.is_closing():
            return
        if not self._is_needed():
            self.own.close()
            return
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.own.close)
        self.write = _drop
        if self.own.can_write_eof():
            self.own.write_eof()
        self.own.resume_reading()

    def lost(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self.own.close()


def _drop(_data: bytes) -> None:
    """As a transport that is closed does."""
