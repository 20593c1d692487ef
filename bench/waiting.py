"""Many waiting runs with many readers: memory, latencies beside them, CPU while nothing happens, a restart.

A gateway with one worker holds parked runs that wait for a signal, and event streams of some of them. This process is
the load. README.md explains the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._gateway_app import APPROVAL, SIGNAL  # noqa: E402 - found through the line above
from bench._http import Connection, Streamed, connect, get, post  # noqa: E402
from bench._load import percentile  # noqa: E402
from bench._open_loop import steady  # noqa: E402
from bench._report import Target, show, table  # noqa: E402
from bench._servers import Memory, Server, free_port, gateway, serving  # noqa: E402

RUNS = 10_000
STREAMS = 2_000
ACKS_PER_S = 100
SIGNALS_PER_S = 50
SUBMITTERS = 50
LOOK_EVERY_S = 0.1
SETTLE_S = 2.0
"""Between the last request and a reading of memory or CPU."""
PHASE_S_MAX = 300.0

ASYNC = b"prefer: respond-async\r\n"
FIVE = post("/v1/pipelines/five/runs", b'{"input":{}}', ASYNC)
WAIT = post(f"/v1/pipelines/{APPROVAL}/runs", b'{"input":{}}', ASYNC)


class Size(NamedTuple):
    """The sizes of the measurement; durations in seconds."""

    runs: int
    streams: int
    acks_s: float
    signals: int
    idle_s: float


FULL = Size(RUNS, STREAMS, acks_s=20.0, signals=500, idle_s=30.0)
QUICK = Size(RUNS // 10, STREAMS // 10, acks_s=5.0, signals=100, idle_s=5.0)


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Idle(msgspec.Struct, frozen=True):
    """Idle CPU, in percent of one core."""

    http_percent: float
    workers_percent: float


class Measured(msgspec.Struct, kw_only=True):
    """All results, for printing and as JSON; durations in seconds, memory in MB."""

    runs: int
    streams: int
    accepted_s: float
    parked_s: float
    memory_started: Memory
    memory_parked: Memory
    memory_streams: Memory
    acks_alone: Latency
    acks: Latency
    idle: Idle
    signalled: Latency
    ready_s: float
    first_after_restart_s: float
    resumed_s: float


class Readers:
    """Open event streams, by run."""

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self.ended: dict[str, asyncio.Task[Streamed]] = {}

    async def open(self, port: int, run_ids: Sequence[str], after: int = 0) -> None:
        """Follow these runs; returns when each stream has sent the existing events."""
        for run_id in run_ids:
            connection = self._connections[run_id] = await connect(port)
            request = get(f"/v1/runs/{run_id}/events?starting_after={after}")
            self.ended[run_id] = asyncio.create_task(connection.stream(request))
        async with asyncio.timeout(PHASE_S_MAX):
            for run_id in run_ids:
                while not self._connections[run_id].answered:
                    if self.ended[run_id].done():
                        await self.ended[run_id]
                    await asyncio.sleep(LOOK_EVERY_S)

    async def close(self) -> None:
        for task in self.ended.values():
            task.cancel()
        for connection in self._connections.values():
            connection.close()
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(*self.ended.values(), return_exceptions=True)
        self._connections, self.ended = {}, {}


async def submit(port: int, count: int) -> list[str]:
    """Submit that many waiting runs as fast as they are accepted; returns their ids."""
    run_ids: list[str] = []
    left = count

    async def submitter() -> None:
        nonlocal left
        connection = await connect(port)
        while left > 0:
            left -= 1
            answer = await connection.whole(WAIT)
            if answer.status != 202:
                raise RuntimeError(f"expected 202, got {answer.status}: {answer.body[:200]!r}")
            run_ids.append(msgspec.json.decode(answer.body)["id"])
        connection.close()

    await asyncio.gather(*(submitter() for _ in range(SUBMITTERS)))
    return run_ids


async def parked(data: Path, count: int) -> None:
    """Wait until that many runs are parked and nothing else is under way, according to the database."""
    with closing(sqlite3.connect(f"file:{data / 'offramp.db'}?mode=ro", uri=True)) as connection:
        async with asyncio.timeout(PHASE_S_MAX):
            query = "SELECT count(*), total(parked_until IS NULL) FROM runs WHERE finished_at IS NULL"
            while True:
                if connection.execute(query).fetchone() == (count, 0):
                    return
                await asyncio.sleep(LOOK_EVERY_S)


async def acks(port: int, seconds: float) -> Latency:
    """Measure 202s on a schedule, for runs of five small steps."""
    answers = await steady(port, [FIVE] * round(seconds * ACKS_PER_S), ACKS_PER_S)
    return _latency([answer.late_ms for answer in answers])


async def signalled(port: int, run_ids: Sequence[str], readers: Readers) -> Latency:
    """Measure signals on a schedule, each until its run's stream has ended."""
    requests = [_signal(run_id) for run_id in run_ids]
    sent = await steady(port, requests, SIGNALS_PER_S)
    async with asyncio.timeout(PHASE_S_MAX):
        ends = [(await readers.ended[run_id]).ended for run_id in run_ids]
    return _latency([(end - one.due) * 1000 for end, one in zip(ends, sent, strict=True)])


def _signal(run_id: str) -> bytes:
    return post(f"/v1/runs/{run_id}/signals/{SIGNAL}", b'"yes"')


