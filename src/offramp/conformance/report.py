"""What a suite found: one result per case, and the matrix of adapter by obligation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from offramp.conformance.case import Case, Obligation

Verdict = Literal["passed", "failed", "not declared"]


@dataclass(frozen=True, slots=True)
class Result:
    """One case; `error` says what went wrong."""

    case: str
    obligations: tuple[str, ...]
    verdict: Verdict
    is_refusal: bool = False
    error: str = ""


@dataclass(slots=True)
class Report:
    """All cases of one adapter."""

    adapter: str
    obligations: Sequence[Obligation]
    results: list[Result] = field(default_factory=list)

    @property
    def failures(self) -> list[Result]:
        """The cases that failed."""
        return [result for result in self.results if result.verdict == "failed"]

    @property
    def ok(self) -> bool:
        """Whether every case that applies passed, and no obligation went unproved."""
        return not self.failures and all(self.of(obligation.id) != "unproved" for obligation in self.obligations)

    def add(self, case: Case[object], verdict: Verdict, error: str = "") -> None:
        """Note how a case went."""
        self.results.append(Result(case.id, case.obligations, verdict, case.lacks is not None, error))

    def of(self, obligation: str) -> str:
        """`passed`, `FAILED`, `refused` (a capability that is not declared, and says so) or `unproved`."""
        mine = [result for result in self.results if obligation in result.obligations]
        if any(result.verdict == "failed" for result in mine):
            return "FAILED"
        proved = [result for result in mine if result.verdict == "passed"]
        if any(not result.is_refusal for result in proved):
            return "passed"
        return "refused" if proved else "unproved"

    def __str__(self) -> str:
        """A line for the adapter, and some for each failure."""
        passed = sum(1 for result in self.results if result.verdict == "passed")
        skipped = sum(1 for result in self.results if result.verdict == "not declared")
        lines = [f"{self.adapter}: {passed} passed, {len(self.failures)} failed, {skipped} not declared"]
        for result in self.failures:
            lines.append(f"  {result.case} ({', '.join(result.obligations)})")
            lines += [f"    {line}" for line in result.error.splitlines()]
        return "\n".join(lines)


def table(reports: Sequence[Report]) -> str:
    """Obligations by adapter, as a table in Markdown; the reports are of one suite."""
    names = [report.adapter for report in reports]
    lines = [f"| | obligation | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    lines += [
        f"| {obligation.id} | {obligation.text} | {' | '.join(report.of(obligation.id) for report in reports)} |"
        for obligation in reports[0].obligations
    ]
    return "\n".join(lines)
