from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from offramp.errors import SettingsError
from offramp.gateway.wire import server
from tests.gateway.wire import types_of

ROOT = Path(__file__).resolve().parents[2]
RUNS = "/v1/pipelines/research/runs"
BODY = json.dumps({"input": {"question": "why"}}).encode()
HEADERS = {"Accept": "text/event-stream", "Content-Type": "application/json"}


@contextlib.asynccontextmanager
async def process(mode):
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.gateway.served", mode, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            url = (await started.stdout.readline()).decode().strip()
        yield started, url
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def ended(started):
    async with asyncio.timeout(30):
        out, _ = await started.communicate()
        return await started.wait(), out.decode().split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_demotes_what_runs_tells_its_reader_and_ends_with_0(number):
    async with process("plain") as (started, url), httpx.AsyncClient(base_url=url, trust_env=False) as web:
        async with web.stream("POST", RUNS, content=BODY, headers=HEADERS) as answer:
            chunks = answer.aiter_bytes()
            seen = await anext(chunks)
            while b"run.accepted" not in seen:
                seen += await anext(chunks)
            started.send_signal(number)
            seen += b"".join([chunk async for chunk in chunks])
        assert types_of(seen) == ["run.accepted", "run.demoted"]
        assert await ended(started) == (0, ["draining", "draining", "stopped"])


async def test_a_second_signal_ends_it_at_once():
    async with process("stuck") as (started, url), httpx.AsyncClient(base_url=url, trust_env=False) as web:
        request = web.build_request("POST", RUNS, content=BODY, headers=HEADERS)
        answer = await web.send(request, stream=True)
        async with contextlib.aclosing(answer):
            await anext(answer.aiter_bytes())
            started.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await started.stdout.readline() == b"draining\n"
            # While it drains it still answers.
            assert (await web.get("/healthz")).status_code == 200
            started.send_signal(signal.SIGTERM)
            code, said = await ended(started)
        assert (code, "stopped" in said) == (1, False)


async def test_an_idle_server_ends_with_0():
    async with process("plain") as (started, _):
        started.send_signal(signal.SIGTERM)
        assert (await ended(started))[0] == 0


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            server.bind("127.0.0.1", port)
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is in use: stop the process that listens there, or choose another port with --port"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_an_address_for_others_needs_keys_or_insecure(host):
    with pytest.raises(SettingsError, match="--insecure"):
        server.bind(host, 0)


@pytest.mark.parametrize("options", [{"insecure": True}, {"keys": True}])
def test_an_address_for_others_with_consent(options):
    with contextlib.closing(server.bind("0.0.0.0", 0, **options)) as bound:
        assert bound.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST", "::1", "[::1]"])
def test_loopback_addresses(host):
    assert server.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", ""])
def test_other_addresses(host):
    assert not server.is_loopback(host)


def test_a_host_that_is_none_is_one_line():
    with pytest.raises(SettingsError, match="is not an address of this machine"):
        server.bind("nowhere.invalid", 0, insecure=True)


def test_a_port_out_of_range_is_refused():
    with pytest.raises(SettingsError):
        server.bind("127.0.0.1", 70_000)


def test_the_address_is_the_real_one():
    with contextlib.closing(server.bind("127.0.0.1", 0)) as bound:
        assert server.url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"
