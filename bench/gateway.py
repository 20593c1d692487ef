"""The gateway under load: 202s beside open streams, the first event of a stream, and CPU per streamed event.

Servers run in their own processes and this one is the load; Offramp and a bare Starlette stream of the same bytes take
turns. README.md explains the columns.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._http import Connection, Streamed, connect, post  # noqa: E402 - found through the line above
from bench._load import percentile  # noqa: E402
from bench._open_loop import steady  # noqa: E402
from bench._report import Target, median, show, table  # noqa: E402
from bench._servers import Server, bare, free_port, gateway, serving  # noqa: E402

REQUESTS_PER_S = 200
OPEN_STREAMS = 100
OPEN_PAUSE_MS = 100.0
STREAMS = 50
ROUNDS = 3
SETTLE_S = 0.3
"""Between the last event and the CPU reading: a run's remaining writes are done by then."""
EVENTS_BESIDE_DELTAS = 4
"""run.accepted, step.started, step.completed, run.completed."""

ASYNC = post("/v1/pipelines/five/runs", b'{"input":{}}', b"prefer: respond-async\r\n")


class Pace(NamedTuple):
    """How each stream emits: a number of tokens with a pause between them."""

    name: str
    tokens: int
    pause_ms: float


class Acks(msgspec.Struct, frozen=True):
    """The 202s: latencies from the scheduled time of the request to the last byte of its answer."""

    streams: int
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    stream_events_per_s: float


class First(msgspec.Struct, frozen=True):
    """From a request to its first event and to its first token."""

    server: str
    event_p50_ms: float
    event_p99_ms: float
    token_p50_ms: float


class Cost(msgspec.Struct, frozen=True):
    """CPU per event of a server's processes; `http_us` is the one that speaks HTTP, `all_us` includes its workers."""

    server: str
    pace: str
    events: int
    events_per_s: float
    http_us: float
    all_us: float


def request(tokens: int, pause_ms: float) -> bytes:
    """A request for an event stream of that many tokens."""
    body = msgspec.json.encode({"input": {"tokens": tokens, "pause_ms": pause_ms}})
    return post("/v1/pipelines/tokens/runs", body, b"accept: text/event-stream\r\n")


async def read(connection: Connection, tokens: int, pause_ms: float) -> Streamed:
    """Read a whole stream and check that every event arrived."""
    streamed = await connection.stream(request(tokens, pause_ms))
    if streamed.events != tokens + EVENTS_BESIDE_DELTAS:
        raise RuntimeError(f"{streamed.events} events arrived, expected {tokens + EVENTS_BESIDE_DELTAS}")
    return streamed


async def acks(port: int, seconds: float, streams: int) -> Acks:
    """Measure 202s on a schedule, beside emitting streams."""
    tokens = round((seconds + 1.0) * 1000 / OPEN_PAUSE_MS)
    open_streams = [await connect(port) for _ in range(streams)]
    readers = [asyncio.create_task(read(connection, tokens, OPEN_PAUSE_MS)) for connection in open_streams]
    await asyncio.sleep(0.5)
    answers = await steady(port, [ASYNC] * round(seconds * REQUESTS_PER_S), REQUESTS_PER_S)
    latencies = [answer.late_ms for answer in answers]
    seen = await asyncio.gather(*readers)
    wall_s = max((one.ended for one in seen), default=1.0) - min((one.began for one in seen), default=0.0)
    for connection in open_streams:
        connection.close()
    rate = sum(one.events for one in seen) / wall_s
    return Acks(streams, len(latencies), percentile(latencies, 0.5), percentile(latencies, 0.99), max(latencies), rate)


async def first_events(ports: dict[str, int], requests: int) -> list[First]:
    """Measure one request after the other, the servers in turn."""
    connections = {name: await connect(port) for name, port in ports.items()}
    streamed_by: dict[str, list[Streamed]] = {name: [] for name in ports}
    for number in range(requests + 10):
        for name, connection in connections.items():
            streamed = await read(connection, 3, 0.0)
            if number >= 10:  # warm-up
                streamed_by[name].append(streamed)
    for connection in connections.values():
        connection.close()
    made = []
    for name, streams in streamed_by.items():
        events = [(one.first_event - one.began) * 1000 for one in streams]
        tokens = [(one.first_delta - one.began) * 1000 for one in streams]
        made.append(First(name, percentile(events, 0.5), percentile(events, 0.99), percentile(tokens, 0.5)))
    return made


