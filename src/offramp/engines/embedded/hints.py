"""Hints between the processes of one machine: there is work, a run has new events, cancel it, a webhook is due.

UDP on loopback. A hint carries no authority and may be lost: its receiver only looks into the store earlier than it
would have anyway.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

log = logging.getLogger("offramp")

Kind = Literal["hello", "work", "events", "cancel", "signal", "webhooks"]
IDS_MAX = 1_000
"""Run ids in one datagram; 1,000 of them take 32 kB of the 64 kB that loopback carries."""


class _Hint(msgspec.Struct, array_like=True):
    kind: Kind
    ids: list[str] = []


_decode = msgspec.msgpack.Decoder(_Hint).decode


class Hints(asyncio.DatagramProtocol):
    """This process's end: a socket to receive on, and the ports of the others.

    Args:
        received: called on the loop that started it with kind and run ids.
    """

    def __init__(self, received: Callable[[Kind, list[str]], object]) -> None:
        self._received = received
        self._transport: asyncio.DatagramTransport | None = None
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.setblocking(False)
        self._peers: list[int] = []
        self._readers: list[int] = []
        self.port = 0

    async def start(self) -> None:
        """Bind to a free port on loopback."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]

    def peers(self, ports: Iterable[int], readers: Iterable[int]) -> None:
        """Set the ports of the other processes, and of those among them that have readers of events."""
        self._peers = [port for port in ports if port not in {0, self.port}]
        self._readers = [port for port in readers if port in self._peers]

    def datagram_received(self, data: bytes, _address: object) -> None:
        """Pass a well-formed hint on; anything else is not for us."""
        try:
            hint = _decode(data)
        except msgspec.MsgspecError:
            return
        self._received(hint.kind, hint.ids[:IDS_MAX])

    def send(self, kind: Kind, ids: Sequence[str] = ()) -> None:
        """Tell every peer whom it concerns; from any thread, never blocks."""
        peers = self._readers if kind == "events" else self._peers
        if not peers:
            return
        for start in range(0, max(1, len(ids)), IDS_MAX):
            data = msgspec.msgpack.encode(_Hint(kind, list(ids[start : start + IDS_MAX])))
            for port in peers:
                try:
                    self._out.sendto(data, ("127.0.0.1", port))
                except OSError as error:  # a full buffer or a peer that is gone: it polls, or is no more
                    log.debug("a hint was not sent: %s", error)

    def close(self) -> None:
        """Close both sockets."""
        if self._transport is not None:
            self._transport.close()
        self._out.close()
