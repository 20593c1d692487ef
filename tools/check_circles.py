"""Fails when modules of the package import each other in a circle, inside functions and for annotations included.

The contract in pyproject.toml holds the folders to the same, and looks at no package's own `__init__`; this does.
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter

from grimp import build_graph

PACKAGE = "offramp"


def circle(package: str) -> list[str]:
    """Modules each of which imports the next, the first of them again at the end; empty where no circle is."""
    graph = build_graph(package, cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found[::-1]
    return []


if __name__ == "__main__":
    found = circle(PACKAGE)
    print(f"a circle of imports: {' -> '.join(found)}" if found else "circles: none")
    sys.exit(bool(found))
