"""Checks links and code in Markdown, and traces of a particular machine in all files.

Prints every problem as `file:line: what`, and exits 1 if there is one. It runs no code; the tests do that.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[\w-]*).*$")
LINK = re.compile(r"\]\(\s*<?(?P<inline>[^)\s>]+)|^\[[^\]]+\]:\s*<?(?P<reference>[^\s>]+)")
EXTERNAL = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
# Written so that this file does not match itself.
MACHINE = re.compile(
    r"file:/{3}"  # a local address
    r"|(?<![\w.:/~$}-])/(?:root|work|home/\w+|Users/\w+)/"  # local folders
    r"|(?:extra-)?index[-_]url|find[-_]links|https?://\S+/simple\b",  # local package sources
)


def files() -> list[Path]:
    """Everything git tracks or is about to: the answer is the same before and after the commit."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = (ROOT / name for name in sorted(set(listed.split("\0"))) if name)
    return [path for path in paths if path.is_file()]


def machine_traces(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if match := MACHINE.search(line):
            yield number, f"names a path or a package index of one machine: {match[0]!r}"


def split_fences(text: str) -> tuple[list[str], list[tuple[int, str, str]]]:
    """The prose with code blanked out, line by line, and each fenced block as (line, language, code)."""
    prose: list[str] = []
    blocks: list[tuple[int, str, str]] = []
    code: list[str] = []
    opening: re.Match[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if opening is None:
            opening, code = fence, []
            prose.append("" if fence else re.sub(r"`[^`]*`", "", line))
            continue
        prose.append("")
        if fence and fence["ticks"].startswith(opening["ticks"]) and not fence["language"]:
            blocks.append((number - len(code), opening["language"], "\n".join(code)))
            opening = None
        else:
            code.append(line)
    return prose, blocks


def broken_code(blocks: list[tuple[int, str, str]]) -> Iterator[tuple[int, str]]:
    for number, language, code in blocks:
        # A session at the prompt is not a program.
        if language not in {"python", "py"} or code.lstrip().startswith(">>>"):
            continue
        try:
            ast.parse(textwrap.dedent(code))
        except SyntaxError as error:
            yield number + (error.lineno or 1) - 1, f"python block does not parse: {error.msg}"


def broken_links(path: Path, prose: list[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(prose, 1):
        for match in LINK.finditer(line):
            target = match["inline"] or match["reference"]
            if EXTERNAL.match(target):
                continue
            name, _, anchor = unquote(target).partition("#")
            # As on the forge: a leading slash means the top of the repository.
            goal = path if not name else ROOT / name[1:] if name.startswith("/") else path.parent / name
            if not goal.exists():
                yield number, f"link to {target}: no such file"
            elif anchor and goal.suffix == ".md" and anchor not in anchors(goal):
                yield number, f"link to {target}: no such heading"


def unlisted(pages: list[Path]) -> Iterator[str]:
    """Pages of docs/ that no index leads to: docs/README.md, or the README.md of their folder."""
    for page in pages:
        indexes = [folder / "README.md" for folder in page.parents if folder == DOCS or DOCS in folder.parents]
        if not indexes or page in indexes or "decisions" in page.parts:
            continue
        listed = {
            (index.parent / (match["inline"] or match["reference"])).resolve()
            for index in indexes
            if index.is_file()
            for match in LINK.finditer(index.read_text(encoding="utf-8"))
        }
        if page not in listed:
            yield f"{page.relative_to(ROOT)}: is not in docs/README.md"


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    slugs: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"#{1,6}\s+(.*)", line):
            slug = re.sub(r"[^\w\- ]", "", heading[1].strip().lower()).replace(" ", "-")
            copies = sum(1 for name in slugs if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", name))
            slugs.add(f"{slug}-{copies}" if copies else slug)
    return slugs


def problems(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # a picture or other binary file
    yield from machine_traces(text)
    name = path.relative_to(ROOT)
    if path.suffix == ".md":
        prose, blocks = split_fences(text)
        yield from broken_links(path, prose)
        if name.name == "README.md" or name.parts[0] == "docs":
            yield from broken_code(blocks)
    if str(name) == "CHANGELOG.md" and "\n## [Unreleased]\n" not in text:
        yield 1, "has no section '## [Unreleased]'"


if __name__ == "__main__":
    reported = [f"{path.relative_to(ROOT)}:{line}: {what}" for path in files() for line, what in problems(path)]
    reported += unlisted([path for path in files() if path.suffix == ".md"])
    if not (ROOT / "CHANGELOG.md").is_file():
        reported.append("CHANGELOG.md: missing")
    print("\n".join(reported) or "docs: fine")
    sys.exit(bool(reported))
