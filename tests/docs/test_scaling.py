"""The arithmetic of docs/how-to/scaling.md: what it takes from the benchmarks is there, and its example adds up."""

from __future__ import annotations

import asyncio
import math
import re

import pytest

from offramp import SLA, App, emit
from offramp.core.spec import RETENTION_DEFAULT_S
from offramp.paths.submission import Submission
from offramp.settings import Settings
from tests import valkey
from tests.docs.pages import ROOT
from tests.support import frames_of, member

PAGE = (ROOT / "docs" / "how-to" / "scaling.md").read_text(encoding="utf-8")
BENCH = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")

# requests/s, steps, seconds each, seconds of budget, events/s to a reader, part of a core that is planned for
R, N, T, B, E, U = 20, 8, 5, 6, 10, 0.5
EVENT_CORE_S, REQUEST_CORE_S, STREAM_KB, GATEWAY_MB, TEMPORAL_STEP_CORE_S = 56e-6, 0.8e-3, 23.4, 65, 3e-3
FOLLOWED_CORE_S, REDIS_CORE_S = 280e-6, 116e-6  # of a gateway and of Redis, for an event of a run in a worker
DELTA_BYTES, STEP_BYTES, RUN_BYTES, RESULT_BYTES, ADDED = 180, 350, 2_000, 200, 1.05


def run_bytes(steps, tokens):
    return RUN_BYTES + steps * RESULT_BYTES + ADDED * (tokens * DELTA_BYTES + steps * STEP_BYTES)


@pytest.mark.parametrize(
    ("quoted", "measured"),
    [
        ("10,400 /s at 50", "| offramp | 50 | 10,377 |"),
        ("10,900 /s at 500", "| offramp | 500 | 10,864 |"),
        ("a P99 of 8 ms", "| 100 | 2,000 | 1.70 | 7.99 |"),
        ("0.80 ms", "| 1.09 ms | 0.80 ms |"),
        ("56 µs; 7.5 µs", "| 75.7 us | 55.9 us |"),
        ("56 µs; 7.5 µs", "| 11.1 us | 7.5 us |"),
        ("0.32 ms", "| 0.38 ms | 0.32 ms |"),
        ("65 MB, 23.4 kB", "| memory per open stream, kB | 24.5 | 23.4 |"),
        ("64 MB; 0.8 kB", "| 0.79, 0.76 | 0.70, 0.81 |"),
        ("1 s; 2.3 s", "| 0.97; 1.09; 2.30 |"),
        ("280 µs of its gateway and 116 µs of Redis", "| 100 | 10,000 | 1.68 | 4.50 | 0.06 | 0.22 | 282 | 2 | 116 |"),
    ],
)
def test_a_figure_was_measured(quoted, measured):
    assert quoted in PAGE
    assert measured in BENCH


def row(name):
    """The last cell of the example's row, as a number where it begins with one."""
    example = PAGE.partition("**For example**")[2]
    cells = next(line for line in example.splitlines() if line.startswith(f"| {name} |")).strip("| ").split(" | ")
    return cells[-1]


def number(text):
    return float(re.search(r"[\d,.]*\d", text)[0].replace(",", ""))


def test_the_example_adds_up():
    under_way = R * N * T
    in_workers = R * (N * T - B)
    assert row("runs under way") == f"{under_way}, of these {R * B} in gateways and {in_workers} in workers"
    cores = R * (B * E * EVENT_CORE_S + (N * T - B) * E * FOLLOWED_CORE_S + REQUEST_CORE_S)
    gateways = math.ceil(cores / U) + 1
    assert f"= {cores:.2f} cores" in PAGE
    assert row("gateways").endswith(f": {gateways}")
    assert number(row("memory of all gateways")) == round(gateways * GATEWAY_MB + under_way * STREAM_KB / 1000)
    assert row("Redis' one thread") == f"{in_workers * E * REDIS_CORE_S:.2f} cores"
    worker_runs = Settings().worker_runs
    workers, larger = (math.ceil(in_workers / (0.8 * runs)) for runs in (worker_runs, 300))
    assert row("workers").startswith(f"{workers}, and one more: {workers + 1}. Or {larger} and one more")
    assert row("on Temporal").startswith(f"{R * (6 + 6 * N):,} events/s")
    assert pytest.approx(0.5, rel=0.1) == R * N * TEMPORAL_STEP_CORE_S
    assert number(row("events into the store")) == R * N * (T * E + 2)
    each = run_bytes(N, N * T * E)
    assert number(row("a run in the store")) == round(each / 1000)
    assert number(row("the store, at the default retention of a day")) == round(
        R * RETENTION_DEFAULT_S * each / 1e9, -1
    )
    assert number(row("the same, with `retention=3600`")) == round(R * 3600 * each / 1e9, 1)


@pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))
@pytest.mark.parametrize(("tokens", "quoted"), [(0, "7.5 kB"), (50, "83 kB")])
async def test_a_run_takes_as_much_in_redis_as_is_said(tmp_path, tokens, quoted):
    app = App("desk", classes=[SLA("batch", budget=0)])

    @app.step
    async def write(number: int) -> str:
        for token in range(tokens):
            emit(f"token{token % 10} ")
            await asyncio.sleep(0.001)  # else all of them are one write
        return "x" * (RESULT_BYTES - 2)

    @app.pipeline(sla="batch")
    async def answer() -> str:
        for number in range(N):
            await write(number)
        return "x" * (RESULT_BYTES - 2)

    runs, server, prefix = 50, valkey.server(), f"memory{tokens}"
    async with member(app, tmp_path, "local", store=server.url(prefix)) as service:
        accepted = [await service.submit(Submission(pipeline="answer", input=b"{}")) for _ in range(runs)]
        for each in accepted:
            await frames_of(service, each.record.id)
    with server.client() as client:  # what the server as a whole has used comes and goes with its buffers
        taken = sum(client.memory_usage(key, samples=0) for key in client.scan_iter(f"{{{prefix}}}*")) / runs
    assert quoted in PAGE
    assert taken == pytest.approx(1e3 * number(quoted), rel=0.1), taken
    assert taken == pytest.approx(run_bytes(N, N * tokens), rel=0.2)
