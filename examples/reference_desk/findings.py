"""The findings that an audit keeps: totals, the worst functions of each kind, and possible duplicates.

Summarizes batches and merges the summaries. Merging is exact: the worst of all are among each batch's worst.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from .measures import FileMeasure, FunctionMeasure, Unparsed, measure_file

WORST_MAX = 10
"""Functions listed of each kind."""

DUPLICATE_LINES_MIN = 6
"""Functions whose body has fewer lines resemble each other by chance and are not compared."""


class Totals(msgspec.Struct, frozen=True):
    """Sums over all files that parsed."""

    files: int = 0
    lines: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    functions: int = 0
    public_functions: int = 0
    documented_functions: int = 0


class Findings(msgspec.Struct, frozen=True):
    """The summary of some files; `shapes` holds every function long enough to be compared."""

    totals: Totals
    longest: list[FunctionMeasure]
    most_branching: list[FunctionMeasure]
    least_maintainable: list[FunctionMeasure]
    undocumented: list[FunctionMeasure]
    shapes: dict[str, list[str]]
    imports: dict[str, int]
    unparsed: list[Unparsed]


def measure_batch(root: str, files: Sequence[str]) -> Findings:
    """Measure some files and summarize them."""
    measured = [measure_file(root, file) for file in files]
    parsed = [each for each in measured if isinstance(each, FileMeasure)]
    functions = [function for file in parsed for function in file.functions]
    public = [function for function in functions if function.is_public]
    shapes: dict[str, list[str]] = defaultdict(list)
    for function in functions:
        if function.body_lines >= DUPLICATE_LINES_MIN:
            shapes[function.shape].append(function.place)
    return Findings(
        totals=Totals(
            files=len(parsed),
            lines=sum(file.lines for file in parsed),
            code_lines=sum(file.code_lines for file in parsed),
            comment_lines=sum(file.comment_lines for file in parsed),
            functions=len(functions),
            public_functions=len(public),
            documented_functions=sum(function.has_docstring for function in public),
        ),
        longest=_worst(functions, _by_lines),
        most_branching=_worst(functions, _by_complexity),
        least_maintainable=_worst(functions, _by_maintainability),
        undocumented=_worst([function for function in public if not function.has_docstring], _by_lines),
        shapes=dict(shapes),
        imports=dict(Counter(module for file in parsed for module in file.imports)),
        unparsed=[each for each in measured if isinstance(each, Unparsed)],
    )


def merge(parts: Sequence[Findings]) -> Findings:
    """Merge the summaries of batches into one."""
    shapes: dict[str, list[str]] = defaultdict(list)
    imports: Counter[str] = Counter()
    for part in parts:
        imports.update(part.imports)
        for shape, places in part.shapes.items():
            shapes[shape].extend(places)
    return Findings(
        totals=_sum(part.totals for part in parts),
        longest=_worst([each for part in parts for each in part.longest], _by_lines),
        most_branching=_worst([each for part in parts for each in part.most_branching], _by_complexity),
        least_maintainable=_worst([each for part in parts for each in part.least_maintainable], _by_maintainability),
        undocumented=_worst([each for part in parts for each in part.undocumented], _by_lines),
        shapes=dict(shapes),
        imports=dict(imports),
        unparsed=[each for part in parts for each in part.unparsed],
    )


def duplicates(findings: Findings) -> list[list[str]]:
    """Return the places of functions that share a shape, the largest group first."""
    groups = [sorted(places) for places in findings.shapes.values() if len(places) > 1]
    return sorted(groups, key=lambda places: (-len(places), places))


def most_imported(findings: Findings) -> list[tuple[str, int]]:
    """Return modules and how many files import each, the most imported first."""
    return sorted(findings.imports.items(), key=lambda item: (-item[1], item[0]))[:WORST_MAX]


def _sum(totals: Iterable[Totals]) -> Totals:
    columns = zip(*(msgspec.structs.astuple(each) for each in totals), strict=True)
    return Totals(*map(sum, columns))


def _worst(functions: Iterable[FunctionMeasure], key: Callable[[FunctionMeasure], float]) -> list[FunctionMeasure]:
    return sorted(functions, key=lambda function: (key(function), function.place))[:WORST_MAX]


def _by_lines(function: FunctionMeasure) -> float:
    return -function.lines


def _by_complexity(function: FunctionMeasure) -> float:
    return -function.complexity


def _by_maintainability(function: FunctionMeasure) -> float:
    # Very large functions all reach 0; among those, the longer one is worse.
    return function.maintainability - function.lines / 1_000_000
