"""Calls with an SDK from four processes of `offramp serve` to a provider that counts, in real time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from bench._burst import BATCH, INTERACTIVE
from bench._http import Connection, connect, get, post
from bench._hybrid import quantile
from bench._limits_load import CONCURRENCY, ORDER, PROCESSES, PROVIDER, RATES, TOKENS, Run
from bench._provider_model import Stats
from bench._servers import free_port, serving
from offramp.core.run import accepted_at

END_S_MAX = 600.0
LOOK_EVERY_S = 0.2
WORKER_RUNS = 400
"""Places for runs in each worker: what is scarce are the limits."""


class Allowed(msgspec.Struct, frozen=True):
    """What the provider allows, as its command line and `app.resource` take it, and whose latencies it has."""

    rates: tuple[str, ...]
    concurrency: int
    tokens: tuple[str, ...] = ()
    endpoint: str = "together"


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One load and order through the real service; durations in seconds.

    Attributes:
        order: how permits are given out.
        runs: all of them.
        lost: runs that did not complete.
        calls: that the provider counted.
        p95_s: interactive runs, from acceptance to end.
        batch_done: batch runs done `within_s` after the first was handed in.
        violations: calls that broke a limit.
        broken: the same by limit.
        peaks: the most in each window, and at once.
        kills: of the coordinator.
        cpu_ms: CPU of all processes of the service per call, in ms.
        coordinator_ms: CPU of the coordinators that were not killed, per call, in ms.
    """

    order: str
    runs: int
    lost: int
    calls: int
    p95_s: float
    batch_done: int
    violations: int
    broken: dict[str, int]
    peaks: dict[str, int]
    kills: int
    cpu_ms: float
    coordinator_ms: float


async def serve(
    folder: Path, order: str, load: Sequence[Run], allowed: Allowed, *, within_s: float, kill_at_s: Sequence[float] = ()
) -> Served:
    """Hand in a load, wait until all runs have ended, and ask the provider what arrived.

    Args:
        folder: of the database, new.
        order: `limits`, `first come`, `split` or `no limits`.
        load: the runs.
        allowed: what the provider allows.
        within_s: batch runs that are done so soon are counted.
        kill_at_s: when the coordinator is killed, in seconds from the first run.
    """
    provider, port = free_port(), free_port()
    rates = [word for rate in allowed.rates for word in ("--rate", rate)]
    tokens = [word for rate in allowed.tokens for word in ("--tokens", rate)]
    limits = [*rates, *tokens, "--concurrency", str(allowed.concurrency), "--endpoint", allowed.endpoint]
    variables = {
        ORDER: order,
        PROVIDER: f"http://127.0.0.1:{provider}",
        RATES: " ".join(allowed.rates),
        TOKENS: " ".join(allowed.tokens),
        CONCURRENCY: str(allowed.concurrency),
        "OFFRAMP_WRITE_TIMEOUT": "60",
        "OFFRAMP_WORKER_RUNS": str(WORKER_RUNS),
    }
    arguments = ["offramp", "serve", "bench/_limits_app.py:app", "--port", str(port), "--data", str(folder)]
    workers = ["--workers", str(PROCESSES - 1)]
    async with (
        serving(["bench._provider", "--port", str(provider), *limits], provider),
        serving([*arguments, *workers], port, variables) as service,
    ):
        killing = asyncio.create_task(_kill(folder, kill_at_s))
        before_s = service.family_cpu_s()
        await _hand_in(port, load)
        rows = await _ended(folder, len(load))
        kills = await killing
        coordinator_s = sum(_cpu_s(process) for process in coordinators(folder))
        used_s = service.family_cpu_s() - before_s
        stats = await stats_of(provider)
    return _measured(order, rows, stats, within_s, kills, (used_s, coordinator_s))


def coordinators(folder: Path) -> list[psutil.Process]:
    """The processes that give out permits for this folder: one, or none."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "offramp.limits.coordinator" in line and str(folder) in line:
                found.append(process)
    return found


async def stats_of(port: int) -> Stats:
    """What a provider counted."""
    connection = await connect(port)
    answer = await connection.whole(get("/stats"))
    connection.close()
    return msgspec.json.decode(answer.body, type=Stats)


async def _kill(folder: Path, at_s: Sequence[float]) -> int:
    began = time.perf_counter()
    killed = 0
    for at in at_s:
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        for process in await asyncio.to_thread(coordinators, folder):
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
    return killed


async def _hand_in(port: int, load: Sequence[Run]) -> None:
    began = time.perf_counter()
    idle: list[Connection] = []
    sent = []
    for run in sorted(load, key=lambda run: run.at):
        await asyncio.sleep(max(0.0, began + run.at - time.perf_counter()))
        sent.append(asyncio.create_task(_submit(port, run, idle)))
    await asyncio.gather(*sent)
    for connection in idle:
        connection.close()


async def _submit(port: int, run: Run, idle: list[Connection]) -> None:
    body = msgspec.json.encode({"input": {"out": run.output}, "class": run.sla, "metadata": {"tenant": run.tenant}})
    while idle and not idle[-1].is_open:  # the server closes what is idle for long
        idle.pop()
    connection = idle.pop() if idle else await connect(port)
    answer = await connection.whole(post("/v1/pipelines/work/runs", body))
    if answer.status not in {200, 202, 502}:  # a run that failed is counted as lost
        raise RuntimeError(f"expected 200 or 202, got {answer.status}: {answer.body[:200]!r}")
    idle.append(connection)


Recorded = tuple[str, str, str, float]


async def _ended(folder: Path, count: int) -> list[Recorded]:
    """Id, class, status and end of every run, once all have ended."""
    query = "SELECT id, class, status, finished_at FROM runs"
    with closing(sqlite3.connect(f"file:{folder / 'offramp.db'}?mode=ro", uri=True)) as connection:
        async with asyncio.timeout(END_S_MAX):
            while True:
                rows: list[Recorded] = connection.execute(query).fetchall()
                if len(rows) == count and all(row[3] is not None for row in rows):
                    return rows
                await asyncio.sleep(LOOK_EVERY_S)


def _measured(
    order: str, rows: Sequence[Recorded], stats: Stats, within_s: float, kills: int, cpu_s: tuple[float, float]
) -> Served:
    first_at = min(accepted_at(row[0]) for row in rows)
    done = [row for row in rows if row[2] == "completed"]
    own = [row[3] - accepted_at(row[0]) for row in done if row[1] == INTERACTIVE]
    return Served(
        order=order,
        runs=len(rows),
        lost=len(rows) - len(done),
        calls=stats.calls,
        p95_s=quantile(own, 0.95),
        batch_done=sum(row[3] - first_at <= within_s for row in done if row[1] == BATCH),
        violations=stats.violations,
        broken=stats.broken,
        peaks={**stats.peaks, "at once": stats.open_peak},
        kills=kills,
        cpu_ms=cpu_s[0] * 1000 / stats.calls,
        coordinator_ms=cpu_s[1] * 1000 / stats.calls,
    )


def _cpu_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
