from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from offramp.gateway.asgi import Gateway
from offramp.gateway.wire import server
from tests.gateway.fake import FakeService


@pytest.fixture
async def service():
    return FakeService()


@pytest.fixture
async def gateway(service):
    gateway = Gateway(lambda: service)
    async with gateway.lifespan():
        yield gateway


@pytest.fixture
async def client(gateway):
    transport = httpx.ASGITransport(gateway)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@contextlib.asynccontextmanager
async def serving(gateway, **configured):
    """The gateway under the real server, on a free port, in this loop; `configured` sets attributes of its config."""
    bound = server.bind("127.0.0.1", 0)
    started = asyncio.Event()
    config = server.config_of(gateway)
    for name, value in configured.items():
        setattr(config, name, value)
    running = server.Server(config, bound, started.set)
    await gateway.open()
    task = asyncio.create_task(running.serve(sockets=[bound]))
    try:
        async with asyncio.timeout(10):
            await started.wait()
        yield server.url_of(bound)
    finally:
        await gateway.close()
        running.should_exit = True
        await task
        bound.close()


@pytest.fixture
async def url(gateway):
    async with serving(gateway) as url:
        yield url


@pytest.fixture
async def web(url):
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as web:
        yield web
