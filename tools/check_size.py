"""Fails if a file under src/, or a function in it, is longer than its bound.

Warns of a file before that: it may hold two ideas. A function's lines run from its `def` to its last line, without its
docstring.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"
FILE_LINES_WARNED = 400
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def line_count(function: Function) -> int:
    """The lines from `def` to the end, without decorators and docstring."""
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    return span(function) - (span(docstring) if docstring else 0)


def span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def complaints(path: Path) -> Iterator[str]:
    """One line for each bound that the file breaks."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(SRC.parent)
    if (lines := len(text.splitlines())) > FILE_LINES_MAX:
        yield f"{name}: {lines} lines, at most {FILE_LINES_MAX}: split it by idea"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function) and (lines := line_count(node)) > FUNCTION_LINES_MAX:
            yield f"{name}:{node.lineno}: {node.name}() has {lines} lines, at most {FUNCTION_LINES_MAX}"


def warnings(path: Path) -> Iterator[str]:
    """One line for a file that is long, and not too long."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if FILE_LINES_WARNED < lines <= FILE_LINES_MAX:
        yield f"{path.relative_to(SRC.parent)}: {lines} lines, more than {FILE_LINES_WARNED}: does it hold two ideas?"


def main() -> int:
    """Print what is too long and what is long; 1 if anything is too long."""
    files = sorted(SRC.rglob("*.py"))
    for line in (line for path in files for line in warnings(path)):
        print(f"warning: {line}")
    reported = [line for path in files for line in complaints(path)]
    print("\n".join(reported) or "sizes: fine")
    return bool(reported)


if __name__ == "__main__":
    sys.exit(main())
