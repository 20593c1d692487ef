"""The effect of a purge on the service: 202s at a steady rate before 100,000 runs are due, and while they are purged.

`offramp serve` with one worker on a prepared database. This process is the load. See README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._http import connect, post  # noqa: E402 - found through the line above
from bench._load import percentile  # noqa: E402
from bench._report import Target, show, table  # noqa: E402
from bench._servers import free_port, gateway, serving  # noqa: E402
from bench._stocked import due_in, stock  # noqa: E402
from offramp.stores.sqlite.database import FILE_NAME  # noqa: E402

ACKS_PER_S = 50
CONNECTIONS = 20
START_S = 12.0
"""From setting the runs' due time to the first request."""
SETTLE_S = 2.0
LOOK_EVERY_S = 0.5
STEADY_S = 5.0
RATIO_MAX = 3.0
PURGE_S_MAX = 300.0
FIVE = post("/v1/pipelines/five/runs", b'{"input":{}}', b"prefer: respond-async\r\n")


class Size(NamedTuple):
    """The sizes of the measurement."""

    runs: int
    keys: int
    calm_s: float


FULL = Size(100_000, 300_000, calm_s=20.0)
QUICK = Size(10_000, 30_000, calm_s=5.0)


class Acks(msgspec.Struct, frozen=True):
    """202s of one phase; milliseconds from a request's due time to the last byte of its answer."""

    requests: int
    refused: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Measured(msgspec.Struct, kw_only=True):
    """All results; file sizes in MB of 1,000,000 bytes."""

    runs: int
    calm: Acks
    purging: Acks
    shrinking: Acks
    purge_s: float
    lost_leases: int
    tracebacks: int
    file_before_mb: float
    file_after_mb: float


async def acks(port: int, until: asyncio.Event) -> Acks:
    """Send requests on a fixed schedule until the event is set, and count refusals."""
    idle = [await connect(port) for _ in range(CONNECTIONS)]
    late: list[float] = []
    refused = 0

    async def send(due: float) -> None:
        nonlocal refused
        while idle and not idle[-1].is_open:
            idle.pop()
        connection = idle.pop() if idle else await connect(port)
        try:
            answer = await connection.whole(FIVE)
        except (OSError, RuntimeError):  # uvloop's own error for a closed connection
            refused += 1
            connection.close()
            return
        late.append((time.perf_counter() - due) * 1000)
        refused += answer.status != 202
        idle.append(connection)

    began = time.perf_counter()
    sent: list[asyncio.Task[None]] = []
    while not until.is_set():
        due = began + len(sent) / ACKS_PER_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(send(due)))
    await asyncio.gather(*sent)
    for connection in idle:
        connection.close()
    return Acks(len(sent), refused, percentile(late, 0.5), percentile(late, 0.99), max(late))


def left(folder: Path, due_at: float) -> bool:
    """Whether a due run or key still exists."""
    runs = "SELECT 1 FROM runs WHERE purge_at <= ? AND purged = 0 LIMIT 1"
    keys = "SELECT 1 FROM idempotency WHERE expires_at <= ? LIMIT 1"
    with reading(folder) as connection:
        return any(connection.execute(query, (due_at,)).fetchone() for query in (runs, keys))


def reading(folder: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True, timeout=30))


def size_mb(folder: Path) -> float:
    return (folder / FILE_NAME).stat().st_size / 1e6


async def purged(folder: Path, due_at: float) -> float:
    """Seconds from the due time until everything is removed."""
    async with asyncio.timeout(PURGE_S_MAX):
        while await asyncio.to_thread(left, folder, due_at):  # noqa: ASYNC110 - another process removes it
            await asyncio.sleep(LOOK_EVERY_S)
    return time.time() - due_at


async def measure(folder: Path, size: Size) -> Measured:
    """Measure one server, first idle and then purging."""
    now = time.time()
    stock(folder, size.runs, tenant="", ended_at=now - 86_400, purge_at=now + 86_400, keys=size.keys)
    before = size_mb(folder)
    os.environ["OFFRAMP_PURGE_EVERY"] = "1"
    port = free_port()
    due_at = due_in(folder, START_S + size.calm_s)
    async with serving(gateway(port, folder), port) as server:
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(due_at - time.time() - SETTLE_S, over.set)
        calm = await acks(port, over)
        await asyncio.sleep(max(0.0, due_at - time.time()))
        over = asyncio.Event()
        during = asyncio.create_task(acks(port, over))
        took = await purged(folder, due_at)
        over.set()
        purging = await during
        over = asyncio.Event()
        during = asyncio.create_task(acks(port, over))
        await shrunk(folder)
        over.set()
        shrinking = await during
        log = server.log()
    return Measured(
        runs=size.runs,
        calm=calm,
        purging=purging,
        shrinking=shrinking,
        purge_s=took,
        lost_leases=log.count("lease"),
        tracebacks=log.count("Traceback"),
        file_before_mb=before,
        file_after_mb=size_mb(folder),
    )


async def shrunk(folder: Path) -> None:
    """Wait until the file has not shrunk for some seconds."""
    least, since = float("inf"), time.perf_counter()
    while time.perf_counter() - since < STEADY_S:
        with reading(folder) as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        if pages < least:
            least, since = pages, time.perf_counter()
        await asyncio.sleep(LOOK_EVERY_S)


def targets(measured: Measured) -> list[Target]:
    ratio = measured.purging.p99_ms / measured.calm.p99_ms
    return [
        Target("202 P99 while runs are purged, times that without", ratio, RATIO_MAX, at_least=False),
        Target(
            "the same while the file shrinks",
            measured.shrinking.p99_ms / measured.calm.p99_ms,
            RATIO_MAX,
            at_least=False,
        ),
        Target("requests refused", measured.purging.refused + measured.shrinking.refused, 0, at_least=False),
        Target("log lines about leases", measured.lost_leases, 0, at_least=False),
    ]


def render(measured: Measured) -> str:
    rows = [
        [
            name,
            f"{acks.requests:,}",
            f"{acks.refused}",
            *(f"{ms:,.1f}" for ms in (acks.p50_ms, acks.p99_ms, acks.max_ms)),
        ]
        for name, acks in (
            ("before", measured.calm),
            ("while they go", measured.purging),
            ("while the file shrinks", measured.shrinking),
        )
    ]
    return (
        f"{measured.runs:,} runs, removed {measured.purge_s:.1f} s after they were due; tracebacks in the log: "
        f"{measured.tracebacks}\n"
        f"file: {measured.file_before_mb:.0f} MB before, {measured.file_after_mb:.0f} MB after\n\n"
    ) + table(["202s", "requests", "refused", "P50 ms", "P99 ms", "max ms"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--folder", type=Path, help="folder of the data, on the disk to measure")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=given.folder) as folder:
        measured = uvloop.run(measure(Path(folder), QUICK if given.quick else FULL))
    show(measured, render(measured), targets(measured), as_document=given.json)


if __name__ == "__main__":
    main()
