"""Fails when a package that users or the image get has a licence that nobody has looked at.

Reads what the installed packages of `requirements/image.txt` say of themselves: the expression (PEP 639), the
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
"""Permissive ones, and MPL 2.0, which asks something of changes to its own files alone."""
SAID_NOWHERE: dict[str, str] = {}
"""Licences that were looked up, of packages that do not name theirs."""


def licence_of(name: str) -> str:
    """What a package says its licence is; empty if it does not."""
    said: Any = metadata(name)
    classifiers = [each for each in said.get_all("Classifier") or [] if each.startswith("License ::")]
    own = said.get("License-Expression") or ", ".join(each.rpartition(" :: ")[2] for each in classifiers)
    return own or (said.get("License") or "").strip().partition("\n")[0] or SAID_NOWHERE.get(name, "")


def locked() -> list[str]:
    """The names in the lock."""
    return re.findall(r"^([\w.-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE)


def complaints() -> Iterator[str]:
    """One line for each package to look at."""
    for name in locked():
        try:
            licence = licence_of(name)
        except PackageNotFoundError:
            continue  # for another platform
        if not ALLOWED.search(licence):
            yield f"{name}: {licence or 'says no licence'}: look at it, and list it in tools/check_licences.py"


if __name__ == "__main__":
    found = list(complaints())
    print("\n".join(found) or "licences: fine")
    sys.exit(bool(found))
