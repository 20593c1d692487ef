"""Python in the README and the docs runs as it stands."""

from __future__ import annotations

import contextlib
import sys
import types

import pytest

from offramp.errors import RunConflict
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


async def test_the_backup_of_operations_can_be_read(tmp_path):
    from examples.quickstart import app
    from offramp.stores.sqlite import Database

    (block,) = blocks(ROOT / "docs" / "operations.md", "python")
    scope = {}
    exec(block.code, scope)
    async with app.local(data=str(tmp_path / "live")) as runtime:
        handle = await runtime.start("research", question="Why?", rounds=1)
        async for event in handle:
            if event.type == "run.accepted":
                break
        (tmp_path / "copy").mkdir()
        scope["back_up"](str(tmp_path / "live" / "offramp.db"), str(tmp_path / "copy" / "offramp.db"))
        run_id = handle.id
        with contextlib.suppress(RunConflict):  # it may have ended meanwhile
            await handle.cancel()
    database = Database(tmp_path / "copy")
    try:
        found = await database.read(lambda connection: connection.execute("SELECT id FROM runs").fetchall())
    finally:
        database.close()
    assert found == [(run_id,)]
