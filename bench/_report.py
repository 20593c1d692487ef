"""Output of the benchmarks: plain tables, targets met or missed, and the circumstances of the measurement."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec


class Target(msgspec.Struct, frozen=True):
    """A target of the design; `measured` and `wanted` share a unit."""

    name: str
    measured: float
    wanted: float
    at_least: bool
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted

    def line(self) -> str:
        sign = "≥" if self.at_least else "≤"
        verdict = "met" if self.met else "MISSED"
        return (
            f"{verdict:6}  {self.name}: {self.measured:,.3g}{self.unit} (wanted {sign} {self.wanted:,.3g}{self.unit})"
        )


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with minimal column widths: the first column left-aligned, numbers right-aligned."""
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    lines = []
    for row in [titles, ["-" * width for width in widths], *rows]:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def circumstances() -> dict[str, Any]:
    """The circumstances that the figures depend on, as far as the process can see them."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
    }


def as_json(measured: dict[str, Any], targets: Sequence[Target]) -> str:
    """Everything as one JSON document."""
    verdicts = [msgspec.structs.asdict(target) | {"met": target.met} for target in targets]
    document = {"circumstances": circumstances(), **measured, "targets": verdicts}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def show(measured: msgspec.Struct, text: str, targets: Sequence[Target], *, as_document: bool) -> None:
    """Print the results: as one JSON document, or the circumstances, `text`, and a line for each target."""
    if as_document:
        print(as_json(msgspec.to_builtins(measured), targets))
        return
    print(", ".join(f"{name} {value}" for name, value in circumstances().items()) + "\n")
    print(text + "\n")
    print("\n".join(target.line() for target in targets))
