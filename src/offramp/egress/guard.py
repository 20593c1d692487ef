"""Connects only to allowed addresses: resolves a name once, checks its addresses, and connects to one of them.

A second look-up could give another address (DNS rebinding), so there is none.
"""

from __future__ import annotations

import asyncio
import socket
import typing
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import httpcore

from offramp.core.addresses import Address, Allowed, refusal

LOOKUPS = 8
"""The maximum of names resolved at once; the system's resolver blocks a thread for each."""
ADDRESSES_MAX = 4
"""The maximum of addresses tried for one name."""

# httpcore's own type for socket options.
_Option = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class ForbiddenAddress(Exception):
    """The name leads to a forbidden address."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """httpcore's network, behind the guard.

    Args:
        allowed: the allowed addresses beside public ones.
    """

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._network = httpcore.AnyIOBackend()
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="offramp-resolve")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_Option] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the name's addresses that answers.

        Raises:
            ForbiddenAddress: the port or one of its addresses is forbidden; then it connects to none of them.
            httpcore.ConnectError: the name has no address, or none answers.
        """
        if not self._allowed.takes(port):
            raise ForbiddenAddress(f"port {port} is not in OFFRAMP_WEBHOOK_PORTS")
        addresses = await self._resolve(host, port)
        why = refusal(host, addresses, self._allowed)
        if why is not None:
            raise ForbiddenAddress(f"{why}, which OFFRAMP_WEBHOOK_ALLOW does not allow")
        tried = addresses[:ADDRESSES_MAX]
        for address in tried[:-1]:
            # An address that drops packets leaves time for the others.
            share = None if timeout is None else timeout / len(tried)
            try:
                return await self._network.connect_tcp(str(address), port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network.connect_tcp(str(tried[-1]), port, timeout, local_address, socket_options)

    async def _resolve(self, host: str, port: int) -> list[Address]:
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._lookups, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
            addresses = [ip_address(entry[4][0]) for entry in found]
        except (OSError, UnicodeError, ValueError) as error:
            raise httpcore.ConnectError(f"the name cannot be resolved: {error}") from error
        if not addresses:
            raise httpcore.ConnectError("the name has no address")
        return list(dict.fromkeys(addresses))

    async def connect_unix_socket(self, *_: typing.Any, **__: typing.Any) -> httpcore.AsyncNetworkStream:
        """Refuse: webhooks use no local socket.

        Raises:
            ForbiddenAddress: always.
        """
        raise ForbiddenAddress("a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        """Sleep, as httpcore's interface requires."""
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """End the resolver's threads."""
        self._lookups.shutdown(wait=False, cancel_futures=True)
