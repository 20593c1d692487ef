"""Values on their way over Temporal: activities take and give what a body takes and gives elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from offramp.paths.submission import Submission
from tests.boundary import passing
from tests.support import Signal, log_of, of, reach, result_of


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(passing, "GATE", Signal())
    passing.SEEN.clear()
    passing.GIVEN.clear()


async def test_every_value_comes_back_as_it_was(service):
    cases = list(passing.GOOD)
    async with service(passing.app, processes=1) as runtime:
        assert await result_of(await runtime.start("echo", cases=cases)) == len(cases)
    passing.assert_unchanged(cases)
    assert set(passing.SEEN) == set(cases)


async def test_a_step_has_its_own_arguments_and_defaults(service):
    async with service(passing.app, processes=1) as runtime:
        result = await result_of(await runtime.start("appends", start=[1]))
        assert result == [[1, 1]] * 4 + [[1, 1, 1]] * 2 + [[1, 7]]
        assert (await result_of(await runtime.start("appends")))[-1] == [7]
    assert passing.GIVEN == [["me"]] * 8


@pytest.mark.parametrize("where", ["here", "elsewhere", "model"])
async def test_an_argument_that_cannot_be_decoded_fails_the_step(service, where):
    async with service(passing.app, processes=1) as runtime:
        handle = await runtime.start("misfits", where=where)
        async with asyncio.timeout(30):
            name, text = await result_of(handle)
        assert name == "EncodingError"
        assert "$.number" in text
        (failed,) = of(await log_of(handle), "step.failed")
    assert failed.data["step"].startswith("wants_")
    assert failed.data["error"]["code"] == "encoding"


async def test_a_demoted_run_finds_what_it_finished(service):
    async with service(passing.app, processes=1) as runtime:
        accepted = await runtime.submit(Submission(pipeline="demoted", input=b"{}", budget=0.2))
        await reach(accepted, "run.demoted")
        passing.GATE.set()
        assert await result_of(accepted) == ["again", "again"]
    assert passing.SEEN["demoted"][-1] == passing.SEEN["demoted"][0]
    assert len(passing.SEEN["demoted"]) == 2
