"""A finding of `offramp doctor`: its severity, the fact, and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Level = Literal["ok", "note", "risk", "broken"]
LEVELS: tuple[Level, ...] = ("broken", "risk", "note", "ok")


class Finding(NamedTuple):
    """One finding; `fix` is empty if nothing needs to be done."""

    level: Level
    about: str
    says: str
    fix: str = ""


def report(app: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as one JSON object, with their number per level."""
    counts = {level: sum(1 for finding in findings if finding.level == level) for level in LEVELS}
    return {"app": app, "counts": counts, "findings": [finding._asdict() for finding in findings]}


def exit_code(findings: Sequence[Finding], *, strict: bool = False) -> int:
    """1 if something is broken or, with `strict`, a risk; else 0."""
    failing = {"broken", "risk"} if strict else {"broken"}
    return 1 if any(finding.level in failing for finding in findings) else 0
