"""Durable steps per second: Offramp's deep path beside dbos and beside the floor of raw group commits.

Rounds are interleaved (each contender at each concurrency, then all again), so that a noisy machine affects all alike;
the program prints medians over the rounds. README.md explains the columns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._load import Load  # noqa: E402 - found through the line above
from bench._report import Target, as_json, circumstances, median, table  # noqa: E402

ROUNDS = 3
SECONDS_MAX = 5.0
"""Time for one contender at one concurrency in one round; started runs are still awaited."""
PROCESS_S_MAX = 90.0


class Case(NamedTuple):
    """Runs of one contender at one concurrency."""

    contender: str
    concurrency: int
    runs: int


CASES = (
    Case("floor", 1, 1_000),
    Case("offramp", 1, 500),
    Case("dbos", 1, 50),
    Case("floor", 50, 20_000),
    Case("offramp", 50, 6_000),
    Case("dbos", 50, 200),
    Case("floor", 500, 20_000),
    Case("offramp", 500, 6_000),
    Case("offramp-queued", 500, 6_000),
    Case("dbos", 500, 500),
)


def measure(case: Case, runs: int, folder: Path) -> Load:
    """Run a case in a fresh interpreter and a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=folder) as fresh:
        command = [sys.executable, "-m", "bench._contender", case.contender, str(case.concurrency)]
        done = subprocess.run(
            [*command, str(runs), str(SECONDS_MAX), fresh],
            cwd=ROOT,
            timeout=PROCESS_S_MAX,
            stdout=subprocess.PIPE,
            check=True,
        )
    return msgspec.json.decode(done.stdout, type=Load)


def medians(loads: list[Load]) -> Load:
    """Each figure's median over the rounds of one case."""
    first = loads[0]
    values = {
        name: median([getattr(load, name) for load in loads])
        for name in ("wall_s", "ack_p50_ms", "p50_ms", "p99_ms", "cpu_ms_per_run")
    }
    # Runs count per second, because the time bound may have cut a round short.
    per_s = median([load.runs_per_s for load in loads])
    return Load(first.contender, first.concurrency, round(per_s * values["wall_s"]), **values)


def render(results: list[Load]) -> str:
    """The table, grouped by concurrency, with the contenders' ratios."""
    rates = {(load.contender, load.concurrency): load.runs_per_s for load in results}
    titles = ["contender", "at once", "steps/s", "runs/s", "ack P50 ms", "end P50 ms", "end P99 ms", "CPU ms/run"]
    rows = []
    for load in sorted(results, key=lambda load: load.concurrency):
        figures = [load.ack_p50_ms, load.p50_ms, load.p99_ms, load.cpu_ms_per_run]
        rows.append(
            [
                load.contender,
                str(load.concurrency),
                f"{load.steps_per_s:,.0f}",
                f"{load.runs_per_s:,.0f}",
                *[f"{figure:,.2f}" for figure in figures],
                *[_ratio(load.runs_per_s, rates.get((other, load.concurrency))) for other in ("floor", "dbos")],
            ]
        )
    return table([*titles, "of floor", "x dbos"], rows)


def _ratio(value: float, other: float | None) -> str:
    return "" if other is None else f"{value / other:.2f}" if value < other * 10 else f"{value / other:.0f}"


def targets(results: list[Load]) -> list[Target]:
    """The design's targets for the deep path."""
    by_case = {(load.contender, load.concurrency): load for load in results}
    made = []
    for concurrency in (1, 50, 500):
        ours, floor = by_case.get(("offramp", concurrency)), by_case.get(("floor", concurrency))
        if ours and floor and concurrency > 1:
            share = ours.runs_per_s / floor.runs_per_s
            made.append(Target(f"share of the floor, {concurrency} at once", share, 1 / 3, at_least=True))
    if many := by_case.get(("offramp", 50)):
        made.append(Target("durable steps/s, 50 at once", many.steps_per_s, 10_000, at_least=True))
    if alone := by_case.get(("offramp", 1)):
        made.append(Target("one run alone, end to end P50", alone.p50_ms, 2.0, at_least=False, unit=" ms"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, a quarter of the runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"number of rounds; {ROUNDS} by default")
    parser.add_argument("--only", action="append", metavar="NAME", help="a contender; may be repeated")
    parser.add_argument("--at-once", type=int, action="append", metavar="N", help="only this concurrency; repeatable")
    parser.add_argument("--folder", type=Path, help="folder of the databases; the disk matters")
    parser.add_argument("--json", action="store_true", help="everything as JSON, including every round")
    given = parser.parse_args()
    names = sorted({case.contender for case in CASES})
    if unknown := set(given.only or ()) - set(names):
        parser.error(f"no contender {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    cases = [case for case in CASES if case.contender in (given.only or names)]
    cases = [case for case in cases if not given.at_once or case.concurrency in given.at_once]
    rounds = 1 if given.quick else max(1, given.rounds)
    loads: dict[Case, list[Load]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            if sys.stderr.isatty():
                print(
                    f"\rround {number + 1}/{rounds}: {case.contender}, {case.concurrency}    ", end="", file=sys.stderr
                )
            runs = max(case.concurrency, case.runs // 4) if given.quick else case.runs
            loads[case].append(measure(case, runs, given.folder))
    results = [medians(measured) for measured in loads.values()]
    if given.json:
        each = [load for measured in loads.values() for load in measured]
        print(as_json({"medians": results, "rounds": each}, targets(results)))
        return
    print(
        ("\r" if sys.stderr.isatty() else "")
        + ", ".join(f"{name} {value}" for name, value in circumstances().items())
        + f", {rounds} rounds\n"
    )
    print(render(results) + "\n")
    print("\n".join(target.line() for target in targets(results)))


if __name__ == "__main__":
    main()
