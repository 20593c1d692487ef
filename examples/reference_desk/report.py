"""Reports an audit's findings: Markdown for a person, and the numbers behind it."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from .findings import WORST_MAX, Findings, Totals, duplicates, merge, most_imported
from .measures import FunctionMeasure, Unparsed


class AuditReport(msgspec.Struct, frozen=True):
    """The result of an audit; `text` is the report; the other fields are its numbers."""

    root: str
    totals: Totals
    longest: list[FunctionMeasure]
    most_branching: list[FunctionMeasure]
    least_maintainable: list[FunctionMeasure]
    undocumented: list[FunctionMeasure]
    duplicated_shapes: int
    duplicated_functions: int
    unparsed: list[Unparsed]
    text: str


def write_report(root: str, parts: Sequence[Findings]) -> AuditReport:
    """Merge the batches' findings and write the report."""
    findings = merge(parts)
    groups = duplicates(findings)
    return AuditReport(
        root=root,
        totals=findings.totals,
        longest=findings.longest,
        most_branching=findings.most_branching,
        least_maintainable=findings.least_maintainable,
        undocumented=findings.undocumented,
        duplicated_shapes=len(groups),
        duplicated_functions=sum(map(len, groups)),
        unparsed=findings.unparsed,
        text="\n".join(_lines(root, findings, groups)),
    )


def _lines(root: str, findings: Findings, groups: Sequence[Sequence[str]]) -> Iterator[str]:
    totals = findings.totals
    yield f"# Audit of {root}\n"
    yield (
        f"{totals.files:,} files, {totals.lines:,} lines ({totals.code_lines:,} with code, "
        f"{totals.comment_lines:,} with a comment), {totals.functions:,} functions."
    )
    yield (
        f"{_percent(totals.documented_functions, totals.public_functions)} of {totals.public_functions:,} "
        f"public functions have a docstring. {len(findings.unparsed)} files could not be parsed.\n"
    )
    yield from _table("Longest functions", "lines", findings.longest, _lines_of)
    yield from _table("Most branching functions", "complexity", findings.most_branching, lambda e: str(e.complexity))
    yield "Complexity is McCabe's (1976): decisions plus one.\n"
    yield from _table(
        "Hardest to maintain",
        "index",
        findings.least_maintainable,
        lambda each: f"{each.maintainability:.1f}",
    )
    yield "The index is Oman and Hagemeister's (1992) on a scale from 0 to 100; higher is better.\n"
    yield from _table("Longest public functions without a docstring", "lines", findings.undocumented, _lines_of)
    yield from _list(
        f"Functions that differ only in names and literals ({len(groups):,} groups)",
        (f"{len(places)} times: " + ", ".join(f"`{place}`" for place in places[:4]) for places in groups[:WORST_MAX]),
    )
    yield from _list("Most imported modules", (f"`{name}` by {n} files" for name, n in most_imported(findings)))
    yield from _list("Files that could not be parsed", (f"`{each.file}`: {each.reason}" for each in findings.unparsed))


def _lines_of(function: FunctionMeasure) -> str:
    return str(function.lines)


def _table(
    title: str, column: str, functions: Sequence[FunctionMeasure], value: Callable[[FunctionMeasure], str]
) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"| {column} | function |"
    yield "|--:|---|"
    yield from (f"| {value(function)} | `{function.place}` |" for function in functions)
    yield ""


def _list(title: str, items: Iterable[str]) -> Iterator[str]:
    yield f"## {title}\n"
    yield from ([f"- {item}" for item in items] or ["None."])
    yield ""


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "None"
