"""Optional dependencies: the command that installs them, however this package was installed."""

from __future__ import annotations

import re
import shlex
from importlib import metadata

_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)")


def packages_by_extra() -> dict[str, list[str]]:
    """The requirements of each extra, without markers, as the installed package declares them."""
    found: dict[str, list[str]] = {}
    try:
        declared = metadata.requires("offramp") or []
    except metadata.PackageNotFoundError:
        declared = []
    for line in declared:
        if extra := _EXTRA.search(line):
            found.setdefault(extra[1], []).append(line.partition(";")[0].strip())
    return found


def install(extra: str) -> str:
    """`pip install …` with the packages of an extra, which it names: no index knows this package by its name."""
    packages = packages_by_extra().get(extra)
    named = f"Offramp's extra {extra!r}"
    return f"pip install {shlex.join(packages)} ({named})" if packages else f"install {named}"