async def idle(server: Server, seconds: float) -> Idle:
    """Measure CPU with everything open and no requests."""
    await asyncio.sleep(SETTLE_S)
    http_s, all_s = server.cpu_s(), server.family_cpu_s()
    await asyncio.sleep(seconds)
    http_s, all_s = server.cpu_s() - http_s, server.family_cpu_s() - all_s
    return Idle(http_s / seconds * 100, (all_s - http_s) / seconds * 100)


def _latency(values_ms: Sequence[float]) -> Latency:
    return Latency(percentile(values_ms, 0.5), percentile(values_ms, 0.99), max(values_ms))


@asynccontextmanager
async def _open_readers() -> AsyncIterator[Readers]:
    readers = Readers()
    try:
        yield readers
    finally:
        await readers.close()


async def measure(folder: Path, size: Size) -> Measured:
    data, port = folder / "data", free_port()
    async with serving(gateway(port, data), port) as server, _open_readers() as readers:
        await submit(port, 1)  # warm-up
        acks_alone = await acks(port, size.acks_s)
        await parked(data, 1)
        memory_started = server.memory_mb()
        began = time.perf_counter()
        run_ids = await submit(port, size.runs - 1)
        accepted_s = time.perf_counter() - began
        await parked(data, size.runs)
        parked_s = time.perf_counter() - began
        await asyncio.sleep(SETTLE_S)
        memory_parked = server.memory_mb()
        followed = run_ids[: size.streams]
        await readers.open(port, followed)
        await asyncio.sleep(SETTLE_S)
        memory_streams = server.memory_mb()
        quiet = await idle(server, size.idle_s)
        acked = await acks(port, size.acks_s)
        ended = await signalled(port, followed[: size.signals], readers)
        server.kill()
    left = followed[size.signals :]
    began = time.perf_counter()
    async with serving(gateway(port, data), port), _open_readers() as readers:
        ready_s = time.perf_counter() - began
        await readers.open(port, left[:1], after=1)
        await signalled(port, left[:1], readers)
        first_s = time.perf_counter() - began
        await readers.open(port, left[1:], after=1)
        resumed_s = time.perf_counter() - began
    return Measured(
        runs=size.runs,
        streams=size.streams,
        accepted_s=accepted_s,
        parked_s=parked_s,
        memory_started=memory_started,
        memory_parked=memory_parked,
        memory_streams=memory_streams,
        acks_alone=acks_alone,
        acks=acked,
        idle=quiet,
        signalled=ended,
        ready_s=ready_s,
        first_after_restart_s=first_s,
        resumed_s=resumed_s,
    )


def render(measured: Measured) -> str:
    """One row per figure, with the gateway's and the worker's if both have one."""
    m = measured
    run_kb = [(late - early) * 1000 / m.runs for late, early in zip(m.memory_parked, m.memory_started, strict=True)]
    stream_kb = [
        (late - early) * 1000 / m.streams for late, early in zip(m.memory_streams, m.memory_parked, strict=True)
    ]
    held = f"{m.runs:,} runs wait, {m.streams:,} streams are open"
    rows = [
        ["memory after the start, MB", *_two(m.memory_started)],
        [f"memory while {m.runs:,} runs wait, MB", *_two(m.memory_parked)],
        [f"memory while {held}, MB", *_two(m.memory_streams)],
        ["memory per waiting run, kB", *[f"{value:.2f}" for value in run_kb]],
        ["memory per open stream, kB", *[f"{value:.1f}" for value in stream_kb]],
        ["CPU while nothing happens, % of a core", f"{m.idle.http_percent:.1f}", f"{m.idle.workers_percent:.1f}"],
        [f"{m.runs:,} runs accepted; parked, s", f"{m.accepted_s:.1f}", f"{m.parked_s:.1f}"],
        [f"202 at {ACKS_PER_S}/s, nothing else: P50; P99, ms", *_both(m.acks_alone)],
        [f"202 at {ACKS_PER_S}/s, all of that open: P50; P99, ms", *_both(m.acks)],
        [f"signal to run.completed at {SIGNALS_PER_S}/s: P50; P99, ms", *_both(m.signalled)],
        [
            "after kill -9: ready; first signalled run completed, s",
            f"{m.ready_s:.2f}",
            f"{m.first_after_restart_s:.2f}",
        ],
        ["after kill -9: streams open again, s", f"{m.resumed_s:.2f}", ""],
    ]
    return table(["", "gateway", "worker"], rows)


def _two(memory: Memory) -> list[str]:
    return [f"{value:.0f}" for value in memory]


def _both(latency: Latency) -> list[str]:
    return [f"{latency.p50_ms:.2f}", f"{latency.p99_ms:.2f}"]


def targets(measured: Measured) -> list[Target]:
    """The targets while many runs wait."""
    return [
        Target("P99 of a 202 beside all of them", measured.acks.p99_ms, 50.0, at_least=False, unit=" ms"),
        Target("idle gateway", measured.idle.http_percent, 5.0, at_least=False, unit=" % of a core"),
        Target("idle worker", measured.idle.workers_percent, 5.0, at_least=False, unit=" % of a core"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs and streams")
    parser.add_argument("--folder", type=Path, help="folder of the database; the disk matters")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    # A connection is a descriptor on either side; the server inherits the limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=given.folder) as folder:
        measured = uvloop.run(measure(Path(folder), size))
    show(measured, render(measured), targets(measured), as_document=given.json)


if __name__ == "__main__":
    main()
