"""Fails if a dependency whose internals offramp uses has no upper bound at the tested version.

What `src/` uses of a declared dependency decides how far its bound may reach
("Bounds" in docs/contributing/development.md):

- an internal (a module or name with a leading underscore, a module of `INTERNAL_MODULES`, an attribute of
  `INTERNAL_ATTRIBUTES`): below the minor version after the one in constraints.txt;
- a base class: below the major version after it.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
INTERNAL_MODULES = ("temporalio.bridge", "uvicorn.protocols")
"""Undocumented, though without an underscore."""
INTERNAL_ATTRIBUTES = {"_get_backend_id": "uvloop", "available_extensions": "websockets"}
"""Attributes of objects that a dependency creates."""
MINOR, MAJOR = 2, 1
"""How many numbers of the version must stay the same."""


def taken(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Yield what a module uses of others: the other's name, how much of its version must stay, and the line."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origins[alias.asname or alias.name.partition(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        for name in [alias.name for alias in node.names]:
            whole = f"{node.module}.{name}" if isinstance(node, ast.ImportFrom) else name
            if whole.startswith(INTERNAL_MODULES) or any(_is_private(part) for part in whole.split(".")):
                yield whole, MINOR, node.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in INTERNAL_ATTRIBUTES:
            yield INTERNAL_ATTRIBUTES[node.attr], MINOR, node.lineno
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                root = ast.unparse(base).partition("[")[0].partition(".")[0]
                if root in origins:
                    yield origins[root], MAJOR, node.lineno


def _is_private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__")


def bound(tested: Version, fixed: int) -> Version:
    """The version that a bound must not exceed: a higher one allows untested versions."""
    numbers = [*tested.release, 0][:fixed]
    return Version(".".join(map(str, [*numbers[:-1], numbers[-1] + 1])))


def is_capped(requirement: Requirement, below: Version) -> bool:
    """Whether it excludes that version and all later ones."""
    return any(each.operator == "<" and Version(each.version) <= below for each in requirement.specifier)


def declared(project: dict[str, Any]) -> dict[str, Requirement]:
    """The requirements of a user's installation, by name."""
    extras = [named for extra, named in project["optional-dependencies"].items() if extra not in {"dev", "bench"}]
    parsed = map(Requirement, [*project["dependencies"], *(each for named in extras for each in named)])
    return {canonicalize_name(each.name): each for each in parsed}


def complaints(source: Path, requirements: dict[str, Requirement], tested: dict[str, Version]) -> Iterator[str]:
    """One line for each use without a bound."""
    owners = packages_distributions()
    reported: set[tuple[str, int]] = set()
    for path in sorted(source.rglob("*.py")):
        for name, fixed, line in taken(ast.parse(path.read_text(encoding="utf-8"))):
            for owner in {canonicalize_name(each) for each in owners.get(name.partition(".")[0], ())}:
                requirement = requirements.get(owner)
                if requirement is None or is_capped(requirement, below := bound(tested[owner], fixed)):
                    continue
                if (owner, fixed) not in reported:
                    reported.add((owner, fixed))
                    place = f"{path.relative_to(source.parent)}:{line}"
                    what = "an internal" if fixed == MINOR else "a base class"
                    yield f"{place}: {name} is {what} of {owner}, so pyproject.toml must bound it: <{below}"


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = (line.split("==") for line in lines if "==" in line)
    tested: dict[str, Version] = {canonicalize_name(name): Version(version) for name, version in pinned}
    reported = list(complaints(ROOT / "src", declared(project), tested))
    print("\n".join(reported) or "caps: fine")
    return bool(reported)


if __name__ == "__main__":
    sys.exit(main())
