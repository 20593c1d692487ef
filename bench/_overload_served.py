"""A load in two classes through `offramp serve`, faster than recorded: real gateway, queue, workers and store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench._burst import BUDGET_S, Work
from bench._http import Connection, connect, post
from bench._overload_app import BUDGET, ORDERED, PATIENCE
from bench._servers import free_port, serving
from offramp.core.run import accepted_at

SECRETS = {tenant: f"bench-secret-of-{tenant}-0123456789" for tenant in ("ops", "desk", "a", "b")}
END_S_MAX = 300.0
LOOK_EVERY_S = 0.2
WORKERS = 2


class Terms(NamedTuple):
    """How a load is served: the places in workers, whether classes have an order and tenants; seconds as recorded."""

    places: int
    speed: float
    ordered: bool
    budget_s: float = BUDGET_S
    patience_s: float = 60.0


class Served(NamedTuple):
    """A run at its end, in seconds of the recording: from acceptance to end, and until a worker first began it."""

    sla: str
    tenant: str
    took_s: float
    began_s: float
    completed: bool
    began_at: float
    """The same on the clock of the load."""


async def serve(folder: Path, load: Sequence[Work], terms: Terms) -> list[Served]:
    """Hand in the load, `speed` times as fast as recorded, and wait until all runs have ended.

    Args:
        folder: of the database.
        load: what to hand in.
        terms: how it is served.
    """
    port, speed, ordered = free_port(), terms.speed, terms.ordered
    variables = {
        BUDGET: str(terms.budget_s / speed),
        ORDERED: "yes" if ordered else "no",
        PATIENCE: str(terms.patience_s / speed),
        "OFFRAMP_API_KEYS": ",".join(f"{tenant}/{tenant}:{secret}" for tenant, secret in SECRETS.items()),
        "OFFRAMP_TENANT_SHARE": "1",
        "OFFRAMP_WRITE_TIMEOUT": "60",
        "OFFRAMP_WORKER_RUNS": str(terms.places // WORKERS),
    }
    arguments = ["offramp", "serve", "bench/_overload_app.py:app", "--port", str(port), "--data", str(folder)]
    async with serving([*arguments, "--workers", str(WORKERS)], port, variables):
        began = time.perf_counter()
        origin = load[0].at
        idle: list[Connection] = []
        sent = []
        for work in load:
            await asyncio.sleep(max(0.0, began + (work.at - origin) / speed - time.perf_counter()))
            sent.append(asyncio.create_task(_submit(port, work, speed, idle, ordered=ordered)))
        await asyncio.gather(*sent)
        for connection in idle:
            connection.close()
        return await _ended(folder, len(load), speed, load[0].at)


async def _submit(port: int, work: Work, speed: float, idle: list[Connection], *, ordered: bool) -> None:
    calls_s = [seconds / speed for seconds in work.calls_s]
    tenant = {"": "desk", "A": "a", "B": "b"}[work.tenant] if ordered else "desk"
    body = msgspec.json.encode({"input": {"calls_s": calls_s}, "class": work.sla, "metadata": {"tenant": work.tenant}})
    headers = f"authorization: Bearer {SECRETS[tenant]}\r\n".encode()
    while idle and not idle[-1].is_open:  # the server closes what is idle for long
        idle.pop()
    connection = idle.pop() if idle else await connect(port)
    answer = await connection.whole(post("/v1/pipelines/work/runs", body, headers))
    if answer.status not in {200, 202}:
        raise RuntimeError(f"expected 200 or 202, got {answer.status}: {answer.body[:200]!r}")
    idle.append(connection)


async def _ended(folder: Path, count: int, speed: float, origin: float) -> list[Served]:
    """Every run, read from the database once all have ended."""
    query = "SELECT id, class, tenant, status, started_at, finished_at FROM runs"
    with closing(sqlite3.connect(f"file:{folder / 'offramp.db'}?mode=ro", uri=True)) as connection:
        async with asyncio.timeout(END_S_MAX):
            while True:
                rows = connection.execute(query).fetchall()
                if len(rows) == count and all(row[5] is not None for row in rows):
                    break
                await asyncio.sleep(LOOK_EVERY_S)
    first_at = min(accepted_at(row[0]) for row in rows)
    return [
        Served(
            sla,
            tenant,
            (finished_at - accepted_at(run_id)) * speed,
            ((started_at or finished_at) - accepted_at(run_id)) * speed,
            status == "completed",
            ((started_at or finished_at) - first_at) * speed + origin,
        )
        for run_id, sla, tenant, status, started_at, finished_at in rows
    ]
