"""Hints between the processes of one machine, by UDP on loopback: no broker and no connections."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

import msgspec

from offramp.ports import forks
from offramp.ports.hints import IDS_MAX, Hearer, Kind
from offramp.ports.store import Owner

logger = logging.getLogger("offramp")

WITHOUT_READERS = "worker"
"""The kind of a process without readers: it receives no hints of events."""


class _Hint(msgspec.Struct, array_like=True):
    kind: Kind
    ids: list[str] = []


_decode = msgspec.msgpack.Decoder(_Hint).decode


class UDPHints(asyncio.DatagramProtocol):
    """See the port. Hints of events go to every process that may have readers."""

    def __init__(self) -> None:
        self._hearer: Hearer | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._out: socket.socket | None = None
        self.ports: list[int] = []
        """Those of the other processes."""
        self._readers: list[int] = []
        self.port = 0
        forks.on_fork(self)

    def forked(self) -> None:
        """In a forked child: drop the ports, which are the parent's."""
        if self._transport is not None and self._out is not None:
            forks.close_copy(forks.descriptor_of(self._transport), self._out.fileno())

    async def open(self, hearer: Hearer) -> None:
        """Bind to a free port on loopback."""
        self._hearer = hearer
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.setblocking(False)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]

    def peers(self, owners: Sequence[Owner]) -> None:
        """Set the ports of the other processes, and which of them have readers of events."""
        others = [owner for owner in owners if owner.port not in {0, self.port}]
        self.ports = [owner.port for owner in others]
        self._readers = [owner.port for owner in others if owner.kind != WITHOUT_READERS]

    def datagram_received(self, data: bytes, _address: object) -> None:
        """Pass on a well-formed hint, and drop anything else."""
        try:
            hint = _decode(data)
        except msgspec.MsgspecError:
            return
        if self._hearer is not None:
            self._hearer.hinted(hint.kind, hint.ids[:IDS_MAX])

    def send(self, kind: Kind, ids: Sequence[str] = ()) -> None:
        """Send a hint to every peer that it concerns."""
        peers = self._readers if kind == "events" else self.ports
        if not peers or self._out is None:
            return
        for start in range(0, max(1, len(ids)), IDS_MAX):
            data = msgspec.msgpack.encode(_Hint(kind, list(ids[start : start + IDS_MAX])))
            for port in peers:
                try:
                    self._out.sendto(data, ("127.0.0.1", port))
                except OSError as error:  # the buffer is full, and the peer will poll, or the peer is gone
                    logger.debug("a hint was not sent: %s", error)

    def follow(self, run_id: str) -> None:
        """Do nothing: a process that may have readers receives hints of all events."""

    def unfollow(self, run_id: str) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Close both sockets."""
        if self._transport is not None:
            self._transport.close()
        if self._out is not None:
            self._out.close()
