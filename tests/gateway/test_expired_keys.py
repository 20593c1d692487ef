"""An idempotency key that outlives the data of its run: nothing is executed twice, and nothing looks like a result."""

from __future__ import annotations

import httpx
import pytest

from offramp import App
from offramp.gateway.asgi import Gateway
from offramp.settings import Settings
from offramp.stores.sqlite.purge import TOMBSTONE_S
from offramp.testing import FakeClock
from offramp.wiring import build

RUNS = "/v1/pipelines/once/runs"
RETENTION_S = 100.0
KEPT_S = 2 * TOMBSTONE_S
WAYS = {
    "json": {},
    "async": {"Prefer": "respond-async"},
    "stream": {"Accept": "text/event-stream"},
}


@pytest.fixture
def executed():
    return []


@pytest.fixture
async def retained(tmp_path, executed):
    """The gateway's clock and store, and a client that sends the same request again."""
    app, clock = App("keys"), FakeClock()

    @app.step
    async def note(text: str) -> str:
        executed.append(text)
        return text

    @app.pipeline(retention=RETENTION_S)
    async def once(text: str) -> str:
        return await note(text)

    settings = Settings.load({}, tmp_path / "none", data=str(tmp_path / "data"), idempotency=KEPT_S)
    gateway = Gateway(lambda: build(app, settings, role="local", clock=clock))
    transport = httpx.ASGITransport(gateway)
    async with gateway.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as web:

        async def ask(headers, text="x"):
            return await web.post(RUNS, json={"input": {"text": text}}, headers={"Idempotency-Key": "k"} | headers)

        async def later(seconds):
            clock.advance(seconds)
            store, now = gateway.service.process.store, clock.time()
            while await store.purge(now) or await store.sweep(now):
                pass

        yield ask, later


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_410_and_nothing_is_executed_again(retained, executed, way):
    ask, later = retained
    first = (await ask({})).json()
    assert (await ask({})).json() == first
    await later(RETENTION_S - 1)
    assert (await ask(WAYS[way])).status_code in {200, 202}
    # Its data is removed, then its record too.
    for seconds in (2, TOMBSTONE_S + 1):
        await later(seconds)
        answer = await ask(WAYS[way])
        assert (answer.status_code, answer.json()["type"]) == (410, "urn:offramp:error:expired")
        assert first["id"] in answer.json()["detail"]
        assert (await ask(WAYS[way], text="y")).status_code == 422
    assert executed == ["x"]


async def test_an_expired_key_is_free_again(retained, executed):
    ask, later = retained
    first = (await ask({})).json()
    await later(KEPT_S + 1)
    assert (await ask({})).json()["id"] != first["id"]
    assert executed == ["x", "x"]
