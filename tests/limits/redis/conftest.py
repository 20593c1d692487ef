from __future__ import annotations

import pytest

from offramp.limits.redis import scripts
from tests import valkey
from tests.limits.redis.processes import SOON_S, Place
from tests.stores.redis.line import Line


@pytest.fixture(autouse=True)
def _needs_valkey():
    if missing := valkey.missing():
        pytest.skip(missing)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Processes are heard within a moment here."""
    monkeypatch.setitem(scripts.CONSTANTS, "QUIET_S", SOON_S)


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
async def place():
    """The limits of a store of the test's own, on the shared server, which is no longer new."""
    made = Place(valkey.server())
    await made.settled()
    yield made
    await made.close()


@pytest.fixture
async def place_at():
    """The same on another server."""
    made = []

    def at(server):
        made.append(Place(server))
        return made[-1]

    yield at
    for each in made:
        await each.close()


@pytest.fixture
def line():
    """A way to the shared server that loses what a test wants lost."""
    made = Line(valkey.server().port)
    yield made
    made.close()
