"""The tables of docs/reference/boundary.md."""

from __future__ import annotations

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "reference" / "boundary.md"


def rows(title):
    """The first cell of each row of the table below this heading, to its second."""
    below = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")][2:]
    cells = [line.strip("|").replace("\\|", "\0").split("|") for line in lines]
    return {first.strip().replace("\0", "|"): second.strip().replace("\0", "|") for first, second in cells}
