"""Worker Versioning: a run stays with the build it began on, new ones go where the deployment says."""

from __future__ import annotations

import asyncio
import uuid

import offramp
from offramp import SLA, App
from offramp.paths.local import LocalRuntime
from tests import temporal
from tests.support import Signal, eventually, failure_of, member, reach, result_of


def build(number, held):
    app = App("builds", classes=[SLA("deep", budget=0)])

    @app.step(timeout=60)
    async def hold(name: str) -> str:
        if name == "first":
            await held.wait()
        return f"{name} by {number}"

    @app.pipeline(sla="deep")
    async def twice(name: str) -> list[str]:
        return [await hold(name), await hold("again")]

    return app


async def make_current(deployment, number):
    """What an operator does; refused until the server has seen a worker of that build."""
    command = [*("worker", "deployment", "set-current-version", "--yes", "--address", temporal.server().target)]
    command += ["--deployment-name", deployment, "--build-id", str(number)]

    async def done():
        process = await asyncio.create_subprocess_exec(
            temporal.BINARY, *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        return await process.wait() == 0

    await eventually(done)


async def test_a_run_stays_with_the_build_it_began_on(tmp_path, url, history):
    held, deployment = Signal(), uuid.uuid4().hex

    def versioned(number):
        return f"{url}&deployment={deployment}&build_id={number}"

    one, two = build(1, held), build(2, held)
    async with (
        member(one, tmp_path, "worker", engine=versioned(1), drain_timeout=5),
        member(one, tmp_path, "gateway", engine=url) as gateway,
    ):
        runtime = LocalRuntime(gateway)
        await make_current(deployment, 1)
        first = await runtime.start("twice", name="first")
        await reach(first, "step.started")
        async with member(two, tmp_path, "worker", engine=versioned(2), drain_timeout=5):
            await make_current(deployment, 2)
            second = await runtime.start("twice", name="second")
            assert await result_of(second) == ["second by 2", "again by 2"]
            begun = (await history(second.id))[0].workflow_execution_started_event_attributes
            assert not begun.eager_execution_accepted, "it would begin on the build of the process that handed it over"
            held.set()
            assert await result_of(first) == ["first by 1", "again by 1"]


def changing(first):
    """An app whose pipeline calls `first`, then waits."""
    app = App("changed", classes=[SLA("deep", budget=0)])

    @app.step(timeout=60)
    async def old(number: int) -> int:
        return number

    @app.step(timeout=60)
    async def new(number: int) -> int:
        return number

    @app.pipeline(sla="deep")
    async def waits() -> int:
        number = await {"old": old, "new": new}[first](1)
        await offramp.signal("go")
        return number

    return app


async def test_a_run_whose_code_changed_has_diverged_and_somebody_is_told(tmp_path, url, caplog):
    settings = {"engine": url, "drain_timeout": 5}
    async with member(changing("old"), tmp_path, "gateway", **settings) as gateway:
        runtime = LocalRuntime(gateway)
        async with member(changing("old"), tmp_path, "worker", owner="w1", **settings):
            handle = await runtime.start("waits")
            await reach(handle, "wait.started")
        async with member(changing("new"), tmp_path, "worker", owner="w2", **settings):
            await handle.signal("go")
            error = await failure_of(handle)
    assert error.code == "divergence"
    assert "the pipeline calls step 'new' (new:" in str(error)
    assert "where its journal has step 'old' (old:" in str(error)
    assert "restarts from its journal: [TMPRL1100]" in caplog.text


async def test_a_run_that_starts_anew_stays_with_the_build_it_began_on(tmp_path, url, history):
    from offramp.engines.temporal.anew import Strayed

    held, deployment = Signal(), uuid.uuid4().hex

    def versioned(number):
        return f"{url}&deployment={deployment}&build_id={number}"

    async with (
        member(build(1, held), tmp_path, "worker", engine=versioned(1), drain_timeout=5) as one,
        member(build(1, held), tmp_path, "gateway", engine=url) as gateway,
    ):
        await make_current(deployment, 1)
        run = await LocalRuntime(gateway).start("twice", name="first")
        await reach(run, "step.started")
        async with member(build(2, held), tmp_path, "worker", engine=versioned(2), drain_timeout=5):
            await make_current(deployment, 2)
            before = (await history(run.id))[0].workflow_execution_started_event_attributes
            one.engine.strayed(Strayed(run.id, before.original_execution_run_id, "a test"))
            await reach(run, "run.resumed")
            held.set()
            assert await result_of(run) == ["first by 1", "again by 1"]
            after = (await history(run.id))[0].workflow_execution_started_event_attributes
            assert after.original_execution_run_id != before.original_execution_run_id
