"""The pages that tests read: README and docs, cut into their code blocks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tools.check_docs import split_fences

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FRAGMENT = "<!-- fragment -->"


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str
    fragment: bool

    @property
    def name(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page, *languages):
    """The blocks in these languages; one below `<!-- fragment -->` is only compiled."""
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = []
    for line, language, code in split_fences(text)[1]:
        above = next((each for each in reversed(lines[: line - 2]) if each.strip()), "")
        if language in languages:
            found.append(Block(page, line, language, code, above.strip() == FRAGMENT))
    return found
