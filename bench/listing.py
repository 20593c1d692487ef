"""The effect of one tenant's listings on another: four clients list, another tenant reads a run.

`offramp serve` with one worker on a prepared database. This process is the load. See README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._http import connect  # noqa: E402 - found through the line above
from bench._load import percentile  # noqa: E402
from bench._report import Target, median, show, table  # noqa: E402
from bench._servers import free_port, gateway, serving  # noqa: E402
from bench._stocked import stock  # noqa: E402

CLIENTS = 4
MANY, FEW = "many", "few"
FEW_RUNS = 1_000
RATIO_MAX = 2.0
DAY_S = 86_400.0


class Size(NamedTuple):
    """The sizes of the measurement."""

    runs: int
    phase_s: float
    rounds: int


FULL = Size(100_000, phase_s=5.0, rounds=3)
QUICK = Size(10_000, phase_s=2.0, rounds=1)

CHEAP = "beside one run"
FULL_PAGE = "100 runs, with their steps"
ASKED = {
    "alone": "",
    CHEAP: "/v1/runs/{run}",
    "status that none has": "/v1/runs?status=expired",
    "pipeline that none has": "/v1/runs?pipeline=none",
    "session and status that none has": "/v1/runs?session_id=session-1&status=expired",
    "pipeline of half, status that none has": "/v1/runs?pipeline=five&status=cancelled",
    "status of half, pipeline that none has": "/v1/runs?status=completed&pipeline=none",
    "pipeline of half, status of the other half": "/v1/runs?pipeline=other&status=completed",
    "the same, the other way round": "/v1/runs?pipeline=five&status=failed",
    "class that none has": "/v1/runs?class=none",
    "text that none has": "/v1/runs?q=none",
    "text of the oldest run": "/v1/runs?q=customer-0&order=asc",
    FULL_PAGE: "/v1/runs?limit=100",
}
"""The requests that the four clients repeat."""


class Row(msgspec.Struct, frozen=True):
    """One phase: the other tenant's reads and the requests of the four."""

    beside: str
    reads: int
    p50_ms: float
    p99_ms: float
    asked_per_s: float


class Measured(msgspec.Struct, kw_only=True):
    """All results: medians over the rounds."""

    runs: int
    rows: list[Row]


def secret(tenant: str) -> str:
    return f"{tenant}-secret-0123456789"


def request(path: str, tenant: str) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {secret(tenant)}\r\n\r\n"
    return head.encode()


async def asking(port: int, request: bytes, ends_at: float) -> list[float]:
    """Repeat a request on one connection until a time; returns each answer's milliseconds.

    Raises:
        RuntimeError: an answer was not 200.
    """
    connection = await connect(port)
    took = []
    while (began := time.perf_counter()) < ends_at:
        answer = await connection.whole(request)
        if answer.status != 200:
            raise RuntimeError(f"expected 200, got {answer.status}: {answer.body[:200]!r}")
        took.append((time.perf_counter() - began) * 1000)
    connection.close()
    return took


async def phase(port: int, path: str, other: str, seconds: float) -> Row:
    """Measure the other tenant's client beside four that request `path`; without them if it is empty."""
    ends_at = time.perf_counter() + seconds
    clients = [asking(port, request(path, MANY), ends_at) for _ in range(CLIENTS if path else 0)]
    reads, *asks = await asyncio.gather(asking(port, request(f"/v1/runs/{other}", FEW), ends_at), *clients)
    count = sum(len(each) for each in asks)
    return Row("", len(reads), percentile(reads, 0.5), percentile(reads, 0.99), count / seconds)


def over_rounds(beside: str, rows: Sequence[Row]) -> Row:
    return Row(
        beside,
        sum(row.reads for row in rows),
        median([row.p50_ms for row in rows]),
        median([row.p99_ms for row in rows]),
        median([row.asked_per_s for row in rows]),
    )


async def measure(folder: Path, size: Size) -> Measured:
    """Run all phases in turn, for all rounds, at one server."""
    now = time.time()
    runs = stock(folder, size.runs, tenant=MANY, ended_at=now - 60, purge_at=now + DAY_S)
    others = stock(folder, FEW_RUNS, tenant=FEW, ended_at=now - 30, purge_at=now + DAY_S)
    os.environ["OFFRAMP_API_KEYS"] = ",".join(f"{tenant}/{tenant}-key:{secret(tenant)}" for tenant in (MANY, FEW))
    port = free_port()
    by_request: dict[str, list[Row]] = {beside: [] for beside in ASKED}
    async with serving(gateway(port, folder), port):
        for _ in range(size.rounds):
            for beside, path in ASKED.items():
                row = await phase(port, path.format(run=runs[0]), others[0], size.phase_s)
                by_request[beside].append(row)
    return Measured(runs=size.runs, rows=[over_rounds(beside, rows) for beside, rows in by_request.items()])


def targets(measured: Measured) -> list[Target]:
    p50 = {row.beside: row.p50_ms for row in measured.rows}
    return [
        Target(f"others' P50, {beside}, times {CHEAP}", p50[beside] / p50[CHEAP], RATIO_MAX, at_least=False)
        for beside in ASKED
        if beside not in {"alone", CHEAP, FULL_PAGE}
    ]


def render(measured: Measured) -> str:
    rows = [
        [row.beside, f"{row.reads:,}", f"{row.p50_ms:,.2f}", f"{row.p99_ms:,.2f}", f"{row.asked_per_s:,.0f}"]
        for row in measured.rows
    ]
    titles = ["another tenant's GET", "reads", "P50 ms", "P99 ms", "the four's requests/s"]
    return f"{measured.runs:,} runs of one tenant, {CLIENTS} clients of it\n\n" + table(titles, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs, one short round")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--folder", type=Path, help="folder of the data, on the disk to measure")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=given.folder) as folder:
        measured = uvloop.run(measure(Path(folder), QUICK if given.quick else FULL))
    show(measured, render(measured), targets(measured), as_document=given.json)


if __name__ == "__main__":
    main()
