"""Shell commands in the docs: options and commands of `offramp` exist, and so do make's targets."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.main import get_command

from offramp.cli.program import program
from tests.cli.parsed import parse
from tests.docs.pages import PAGES, ROOT, blocks

PAGES_WITH_EXAMPLES = [*PAGES, *sorted((ROOT / "examples").rglob("*.md")), ROOT / "deploy" / "README.md"]


def commands(page):
    """Each command of the page's shell blocks, continued lines joined, prompt and comment taken off."""
    for block in blocks(page, "console", "sh", "bash", "shell"):
        for line in block.code.replace("\\\n", " ").splitlines():
            text = line.strip().removeprefix("$ ")
            for command in text.split(" | "):
                words = shlex.split(command, comments=True)
                if words:
                    yield block.name, words


FOUND = [(where, words) for page in PAGES_WITH_EXAMPLES for where, words in commands(page)]
MENTIONED = re.compile(r"`(offramp [a-z][^`]*)`")


@pytest.mark.parametrize(("where", "words"), [each for each in FOUND if each[1][0] == "offramp"])
def test_a_command_in_a_shell_block_parses(where, words):
    parse(words[1:])


@pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_in_the_text_exists(page):
    for text in MENTIONED.findall(page.read_text(encoding="utf-8").replace("\n", " ")):
        words = shlex.split(text)
        # `offramp serve` names a command, `offramp follow RUN` shows its use.
        parse([word for word in words[1:] if word != "COMMAND"])


def test_the_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {words[1] for _, words in FOUND if words[0] == "make"}
    assert {"demo", "test"} <= named <= targets


def test_every_command_is_on_the_page_of_the_command_line():
    text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in get_command(program).commands if f"offramp {name}" not in text] == []
