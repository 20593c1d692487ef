"""At the bound of what fits into the process a client gets an answer that says so, and no connection is reset."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys

import httpx
import psutil
import pytest

from offramp.cli import check_host
from offramp.cli.check_host import check_machine
from offramp.gateway import descriptors
from offramp.gateway.slots import Streams
from offramp.gateway.wire import accepting, connections, lingering, server
from offramp.settings import Settings
from tests.cli.conftest import project  # noqa: F401 - a fixture
from tests.cli.harness import running
from tests.gateway.conftest import serving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
FITS = 4


def bounded(monkeypatch, files):
    monkeypatch.setattr(descriptors, "files_max", lambda: files)


@pytest.mark.parametrize(
    ("files", "connections", "streams"), [(1024, 768, 691), (128, 96, 86), (1 << 20, 1048320, 943488)]
)
def test_what_fits_beside_what_the_process_needs_itself(monkeypatch, files, connections, streams):
    bounded(monkeypatch, files)
    assert (descriptors.connections_max(), descriptors.streams_max()) == (connections, streams)


def test_without_a_limit_nothing_is_bounded(monkeypatch):
    bounded(monkeypatch, None)
    assert (descriptors.connections_max(), descriptors.streams_max()) == (None, None)


def limited(limits, code):
    command = ["bash", "-c", f"{limits}; exec {sys.executable} -c '{code}'"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def test_the_limit_is_raised_as_far_as_the_system_allows():
    code = "from offramp.gateway.descriptors import *; raise_limit(); print(files_max())"
    assert limited("ulimit -Sn 200; ulimit -Hn 300", code) == "300"


def test_a_stream_that_does_not_fit_is_refused_whoever_asks(monkeypatch):
    bounded(monkeypatch, 4)
    streams = Streams(descriptors.streams_max())
    slots = [streams.take(tenant, 10) for tenant in ("", "acme")]
    with pytest.raises(Exception, match=r"this process has 2 streams open.*ulimit -n") as caught:
        streams.take("other", 10)
    assert (caught.value.status, caught.value.retry_after) == (503, 5.0)
    slots[0].release()
    streams.take("other", 10).release()


async def test_a_request_for_a_stream_that_does_not_fit_is_a_problem_document(service, gateway, client):
    gateway.access.streams = Streams(0)
    run = service.new_run()
    answer = await client.get(f"/v1/runs/{run.record.id}/events")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:offramp:error:overloaded")
    assert answer.headers["retry-after"] == "5"
    assert (await client.get(f"/v1/runs/{run.record.id}")).status_code == 200


@pytest.fixture
async def crowded(gateway, monkeypatch):
    """The port of a gateway that holds as many connections as fit, each of which has had an answer."""
    monkeypatch.setattr(server, "connections_max", lambda: FITS)
    async with serving(gateway) as url, contextlib.AsyncExitStack() as opened:
        port = httpx.URL(url).port
        held = [await opened.enter_async_context(connection(port)) for _ in range(FITS)]
        for one in held:
            assert (await asked(one)).startswith(b"HTTP/1.1 200")
        yield port, held


@contextlib.asynccontextmanager
async def connection(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def asked(connection, path="/healthz"):
    reader, writer = connection
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head + await reader.readexactly(length)


async def test_a_connection_that_does_not_fit_is_told_so_and_closed(crowded):
    port, held = crowded
    async with connection(port) as late:
        head, _, body = (await asked(late, "/v1/pipelines")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in head
        assert json.loads(body)["type"] == "urn:offramp:error:overloaded"
        async with asyncio.timeout(10):
            assert await late[0].read() == b""
    assert (await asked(held[0])).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz?probe=1"])
async def test_probes_are_answered_though_no_connection_fits(crowded, path):
    port, _ = crowded
    async with connection(port) as probe:
        assert (await asked(probe, path)).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(10):
            assert await probe[0].read() == b"", "and make room again"


async def test_when_one_has_left_the_next_one_fits(crowded):
    port, held = crowded
    held[0][1].close()
    await held[0][1].wait_closed()
    async with asyncio.timeout(10):
        while True:
            async with connection(port) as late:
                if (await asked(late, "/v1/pipelines")).startswith(b"HTTP/1.1 200"):
                    return


async def test_what_is_not_accepted_yet_waits_and_is_answered(crowded, monkeypatch):
    monkeypatch.setattr(connections, "CROWDED_HEAD_S_MAX", 0.3)
    port, _ = crowded
    async with contextlib.AsyncExitStack() as opened:
        silent = [await opened.enter_async_context(connection(port)) for _ in range(2 * accepting.REFUSED_MAX)]
        async with connection(port) as probe:
            assert (await asked(probe)).startswith(b"HTTP/1.1 200"), "behind those who say nothing"
        for reader, _ in silent:
            async with asyncio.timeout(10):
                assert await reader.read() == b"", "closed, not reset"


async def test_a_head_that_stops_halfway_makes_room_for_a_probe_at_once(crowded, monkeypatch):
    monkeypatch.setattr(connections, "CROWDED_HEAD_S_MAX", 0.3)
    monkeypatch.setattr(lingering, "LINGER_S", 3600.0)
    port, _ = crowded
    async with contextlib.AsyncExitStack() as opened:
        halting = [await opened.enter_async_context(connection(port)) for _ in range(2 * accepting.REFUSED_MAX)]
        for _, writer in halting:
            writer.write(b"GET /v1/runs HTTP/1.1\r\nHost: ")
        async with connection(port) as probe:
            assert (await asked(probe)).startswith(b"HTTP/1.1 200")
        for reader, _ in halting:
            async with asyncio.timeout(10):
                assert (await reader.read()).startswith(b"HTTP/1.1 503"), "not reset"


async def test_a_process_that_can_open_no_file_answers_still(project):  # noqa: F811
    with running("serve", "desk.py", "--port", "0", "--workers", "0", cwd=project) as gateway:
        port = int(gateway.wait_for(r"at http://127.0.0.1:(\d+),")[1])
        process = psutil.Process(gateway.process.pid)
        async with contextlib.AsyncExitStack() as opened:
            held = [await opened.enter_async_context(connection(port))]
            assert (await asked(held[0], "/v1/pipelines")).startswith(b"HTTP/1.1 200")
            most = process.num_fds() + 10
            process.rlimit(psutil.RLIMIT_NOFILE, (most, most))
            heads = []
            for _ in range(30):
                held.append(await opened.enter_async_context(connection(port)))
                heads.append((await asked(held[-1], "/v1/pipelines"))[:12])
            assert heads[0] == b"HTTP/1.1 200"
            assert heads[-1] == b"HTTP/1.1 503"
            assert set(heads) == {heads[0], heads[-1]}
            for path in ("/healthz", "/healthz", "/healthz"):
                async with connection(port) as probe:
                    assert (await asked(probe, path)).startswith(b"HTTP/1.1 200")
        gateway.wait_for("no more files can be opened")
        async with asyncio.timeout(10):
            while True:
                async with connection(port) as late:
                    if (await asked(late, "/v1/pipelines")).startswith(b"HTTP/1.1 200"):
                        break


@pytest.mark.parametrize(("files", "level"), [(1255, "risk"), (1256, "ok")])
def test_the_doctor_knows_what_fast_runs_need(monkeypatch, files, level):
    monkeypatch.setattr(check_host, "files_allowed", lambda: files)
    told = [finding.level for finding in check_machine(Settings(), 1) if finding.about == "open files"]
    assert told == ["risk"] * (level == "risk")