async def cost(name: str, server: Server, pace: Pace) -> Cost:
    """Measure all streams at once, at full speed or at their pace."""
    connections = [await connect(server.port) for _ in range(STREAMS)]
    http_s, all_s, began = server.cpu_s(), server.family_cpu_s(), time.perf_counter()
    seen = await asyncio.gather(*(read(connection, pace.tokens, pace.pause_ms) for connection in connections))
    wall_s = time.perf_counter() - began
    await asyncio.sleep(SETTLE_S)
    http_s, all_s = server.cpu_s() - http_s, server.family_cpu_s() - all_s
    for connection in connections:
        connection.close()
    events = sum(one.events for one in seen)
    return Cost(name, pace.name, events, events / wall_s, http_s / events * 1e6, all_s / events * 1e6)


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[dict[str, Server]]:
    """Both servers; the bare one replays the gateway's bytes."""
    port = free_port()
    async with serving(gateway(port, folder / "data"), port) as ours:
        recorded = folder / "stream"
        recorded.write_bytes(await _recording(port))
        other = free_port()
        async with serving(bare(other, recorded), other) as floor:
            yield {"offramp": ours, "bare": floor}


async def _recording(port: int) -> bytes:
    """The event stream of a short run as on the wire, without its chunk framing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(3, 1.0))
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"not a stream: {head!r}")
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    writer.close()
    return body


class Measured(msgspec.Struct):
    """All results, for printing and as JSON."""

    acks: list[Acks]
    first: list[First]
    costs: list[Cost]


async def measure(folder: Path, *, quick: bool) -> Measured:
    rounds = 1 if quick else ROUNDS
    paces = [Pace("as fast as it goes", 500, 0.0), Pace("50 tokens/s each", 50 if quick else 200, 20.0)]
    measured = Measured([], [], [])
    async with servers(folder) as both:
        ports = {name: server.port for name, server in both.items()}
        measured.first = await first_events(ports, 50 if quick else 300)
        each: dict[tuple[str, str], list[Cost]] = {}
        for _ in range(rounds):
            for pace in paces:
                for name, server in both.items():
                    each.setdefault((name, pace.name), []).append(await cost(name, server, pace))
        measured.costs = [_median(costs) for costs in each.values()]
        for streams in (0, OPEN_STREAMS):
            measured.acks.append(await acks(ports["offramp"], 3.0 if quick else 10.0, streams))
    return measured


def _median(costs: list[Cost]) -> Cost:
    first = costs[0]
    figures = {name: median([getattr(one, name) for one in costs]) for name in ("events_per_s", "http_us", "all_us")}
    return Cost(first.server, first.pace, first.events, **figures)


def render(measured: Measured) -> str:
    ack_rows = [
        [
            str(a.streams),
            str(a.requests),
            f"{a.p50_ms:.2f}",
            f"{a.p99_ms:.2f}",
            f"{a.max_ms:.1f}",
            f"{a.stream_events_per_s:,.0f}",
        ]
        for a in measured.acks
    ]
    first_rows = [
        [f.server, f"{f.event_p50_ms:.2f}", f"{f.event_p99_ms:.2f}", f"{f.token_p50_ms:.2f}"] for f in measured.first
    ]
    bare_us = {c.pace: c.http_us for c in measured.costs if c.server == "bare"}
    cost_rows = [
        [
            f"{c.server}, {c.pace}",
            f"{c.events_per_s:,.0f}",
            f"{c.http_us:.1f}",
            f"{c.all_us:.1f}",
            f"{c.all_us / bare_us[c.pace]:.2f}",
        ]
        for c in measured.costs
    ]
    return "\n\n".join(
        [
            f"202s at {REQUESTS_PER_S}/s\n"
            + table(["open streams", "requests", "P50 ms", "P99 ms", "max ms", "events/s in streams"], ack_rows),
            "the start of a stream, one request at a time\n"
            + table(["server", "first event P50 ms", "P99 ms", "first token P50 ms"], first_rows),
            f"CPU of {STREAMS} streams at once\n"
            + table(["server, pace", "events/s", "HTTP process us/event", "all us/event", "x bare"], cost_rows),
        ]
    )


def targets(measured: Measured) -> list[Target]:
    """The design's targets for the gateway."""
    first = {one.server: one for one in measured.first}
    costs = {(one.server, one.pace): one for one in measured.costs}
    late = first["offramp"].event_p50_ms - first["bare"].event_p50_ms
    made = [
        Target(
            f"P99 of a 202 beside {measured.acks[-1].streams} streams", measured.acks[-1].p99_ms, 50.0, False, " ms"
        ),
        Target("first event, later than a bare stream's", late, 2.0, at_least=False, unit=" ms"),
    ]
    for pace in dict.fromkeys(one.pace for one in measured.costs):
        ratio = costs["offramp", pace].all_us / costs["bare", pace].http_us
        made.append(Target(f"CPU per event over bare, {pace}", ratio, 3.0, at_least=False))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, shorter")
    parser.add_argument("--folder", type=Path, help="folder of the database; the disk matters")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=given.folder) as folder:
        measured = uvloop.run(measure(Path(folder), quick=given.quick))
    show(measured, render(measured), targets(measured), as_document=given.json)


if __name__ == "__main__":
    main()
