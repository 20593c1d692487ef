"""`offramp check` calls unfinished runs under two hash seeds, and says which of them depends on its process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offramp.paths.submission import Submission
from tests.cli.harness import offramp
from tests.execution import seeds
from tests.support import eventually, member

APP = f"{seeds.__file__}:app"


async def unfinished(folder, pipeline, steps, *, store="", **given):
    """A run that stands in this folder, or store, where it is not at its end."""
    async with member(seeds.app, folder, "gateway", owner="gateway", store=store) as gateway:
        async with member(seeds.app, folder, "worker", owner="worker", store=store, drain_timeout=0.0):
            made = await gateway.submit(Submission(pipeline=pipeline, input=json.dumps(given).encode()))

            async def stands():
                document = await gateway.document(made.record.id)
                return [step["name"] for step in document["steps"]].count("balance") == steps and any(
                    step["name"] == "never" for step in document["steps"]
                )

            await eventually(stands)
        return made.record.id


def checked(folder, *options, app=APP):
    return offramp("check", app, "--data", str(folder), *options, cwd=folder)


@pytest.mark.parametrize("app", [APP, f"{seeds.__file__}:holder.app"], ids=["of its module", "an attribute"])
async def test_a_loop_over_a_set_is_found_and_named(tmp_path, app):
    run = await unfinished(tmp_path, "stuck", 3, count=6)
    done = checked(tmp_path, app=app)
    assert done.returncode == 1, done.stderr
    assert f"{run} (stuck, version 1): Divergence: the pipeline calls step 'balance' (balance:" in done.stderr
    assert "the arguments differ" in done.stderr
    assert "1 unfinished runs, 1 of them would break" in done.stderr


async def test_a_pair_is_found_under_one_of_the_two_seeds(tmp_path):
    """Whichever order the run began with, the one process has the other."""
    run = await unfinished(tmp_path, "stuck", 1, count=2)
    done = checked(tmp_path, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["broken"]) == (1, 1)
    assert document["runs"][0]["run_id"] == run
    assert set(document["runs"][0]) == {"run_id", "pipeline", "version", "problem"}
    problem = document["runs"][0]["problem"]
    assert "Divergence: the pipeline calls step 'balance' (balance:" in problem
    assert problem.endswith("(under one hash seed of two: does the body iterate over a set?)")


async def test_an_order_that_is_repeated_fits(tmp_path):
    await unfinished(tmp_path, "stuck", 3, count=6, in_order=True)
    done = checked(tmp_path)
    assert (done.returncode, done.stderr) == (0, "1 unfinished runs, 0 of them would break\n")


async def test_a_plain_as_completed_is_found(tmp_path):
    await unfinished(tmp_path, "ends_anyhow", 6)
    done = checked(tmp_path)
    assert done.returncode == 1
    assert f"asyncio.as_completed at {Path(seeds.__file__)}:" in done.stderr
    assert "use offramp.as_completed" in done.stderr
