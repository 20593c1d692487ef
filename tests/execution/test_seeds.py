"""`testing.replays` calls a body again in another process under another hash seed, where sets have another order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from offramp import App, testing
from offramp.rehearsal import Place, RehearsalFailed, elsewhere, other_seed, place_of
from tests.execution import seeds

SEED = "does the body iterate over a set"


@pytest.mark.parametrize(("pipeline", "count"), [("loops", 2), ("loops", 6)])
async def test_a_loop_over_a_set_is_found(pipeline, count):
    with pytest.raises(
        AssertionError, match=f"{SEED}.*'balance' .*where its journal has step 'balance' .*arguments differ"
    ):
        await testing.replays(seeds.app, pipeline, count=count)


async def test_a_set_that_the_body_makes_is_found():
    with pytest.raises(AssertionError, match=f"{SEED}.*arguments differ"):
        await testing.replays(seeds.app, "of_its_own")


async def test_a_result_in_the_order_of_a_set_is_found():
    with pytest.raises(AssertionError, match=f"{SEED}.*it returned"):
        await testing.replays(seeds.app, "lists", count=3)


@pytest.mark.parametrize("pipeline", ["sorts", "gathers"])
async def test_what_is_sorted_or_found_by_its_key_passes(pipeline):
    found = await testing.replays(seeds.app, pipeline, count=6)
    assert found == [f"balance of {name}" for name in seeds.NAMES]


async def test_an_app_that_no_module_has_is_checked_in_this_process_and_that_is_said():
    app = App("local")

    @app.pipeline
    async def pipe() -> int:
        return 1

    only = "'pipe' under this process's hash seed only: app 'local' is not a module's own"
    with pytest.warns(testing.OneProcess, match=only) as warned:
        assert await testing.replays(app, "pipe") == 1
    assert warned[0].filename == __file__


def test_an_app_is_found_where_it_is_declared():
    assert place_of(seeds.app) == Place("tests.execution.seeds", "app", seeds.__file__)
    assert place_of(App("nowhere")) is None


def test_another_seed_orders_a_set_otherwise():
    names = seeds.NAMES[:4]
    done = subprocess.run(
        [sys.executable, "-c", f"print(list(set({names})))"],
        env=os.environ | {"PYTHONHASHSEED": other_seed([names])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() != str(list(set(names)))


def test_a_module_that_cannot_be_imported_is_told(tmp_path):
    broken = tmp_path / "broken_here.py"
    broken.write_text("raise RuntimeError('only in the service')\n")
    with pytest.raises(RehearsalFailed, match="could not do it with broken_here: RuntimeError: only in the service"):
        elsewhere(Place("broken_here", "app", str(broken)), [])


def test_a_script_is_found_by_its_file(tmp_path):
    script = Path(tmp_path, "script.py")
    script.write_text(
        "import asyncio\n"
        "from offramp import App, testing\n"
        "app = App('script')\n"
        "@app.step\n"
        "async def twice(name: str) -> str: return 2 * name\n"
        "@app.pipeline\n"
        "async def pipe(names: list[str]) -> list[str]: return [await twice(name) for name in set(names)]\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(testing.replays(app, 'pipe', names=['a', 'b', 'c', 'd', 'e']))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert SEED in done.stderr, done.stderr
