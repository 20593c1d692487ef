"""What `offramp routes` prints: pure text from rows of `/v1/routes`, or of a replay, within 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from offramp.cli.output import counted, one_line
from offramp.cli.view import duration

WIDTH = 80
LABEL = 13
Document = Mapping[str, Any]

OUTCOMES = {"fast": "stayed fast", "early": "left early", "deep": "sent deep"}
POLICIES = {"always_fast": "always fast", "always_deep": "always deep", "learned": "learned"}


def believed(rows: Sequence[Document]) -> Iterator[str]:
    """Lines for the rows of `/v1/routes`."""
    for at, row in enumerate(rows):
        if at:
            yield ""
        yield _title(row)
        yield from _figures(row)
        yield from _calibration(row["calibration"])


def replayed(rows: Sequence[Document], skipped: int) -> Iterator[str]:
    """Lines for the rows of a replay; `skipped` lines of its file said nothing."""
    for at, row in enumerate(rows):
        if at:
            yield ""
        yield _title(row) + f", {_runs(row['runs'])}"
        yield _cells("", ("right", "waited", "short deep", "wrongly deep"))
        for name, shown in POLICIES.items():
            policy = row[name]
            wrong = _percent(policy.get("wrong_share")) if name == "learned" else ""
            right, waited = _percent(policy["share_right"]), duration(policy["waited_s"] * 1000)
            yield _cells(shown, (right, waited, f"{policy['short_deep']:,}", wrong))
    if skipped:
        yield ""
        yield f"{counted(skipped, 'line')} skipped: not completed, or a retry"


def _title(row: Document) -> str:
    limits = f"budget {row['budget_s']:g} s, early demotion {_percent(row['early_demotion'])}"
    room = WIDTH - len(limits) - 2 - len(", 1,000,000 runs")
    name = one_line(f"{row['pipeline']} ({row['class']})")
    return f"{name[:room]}: {limits}"


def _figures(row: Document) -> Iterator[str]:
    known = row["believed"]
    if known is None:
        yield _line("believed", "nothing yet")
    else:
        half, most = duration(known["p50_ms"]), duration(known["p95_ms"])
        yield _line("believed", f"half take {half}, 95% at most {most};")
        makes = f"{_percent(known['chance'])} make the budget, " if row["budget_s"] else ""
        yield _line("", f"{makes}from {_runs(known['runs'])}")
    decided, wrong = row["decided"], row["wrong"]
    if decided is None:  # no run yet, or a tenant's key
        if wrong["share"] is not None and row["budget_s"]:
            yield _line("wrong", f"{_percent(wrong['share'])} of the runs that make it")
        return
    right, budgets = _percent(decided["share_right"]), "their budget" if row["budget_s"] else "own budgets"
    yield _line("right", f"{right} of {_runs(decided['runs'])}; by where they were and {budgets}:")
    yield _cells("", ("runs", "within it", "past it"))
    for name, label in OUTCOMES.items():
        made, missed = decided[name]["made"], decided[name]["missed"]
        yield _cells(label, (f"{made + missed:,}", f"{made:,}", f"{missed:,}"))
    yield _line("waited", f"{duration(row['waited_s'] * 1000)} for nothing, all clients together")
    yield _line("short deep", f"{row['short_deep']:,} that would have made the budget")
    if wrong["share"] is not None and row["budget_s"]:
        yield _line("wrong", f"{_percent(wrong['share'])} of {wrong['good']:,} that make it;")
        yield _line("", f"measured with {wrong['controls']:,} controls")


def _calibration(rows: Sequence[Document]) -> Iterator[str]:
    """The chance at acceptance against what happened; only tenths with runs."""
    filled = [row for row in rows if row["predicted"] is not None]
    if filled:
        yield _cells("chance", ("runs", "predicted", "made it"))
    for row in filled:
        cells = ("" if row["runs"] is None else f"{row['runs']:,}", _percent(row["predicted"]), _percent(row["made"]))
        yield _cells(f"{row['from'] * 100:.0f} to {row['to'] * 100:.0f}%", cells)


def _line(label: str, text: str) -> str:
    return f"  {label:{LABEL}}{text}"


def _cells(label: str, cells: Sequence[str]) -> str:
    return _line(label, "".join(cell.rjust(LABEL) for cell in cells)).rstrip()


def _runs(number: int) -> str:
    return f"{number:,} run" if number == 1 else f"{number:,} runs"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share * 100:.3g}%"
