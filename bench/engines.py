"""Five-step runs on each engine: embedded and Temporal, beside a plain Temporal workflow of five activities.

Rounds are interleaved and every contender has a fresh process and folder; each round has one Temporal server.
README.md explains the columns.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench import _temporal  # noqa: E402 - found through the line above
from bench._load import Load  # noqa: E402
from bench._report import Target, as_json, circumstances, table  # noqa: E402
from bench.engine import Case, measure, medians  # noqa: E402

ROUNDS = 3
CONTENDERS = ("offramp", "temporal", "temporal-offramp", "temporal-short", "temporal-offramp-short")
AT_ONCE = (1, 10, 50)
CASES = [
    Case(contender, at_once, 6_000 if contender == "offramp" else 400)
    for at_once in AT_ONCE
    for contender in CONTENDERS
]


def render(results: list[Load]) -> str:
    """The table, with each contender's rate over that of a plain workflow."""
    plain = {load.concurrency: load.runs_per_s for load in results if load.contender == "temporal"}
    titles = ["contender", "at once", "steps/s", "runs/s", "ack P50 ms", "end P50 ms", "end P99 ms", "CPU ms/run"]
    rows = []
    for load in sorted(results, key=lambda load: load.concurrency):
        figures = [load.ack_p50_ms, load.p50_ms, load.p99_ms, load.cpu_ms_per_run]
        rate = load.runs_per_s / plain[load.concurrency] if load.concurrency in plain else None
        rows.append(
            [
                load.contender,
                str(load.concurrency),
                f"{load.steps_per_s:,.0f}",
                f"{load.runs_per_s:,.1f}",
                *[f"{figure:,.2f}" for figure in figures],
                "" if rate is None else f"{rate:.2f}",
            ]
        )
    return table([*titles, "x plain"], rows)


def targets(results: list[Load]) -> list[Target]:
    """The targets of the engine on Temporal."""
    by_case = {(load.contender, load.concurrency): load for load in results}
    made = []
    for at_once in AT_ONCE:
        plain, ours, short = (
            by_case.get((name, at_once)) for name in ("temporal", "temporal-offramp", "temporal-offramp-short")
        )
        if plain and ours:
            over = (ours.p50_ms / plain.p50_ms - 1) * 100
            name = f"over a plain workflow, end to end P50, {at_once} at once"
            made.append(Target(name, over, 10.0, at_least=False, unit=" %"))
        if plain and short and at_once > 1:
            name = f"short steps, times a plain workflow's runs/s, {at_once} at once"
            made.append(Target(name, short.runs_per_s / plain.runs_per_s, 3.0, at_least=True))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"number of rounds; {ROUNDS} by default")
    parser.add_argument("--only", action="append", metavar="NAME", choices=CONTENDERS, help="may be repeated")
    parser.add_argument("--at-once", type=int, action="append", metavar="N", help="only this concurrency; repeatable")
    parser.add_argument("--folder", type=Path, help="folder of the databases; the disk matters")
    parser.add_argument("--json", action="store_true", help="everything as JSON, including every round")
    given = parser.parse_args()
    cases = [case for case in CASES if case.contender in (given.only or CONTENDERS)]
    cases = [case for case in cases if not given.at_once or case.concurrency in given.at_once]
    rounds = 1 if given.quick else max(1, given.rounds)
    loads: dict[Case, list[Load]] = {case: [] for case in cases}
    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=given.folder) as folder,
            _temporal.server(Path(folder)) as target,
        ):
            os.environ[_temporal.TARGET] = target
            for case in cases:
                loads[case].append(measure(case, case.runs, given.folder))
    results = [medians(measured) for measured in loads.values()]
    if given.json:
        each = [load for measured in loads.values() for load in measured]
        print(as_json({"medians": results, "rounds": each}, targets(results)))
        return
    print(", ".join(f"{name} {value}" for name, value in circumstances().items()) + f", {rounds} rounds\n")
    print(render(results) + "\n")
    print("\n".join(target.line() for target in targets(results)))


if __name__ == "__main__":
    main()
