"""What steps and bodies raise on Temporal: a body sees what it sees elsewhere, and no process dies."""

from __future__ import annotations

import pytest

from offramp import testing
from tests.boundary.raising import app, kind_of
from tests.boundary.test_raised import ALL
from tests.support import log_of, of, result_of, types


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
