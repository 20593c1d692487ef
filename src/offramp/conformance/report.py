"""The report of a suite: one result per case, and the verdict on each obligation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from offramp.conformance.case import Case, Obligation
from offramp.conformance.harness import Capabilities

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
    capabilities: Capabilities
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
        """Note the result of a case."""
        self.results.append(Result(case.id, case.obligations, verdict, case.lacks is not None, error))

    def of(self, obligation: str) -> str:
        """Whether the adapter keeps an obligation.

        `passed`; `in part`, where some cases need a capability that is not declared; `refused`, where all of them do
        and the adapter says so; `FAILED`; `unproved`.
        """
        mine = [result for result in self.results if obligation in result.obligations]
        if any(result.verdict == "failed" for result in mine):
            return "FAILED"
        proved = [result for result in mine if result.verdict == "passed"]
        if any(not result.is_refusal for result in proved):
            left_out = any(result.verdict == "not declared" and not result.is_refusal for result in mine)
            return "in part" if left_out else "passed"
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
