"""What steps and bodies raise on Temporal: a body sees what it sees elsewhere, and no process dies."""

from __future__ import annotations

import pytest

from offramp import SLA, App, testing
from offramp.errors import Aborted
from tests.boundary.raising import RAISES, app, kind_of
from tests.boundary.test_raised import ALL
from tests.support import Signal, log_of, of, reach, result_of, types


async def test_a_body_sees_what_it_sees_on_the_embedded_engine(service, monkeypatch):
    from offramp.engines.temporal import engine

    monkeypatch.setattr(engine, "BODIES_CACHED_MAX", 0)
    async with testing.runtime(app) as embedded:
        expected = await result_of(await embedded.start("meets_all", names=ALL, lane="loop"))
    async with service(app) as runtime:
        handle = await runtime.start("meets_all", names=ALL, lane="loop")
        found = await result_of(handle)
        log = await log_of(handle)
    assert found == expected
    assert len(of(log, "step.failed")) == len(ALL)
    assert "run.resumed" not in types(log)


ENDS = [("ends_with", name) for name in ("exits", "interrupts", "closes", "panics", "stray", "many")]
BRANCHES = [("branch_ends_with", name) for name in ("exits", "interrupts", "panics")]


@pytest.mark.parametrize(("pipeline", "name"), [*ENDS, *BRANCHES])
async def test_a_body_that_ends_so_fails_its_run_once(service, pipeline, name):
    async with service(app) as runtime:
        handle = await runtime.start(pipeline, name=name)
        log = await log_of(handle)
        assert await result_of(await runtime.start("outer", name="plain")) == "Plain"
    assert types(log) == ["run.accepted", "run.failed"]
    assert (log[-1].data["error"]["code"], log[-1].data["error"]["step"]) == ("aborted", None)
    assert kind_of(name) in log[-1].data["error"]["message"]
    assert f"the body of pipeline '{pipeline}' ended with" in log[-1].data["error"]["message"]


async def test_what_ends_a_step_while_its_run_is_demoted_is_delivered_as_a_failure(service):
    left, executed = App("left", classes=[SLA("now", budget=0.3)]), []
    may = {name: Signal() for name in ("stray", "exits", "panics")}

    @left.step(timeout=60)
    async def failing(name: str) -> None:
        executed.append(name)
        await may[name].wait()
        RAISES[name]()

    @left.step(timeout=60)
    async def note(text: str) -> str:
        return text

    @left.pipeline(sla="now")
    async def leaves(name: str) -> str:
        try:
            await failing(name)
        except Aborted as error:
            return await note(f"{type(error.__cause__).__name__}: {error}")
        return "nothing"

    async with service(left) as runtime:
        for name, may_go in may.items():
            handle = await runtime.start("leaves", name=name)
            await reach(handle, "run.demoted")
            may_go.set()
            found = await result_of(handle)
            assert found.startswith(f"{kind_of(name)}: step 'failing' ended with {kind_of(name)}")
            assert len(of(await log_of(handle), "step.failed")) == 1
    assert executed == list(may)
