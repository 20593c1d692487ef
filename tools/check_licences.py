"""Fails if a package of users or the image has an unreviewed licence.

Reads the metadata of the installed packages of `requirements/image.txt`: the expression (PEP 639), the
classifiers, or the text field, in this order.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "requirements" / "image.txt"
ALLOWED = re.compile(
    r"Apache|BSD|\bISC\b|\bMIT\b|MPL[- ]2|Mozilla Public License 2|PSF|Python Software Foundation", re.IGNORECASE
)
"""Permissive ones, and MPL 2.0, whose conditions cover only changes to its own files."""
LOOKED_UP: dict[str, str] = {}
"""Licences looked up for packages that do not name theirs."""


def licence_of(name: str) -> str:
    """The licence that a package declares; empty if none."""
    declared: Any = metadata(name)
    classifiers = [each for each in declared.get_all("Classifier") or [] if each.startswith("License ::")]
    own = declared.get("License-Expression") or ", ".join(each.rpartition(" :: ")[2] for each in classifiers)
    return own or (declared.get("License") or "").strip().partition("\n")[0] or LOOKED_UP.get(name, "")


def locked() -> list[str]:
    """The names in the lock."""
    return re.findall(r"^([\w.-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE)


def complaints() -> Iterator[str]:
    """One line for each package to review."""
    for name in locked():
        try:
            licence = licence_of(name)
        except PackageNotFoundError:
            continue  # for another platform
        if not ALLOWED.search(licence):
            yield f"{name}: {licence or 'declares no licence'}: review it, and list it in tools/check_licences.py"


if __name__ == "__main__":
    reported = list(complaints())
    print("\n".join(reported) or "licences: fine")
    sys.exit(bool(reported))
