"""The arithmetic of docs/scaling.md: what it takes from the benchmarks is there, and its example adds up."""

from __future__ import annotations

import math
import re

import pytest

from offramp.core.spec import RETENTION_DEFAULT_S
from offramp.settings import Settings
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
BENCH = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")

# requests/s, steps, seconds each, seconds of budget, events/s to a reader, part of a core that is planned for
R, N, T, B, E, U = 20, 8, 5, 6, 10, 0.5
EVENT_CORE_S, REQUEST_CORE_S, STREAM_KB, GATEWAY_MB, TEMPORAL_STEP_CORE_S = 56e-6, 0.8e-3, 23.4, 65, 3e-3
DELTA_BYTES, STEP_BYTES = 180, 350


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
    cores = R * (N * T * E * EVENT_CORE_S + REQUEST_CORE_S)
    gateways = math.ceil(cores / U) + 1
    assert f"= {cores:.2f} cores" in PAGE
    assert row("gateways").endswith(f": {gateways}")
    assert number(row("memory of all gateways")) == round(gateways * GATEWAY_MB + under_way * STREAM_KB / 1000)
    worker_runs = Settings().worker_runs
    workers, larger = (math.ceil(in_workers / (0.8 * runs)) for runs in (worker_runs, 300))
    assert row("workers").startswith(f"{workers}, and one more: {workers + 1}. Or {larger} and one more")
    assert row("on Temporal").startswith(f"{R * (6 + 6 * N):,} events/s")
    assert pytest.approx(0.5, rel=0.1) == R * N * TEMPORAL_STEP_CORE_S
    run_bytes = N * T * E * DELTA_BYTES + N * STEP_BYTES
    assert number(row("a run in the store")) == round(run_bytes / 1000, -0) == 75
    day = R * RETENTION_DEFAULT_S * run_bytes / 1e9
    assert number(row("the store, at the default retention of a day")) == round(day, -1)
    assert number(row("the same, with `retention=3600`")) == round(R * 3600 * run_bytes / 1e9, 1)
