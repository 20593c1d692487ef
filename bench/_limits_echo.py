"""A server on a unix socket that sends back what it gets: the floor of bench/limits.py."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

ECHO = "echo"
FRAME_BYTES = 120
"""About as many as an ask has."""


class Back(asyncio.Protocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def main(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Back, path)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1]))
