"""The rows of "What may be waited for" about ends from outside: each is a coroutine function that executes its case."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import offramp
from offramp import App, testing
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.support import Signal, eventually, frames_of, log_of, member, of, types


class Desk:
    """A pipeline that waits at a gate and cleans up in steps; `saw` is what its bodies saw."""

    def __init__(self, **pipeline):
        self.app, self.begun, self.hold, self.saw, self.executed = App("desk"), Signal(), Signal(), [], []

        @self.app.step
        async def work() -> str:
            self.begun.set()
            await self.hold.wait()
            return "done"

        @self.app.step
        async def tidy(what: str) -> str:
            self.executed.append(what)
            if what == "forever":
                await asyncio.get_running_loop().create_future()
            return what

        @self.app.pipeline(**pipeline)
        async def pipe(tidied: str = "one", runtime: bool = False) -> str:
            try:
                done = await work()
                self.saw.append(done)
                return await tidy("then")
            except asyncio.CancelledError:
                self.saw.append("cancelled")
                if runtime:
                    await tidy("outside")
                raise
            finally:
                async with offramp.cleanup(timeout=7):
                    self.saw.append("cleans up")
                    await tidy(tidied)

    async def ended(self, handle, how, clock):
        await self.begun.wait()
        if how == "cancelled":
            await handle.cancel()
        else:
            clock.advance(1000.1)
        return await log_of(handle)


async def a_wait_that_an_end_reaches():
    for how in ("cancelled", "expired"):
        desk, clock = Desk(deadline=1000), FakeClock()
        async with testing.runtime(desk.app, clock=clock) as runtime:
            handle = await runtime.start("pipe", runtime=True)
            seen = await desk.ended(handle, how, clock)
            outcome, repeated, *_ = await runtime.service.replay(handle.id)
        assert types(seen)[-1] == f"run.{how}"
        assert desk.saw == ["cancelled", "cleans up"] * 2
        assert desk.executed == ["one"]
        assert (outcome.status, repeated) == (how, [])


async def steps_of_a_cleanup():
    for how in ("cancelled", "expired"):
        for budget in (60, 0):
            desk, clock = Desk(deadline=1000, budget=budget), FakeClock()
            async with testing.runtime(desk.app, clock=clock) as runtime:
                seen = await desk.ended(await runtime.start("pipe"), how, clock)
            assert [event.data["step"] for event in of(seen, "step.completed")] == ["tidy"]
            assert types(seen)[-1] == f"run.{how}"
            assert desk.executed == ["one"]


async def a_cleanup_past_its_timeout():
    desk, clock = Desk(), FakeClock()
    async with testing.runtime(desk.app, clock=clock) as runtime:
        handle = await runtime.start("pipe", tidied="forever")
        await desk.begun.wait()
        await handle.cancel()
        await eventually(lambda: desk.executed)
        clock.advance(6.9)
        assert (await handle.document())["status"] == "running"
        clock.advance(0.2)
        seen = await log_of(handle)
    assert (types(seen)[-1], of(seen, "step.completed")) == ("run.cancelled", [])


async def a_cleanup_of_a_run_that_leaves():
    desk = Desk(budget=60)
    with tempfile.TemporaryDirectory() as folder:
        async with member(desk.app, Path(folder), "worker", owner="w") as worker:
            async with member(desk.app, Path(folder), "gateway", owner="g") as gateway:
                run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
                await desk.begun.wait()
                scope = gateway.live.get(run).execution.scope
                draining = asyncio.ensure_future(gateway.drain())
                await eventually(lambda: scope.gate.state == "leaving")
                desk.hold.set()
                await draining
            await frames_of(worker, run)
            record = await worker.get(run)
    assert record.status == "completed"
    assert desk.executed == ["then", "one"]
    assert desk.saw.count("cleans up") == 1


CASES = {
    "anything that a cancellation or the deadline reaches": a_wait_that_an_end_reaches,
    "steps in `async with offramp.cleanup()` after that": steps_of_a_cleanup,
    "the same past its `timeout`": a_cleanup_past_its_timeout,
    "`offramp.cleanup()` where the run continues in another process": a_cleanup_of_a_run_that_leaves,
}
