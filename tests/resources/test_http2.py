"""HTTP/2: one connection carries many requests, each of which takes a permit and is counted when it is written."""

from __future__ import annotations

import asyncio
import contextlib

import hypercorn.asyncio
import hypercorn.config
import pytest

from tests.servers import free_port
from tests.support import GUARD_S, Signal, eventually

EVENTS = [b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', b"data: [DONE]\n\n"]


class Site:
    """Streams `EVENTS`, the second of which waits for `goes_on`."""

    def __init__(self):
        self.goes_on = Signal()
        self.versions = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        self.versions.append(scope["http_version"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": EVENTS[0], "more_body": True})
        await self.goes_on.wait()
        await send({"type": "http.response.body", "body": EVENTS[1], "more_body": False})


@contextlib.asynccontextmanager
async def served(site):
    config = hypercorn.config.Config()
    port = free_port()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = config.errorlog = None
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(hypercorn.asyncio.serve(site, config, shutdown_trigger=stop.wait))
    try:
        async with asyncio.timeout(GUARD_S):
            while not ready.is_set():
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    ready.set()
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        await serving


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_streams_of_one_connection_hold_a_permit_each(openai, limits, library):
    site = Site()
    async with served(site) as url, openai.async_http_client(library, http1=False, http2=True) as client:

        async def read():
            async with client.stream("GET", url) as response:
                return [part async for part in response.aiter_raw()]

        tasks = [asyncio.create_task(read()) for _ in range(3)]
        await eventually(lambda: limits.what().count("written") == 3)
        assert limits.in_use == 3
        site.goes_on.set()
        assert [b"".join(parts) for parts in await asyncio.gather(*tasks)] == [b"".join(EVENTS)] * 3
    assert site.versions == ["2"] * 3
    assert limits.in_use == 0
    assert [done.how for done in limits.dones] == ["ok"] * 3
