"""Python in the README and the docs runs as it stands."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import sys
import types

import pytest

from tests.cli.harness import offramp
from tests.docs.pages import PAGES, ROOT, blocks

README = ROOT / "README.md"
QUICKSTART = ROOT / "examples" / "quickstart.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_of_a_page_runs_in_order(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page_of_the_docs")  # annotations of its classes are looked up here
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page, "python", "py"):
        # Padded, so that a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        if not block.fragment:
            exec(code, module.__dict__)


def test_the_program_of_the_readme_is_the_quickstart():
    (program,) = blocks(README, "python")
    docstring, _, rest = QUICKSTART.read_text(encoding="utf-8").partition("\n\n")
    assert docstring.startswith('"""')
    assert program.code.strip() == rest.strip()
    assert len(program.code.splitlines()) <= 35


def test_the_javascript_of_the_how_to_is_that_of_the_page():
    page = (ROOT / "examples" / "browser" / "index.html").read_text(encoding="utf-8")
    pieces = blocks(ROOT / "docs" / "how-to" / "browser.md", "js")
    assert len(pieces) == 2
    for piece in pieces:
        assert piece.code.rstrip() in page, piece.name


def test_lines_of_the_readme_fit_80_columns():
    assert [line for line in README.read_text(encoding="utf-8").splitlines() if len(line) > 80] == []


def test_the_backup_of_operations_is_made_and_restored(tmp_path):
    (block,) = [
        block
        for block in blocks(ROOT / "docs" / "how-to" / "operations.md", "console")
        if "offramp backup" in block.code
    ]
    backup, restore = [shlex.split(line.removeprefix("$ "))[1:] for line in block.code.strip().splitlines()]
    run = ["run", str(QUICKSTART), "research", "--input", '{"question": "Why?", "rounds": 1}', "--data", ".offramp"]
    assert offramp(*run, cwd=tmp_path).returncode == 0
    kept = runs_in(tmp_path / ".offramp")
    assert offramp(*backup, cwd=tmp_path).returncode == 0
    assert offramp(*run, cwd=tmp_path).returncode == 0
    assert len(runs_in(tmp_path / ".offramp")) == len(kept) + 1 == 2
    assert offramp(*restore, cwd=tmp_path).returncode == 0
    assert runs_in(tmp_path / ".offramp") == kept


def runs_in(folder):
    with contextlib.closing(sqlite3.connect(folder / "offramp.db")) as connection:
        return connection.execute("SELECT id FROM runs").fetchall()
