"""Checks that tests reach into few privates of offramp: a name with an underscore may change with any refactoring.

    python tools/check_private.py [--list]

Counts, below `tests/`, each use of a private name that `src/offramp` defines and the test module does not: as an
attribute, in an import, or as text given to `monkeypatch.setattr`. It compares names, not types.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USES_MAX = 7
"""To be lowered whenever there are fewer."""
OF_OTHERS = {"_replace", "_cancelled", "_ready", "_run", "_scheduled", "_when"}
"""Names of named tuples and of asyncio that offramp has as well."""
PLANTED = ("tests/conformance/broken/", "tests/leaving/faults.py")
"""Bugs and faults that are planted: each of them replaces an internal."""


def private(name: str) -> bool:
    """Whether a name says that it is not for others."""
    return name.startswith("_") and not name.startswith("__") and name not in {"_", *OF_OTHERS}


def defined(tree: ast.AST) -> set[str]:
    """The private names that a module gives to what it defines: functions, classes, variables, attributes of `self`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}:
                found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return set(filter(private, found))


def used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The private names that a module uses of others, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("offramp"):
            yield from ((node.lineno, alias.name) for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            texts = [text.value for text in node.args if isinstance(text, ast.Constant) and isinstance(text.value, str)]
            names = [text.rpartition(".")[2] for text in texts[:1]]
            yield from ((node.lineno, name) for name in names if private(name))


def uses(root: Path) -> list[str]:
    """Each use, as a line that says where it is."""
    ours = set[str]()
    for path in (root / "src" / "offramp").rglob("*.py"):
        ours |= defined(ast.parse(path.read_text(encoding="utf-8")))
    found: list[str] = []
    for path in sorted((root / "tests").rglob("*.py")):
        if path.relative_to(root).as_posix().startswith(PLANTED):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        theirs = ours - defined(tree)
        place = path.relative_to(root)
        found += [f"{place}:{line}: {name}" for line, name in sorted(used(tree)) if name in theirs]
    return found


def main() -> int:
    """Print how many there are, and which if they are too many; 1 if they are."""
    found = uses(ROOT)
    if "--list" in sys.argv or len(found) > USES_MAX:
        print("\n".join(found))
    print(f"private: {len(found)} uses of offramp's private names in tests, of at most {USES_MAX}")
    return int(len(found) > USES_MAX)


if __name__ == "__main__":
    sys.exit(main())
