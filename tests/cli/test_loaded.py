"""A command that is forked from a loaded process does what one in a process of its own does."""

import os
import subprocess

import pytest

from tests.cli.harness import OFFRAMP, environment, loaded

SHOWS = """
import atexit, os, sys
from offramp import App

app = App("shows")
atexit.register(lambda: print("the end", os.environ["OFFRAMP_TEST"], file=sys.stderr))


@app.pipeline
async def look(how: str) -> list:
    if how == "exit":
        os._exit(7)
    if how == "abort":
        os.abort()
    known = sorted(name for name in sys.modules if name.startswith(("tests", "loaded")))
    return [sys.argv, sys.path[:2], os.getcwd(), sys.stdin.read(), __name__, known, sys.modules["__main__"].__name__]
"""


@pytest.mark.parametrize("how", ["return", "exit", "abort"])
def test_what_a_command_sees_and_how_it_ends_are_the_same(tmp_path, how):
    (tmp_path / "shows.py").write_text(SHOWS)
    arguments = ["run", "shows.py", "look", "--input", f'{{"how": "{how}"}}']
    given = environment(OFFRAMP_TEST="é")
    alone = subprocess.run(
        [*OFFRAMP, *arguments],
        cwd=tmp_path,
        env=given,
        input="from stdin",
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    forked = loaded().run(arguments, tmp_path, given, "from stdin")
    assert (forked.returncode, forked.stdout) == (alone.returncode, alone.stdout)
    # A process that ends at once may lose what was being written.
    assert how != "return" or forked.stderr.splitlines()[-1:] == alone.stderr.splitlines()[-1:]
    assert how != "return" or "the end é" in forked.stderr
    assert os.fspath(tmp_path) in forked.stdout or how != "return"
