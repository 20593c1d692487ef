"""Lists phrases and names that must not come back, each as `file:line: what: better`; exits 1 if there is one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {"LICENSE", "tools/check_prose.py"}

PHRASES = {
    "whoever": "name the role: the caller, the client, the first process that …",
    "be it": "whether … or …",
    "told of": "notified of, knows",
    "is told": "receives, learns",
    "was told": "received, learned",
    "told otherwise": "by default",
    "told apart": "distinguished",
    "unless … says another": "by default …, unless … is set",
    "goes on here": "continues in this process, resumes here",
    "goes on elsewhere": "continues in another process",
    "goes on in a worker": "continues in a worker",
    "of those that": "make the noun the subject",
    "of what is": "make the noun the subject",
    "that is what": "make the noun the subject",
    "what there is": "the existing …",
    "what became of": "the outcome of",
    "what is said": "the text, the message",
    "nobody is": "no process is, no client is",
    "nobody has": "no process has, no client has",
    "nobody waits": "no caller waits",
    "that nobody": "that no process, that no caller",
    "by nobody": "by no process",
    "somebody waits": "a caller waits",
    "somebody else": "another process",
    "anybody who": "any caller that",
    "anybody else": "any other process",
    "everybody else": "all other processes",
    "who comes": "the next caller",
    "who waits": "the waiting caller",
    "who holds": "the holder",
    "who executes": "the executing process",
    "is away": "is unavailable",
    "are away": "are unavailable",
    "for ever": "forever, without limit",
    "is no part of": "is not part of",
    "to be told": "to be notified",
}
NAMES = {
    "told": "notified, reported",
    "found": "the thing found: match, problems, rows",
    "kept": "retained, or the thing kept",
    "said": "output, message, reported",
    "heard": "acknowledged",
}


def pattern(phrase: str) -> re.Pattern[str]:
    """The phrase over line ends, also those of comments; `…` stands for up to 40 characters."""
    words = [r"[^.]{1,40}?" if word == "…" else re.escape(word) for word in phrase.split()]
    return re.compile(r"\b" + r"\s+(?:#\s*)?".join(words) + r"\b", re.IGNORECASE)


PATTERNS = {phrase: pattern(phrase) for phrase in PHRASES}


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The names of functions, parameters and attributes, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        if isinstance(node, ast.ClassDef):
            fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            yield from ((each.lineno, each.id) for each in fields if isinstance(each, ast.Name))
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr


def complaints(name: str, text: str) -> Iterator[str]:
    """One line for each phrase or name in a file."""
    lowered = text.lower()
    for phrase in (phrase for phrase in PHRASES if phrase.partition(" ")[0] in lowered):
        for match in PATTERNS[phrase].finditer(text):
            yield f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {phrase!r}: {PHRASES[phrase]}"
    if name.endswith(".py"):
        for line, identifier in names(ast.parse(text)):
            if better := NAMES.get(identifier.strip("_")):
                yield f"{name}:{line}: the name {identifier}: {better}"


def main() -> int:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    named = sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()} - SKIPPED)
    lines = [
        line for name in named for line in complaints(name, (ROOT / name).read_text(encoding="utf-8", errors="replace"))
    ]
    print("\n".join(lines) or "prose: fine")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
