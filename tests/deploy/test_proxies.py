"""A gateway behind nginx, Caddy and Envoy, as docs/how-to/proxy.md configures them, over HTTP/2 and under a path."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests import proxies
from tests.chaos.serving import PATIENT, Serving
from tests.gateway.wire import parse_sse
from tests.support import eventually

APP = Path(__file__).resolve().parents[1] / "examples" / "in_browser.py"
SECRET = "proxy-0123456789abcdef"
KEY = {"Authorization": f"Bearer {SECRET}"}
RUNS = "/agents/v1/pipelines/answer/runs"
GUARD_S = 60.0
EACH = [
    pytest.param(name, marks=pytest.mark.skipif(proxies.missing(name) is not None, reason=str(proxies.missing(name))))
    for name in proxies.LANGUAGES
]


class Through(httpx.AsyncHTTPTransport):
    """Connects to this machine under the proxies' name."""

    async def handle_async_request(self, request):
        request.extensions["sni_hostname"] = proxies.HOST
        return await super().handle_async_request(request)


@pytest.fixture
async def gateway(tmp_path, monkeypatch):
    monkeypatch.setenv("HELD_BUDGET", "60")
    serving = Serving(
        tmp_path, app=APP, workers=1, api_keys=f"ops:{SECRET}", **PATIENT | {"root_path": "/agents", "heartbeat": 0.5}
    )
    serving.start()
    try:
        await asyncio.to_thread(serving.wait_until_up)
        yield serving
    finally:
        serving.close()


@pytest.fixture(params=EACH)
async def port(request, gateway, tmp_path):
    with proxies.proxying(request.param, gateway.port, tmp_path) as port:
        yield port


@pytest.fixture
async def web(port):
    transport = Through(verify=proxies.trusting(), http2=True, trust_env=False)
    named = {"Host": f"{proxies.HOST}:{port}"}
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}", headers=named, transport=transport, timeout=GUARD_S
    ) as web:
        yield web


class Stream:
    """A stream as it arrives."""

    def __init__(self, answer):
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
        self._chunks = answer.aiter_raw()
        self.raw = b""

    @property
    def events(self):
        return parse_sse(self.raw)[0]

    async def until(self, text):
        """Read on until it contains the text."""
        async with asyncio.timeout(GUARD_S):
            while text not in self.raw:
                self.raw += await anext(self._chunks)

    async def end(self):
        async with asyncio.timeout(GUARD_S):
            async for chunk in self._chunks:
                self.raw += chunk
        return self.events


def started(web, **more):
    body = {"input": {"question": "three"}} | more
    return web.stream("POST", RUNS, json=body, headers=KEY | {"Accept": "text/event-stream"})


async def test_a_gateway_behind_it(gateway, web, port, tmp_path):
    async with started(web, budget=0.5) as answer:
        stream = Stream(answer)
        await stream.until(b'"delta":"two "')  # the run is held there, so nothing is kept back to be sent together
        *_, (last, kind, data) = await stream.end()
        assert kind == "run.demoted"
        links = json.loads(data)["links"]
        assert links["events"].startswith("/agents/v1/runs/")
    async with web.stream("GET", links["events"], headers=KEY | {"Last-Event-ID": last}) as answer:
        stream = Stream(answer)
        await stream.until(b": heartbeat\n: heartbeat\n")
        assert all(int(number) > int(last) for number, _, _ in stream.events)
    ticket = (await web.post(links["self"] + "/ticket", headers=KEY)).json()["ticket"]
    address = f"wss://{proxies.HOST}:{port}{links['ws']}?ticket={ticket}"
    async with connect(address, host="127.0.0.1", port=port, ssl=proxies.trusting(), proxy=None) as socket:
        assert json.loads(await socket.recv())["type"] == "run.accepted"
        await socket.send('{"type": "cancel"}')
        assert [json.loads(message)["type"] async for message in socket][-1] == "run.cancelled"
    followed = await web.get(links["events"], params={"ticket": ticket, "lastEventId": last})
    assert parse_sse(followed.content)[0][-1][1] == "run.cancelled"
    await drained(gateway, web, tmp_path)
    await eventually(lambda: links["events"] in (tmp_path / "access.log").read_text())
    assert ticket not in (tmp_path / "access.log").read_text()


async def drained(gateway, web, tmp_path):
    """A gateway that is replaced: its stream ends with `run.demoted`, and is continued at the next one."""
    async with started(web) as answer:
        stream = Stream(answer)
        await stream.until(b'"delta":"two "')
        stopping = asyncio.create_task(asyncio.to_thread(gateway.terminate))
        await stream.until(b"event: run.demoted")
        (tmp_path / "gate").touch()
        *_, (last, kind, data) = await stream.end()
        assert (kind, json.loads(data)["reason"]) == ("run.demoted", "drain")
    assert await stopping == 0
    gateway.start()
    await asyncio.to_thread(gateway.wait_until_up)
    assert (await web.get("/agents/readyz")).status_code == 200
    rest = await web.get(json.loads(data)["links"]["events"], headers=KEY | {"Last-Event-ID": last})
    found = parse_sse(rest.content)[0]
    assert int(found[0][0]) == int(last) + 1
    assert found[-1][1] == "run.completed"
