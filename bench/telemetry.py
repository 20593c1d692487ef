"""The cost of telemetry: runs per second and CPU per step with it off, sampled out, and exported to a local sink.

Variants take turns, each in a fresh process, so that a noisy machine affects all alike. `--before SRC` adds another
checkout's `src`, to compare "off" with code without telemetry. See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._load import STEPS_PER_RUN, Load  # noqa: E402 - found through the line above
from bench._report import Target, as_json, circumstances, median, table  # noqa: E402

ROUNDS = 7
CONCURRENCY = 50
RUNS = 3_000
SECONDS_MAX = 5.0
PROCESS_S_MAX = 90.0
OFF_MAX = 1.02
"""Largest CPU per step with telemetry off, relative to code without telemetry."""


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """Yields the address of a sink in a separate process, whose CPU is not counted."""
    command = [sys.executable, "-m", "bench._telemetry", "sink"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def environment(variant: str, endpoint: str, before: Path | None) -> dict[str, str]:
    """The environment of a variant, without the caller's own telemetry."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "OFFRAMP_"))}
    if variant == "before":
        return plain | {"PYTHONPATH": str(before)}
    if variant == "off":
        return plain
    plain["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"{endpoint}/v1/traces"
    return plain | {"OTEL_TRACES_SAMPLER": "always_off"} if variant == "sampled out" else plain


def measure(variant: str, runs: int, variables: dict[str, str], folder: Path | None) -> Load:
    """One round of one variant, in a fresh interpreter and a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=folder) as fresh:
        command = [sys.executable, "-m", "bench._telemetry", variant, str(CONCURRENCY), str(runs), str(SECONDS_MAX)]
        done = subprocess.run(
            [*command, fresh], cwd=ROOT, timeout=PROCESS_S_MAX, stdout=subprocess.PIPE, check=True, env=variables
        )
    return msgspec.json.decode(done.stdout, type=Load)


def render(rounds: dict[str, list[Load]]) -> str:
    off_us = _cpu_us(rounds["off"])
    rows = []
    for variant, loads in rounds.items():
        per_s, cpu_us = median([load.runs_per_s for load in loads]), _cpu_us(loads)
        rows.append([variant, f"{per_s:,.0f}", f"{cpu_us:,.1f}", f"{cpu_us - off_us:+,.1f}", f"{cpu_us / off_us:.3f}"])
    return table(["telemetry", "runs/s", "CPU us/step", "beside off", "of off"], rows)


def _cpu_us(loads: list[Load]) -> float:
    """CPU of the least disturbed round: other work on the machine can only add to it."""
    return min(load.cpu_ms_per_run for load in loads) * 1000 / STEPS_PER_RUN


def targets(rounds: dict[str, list[Load]]) -> list[Target]:
    if "before" not in rounds:
        return []
    share = _cpu_us(rounds["off"]) / _cpu_us(rounds["before"])
    return [Target("CPU per step, off beside code without telemetry", share, OFF_MAX, at_least=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, a quarter of the runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"number of rounds; {ROUNDS} by default")
    parser.add_argument("--before", type=Path, metavar="SRC", help="the src folder of a checkout to compare off with")
    parser.add_argument("--only", action="append", metavar="NAME", help="a variant beside off; may be repeated")
    parser.add_argument("--folder", type=Path, help="folder of the databases; the disk matters")
    parser.add_argument("--json", action="store_true", help="everything as JSON, including every round")
    given = parser.parse_args()
    known = [*(["before"] if given.before else []), "off", "sampled out", "exported"]
    if unknown := set(given.only or ()) - set(known):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    variants = [name for name in known if name == "off" or name in (given.only or known)]
    rounds: dict[str, list[Load]] = {variant: [] for variant in variants}
    before = given.before and given.before.resolve()
    with sink() as endpoint:
        for number in range(1 if given.quick else max(1, given.rounds)):
            # Rounds alternate in order, so that no variant is always measured later, perhaps on a busier machine.
            for variant in variants if number % 2 == 0 else reversed(variants):
                runs = RUNS // 4 if given.quick else RUNS
                rounds[variant].append(measure(variant, runs, environment(variant, endpoint, before), given.folder))
    if given.json:
        print(as_json({"rounds": [load for loads in rounds.values() for load in loads]}, targets(rounds)))
        return
    print(", ".join(f"{name} {value}" for name, value in circumstances().items()) + f", {len(rounds['off'])} rounds\n")
    print(render(rounds) + "\n")
    print("\n".join(target.line() for target in targets(rounds)))


if __name__ == "__main__":
    main()
