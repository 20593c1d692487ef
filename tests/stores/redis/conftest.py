from __future__ import annotations

import pytest

from tests import valkey
from tests.conformance.on_redis import OpenRedis
from tests.stores.redis.line import Line


@pytest.fixture(autouse=True)
def _needs_valkey():
    if missing := valkey.missing():
        pytest.skip(missing)


@pytest.fixture
def server():
    """The one that is shared; each URL is a store of its own."""
    return valkey.server()


@pytest.fixture
def a_server(tmp_path):
    """Starts servers of the test's own."""
    made = []

    def start(*options):
        folder = tmp_path / f"valkey-{len(made)}"
        folder.mkdir()
        made.append(valkey.Server(folder, *options))
        return made[-1]

    yield start
    for each in made:
        each.kill()


@pytest.fixture
async def at():
    """Opens stores, each as a process of its own."""
    opened = []

    def open_at(url):
        opened.append(OpenRedis(url))
        return opened[-1]

    yield open_at
    for each in reversed(opened):
        await each.close()


@pytest.fixture
def line(server):
    """The way to the shared server."""
    made = Line(server.port)
    yield made
    made.close()
