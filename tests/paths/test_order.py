"""The order in which a worker begins the queued runs of a service, as its classes and tenants ask."""

from __future__ import annotations

import asyncio

from offramp import SLA, App, testing
from offramp.paths.submission import Submission
from tests.support import eventually, result_of


class Desk:
    """A service with room for one run, which the first one holds until it is let go."""

    def __init__(self):
        classes = [SLA("high", budget=0, priority=1), SLA("low", budget=0, patience=5, share=0.5)]
        self.app = App("desk", classes=classes)
        self.clock = testing.FakeClock()
        self.begun, self.let_go = [], asyncio.Event()

        @self.app.step
        async def work(name: str) -> str:
            self.begun.append(name)
            if name == "first":
                await self.let_go.wait()
            return name

        @self.app.pipeline
        async def pipe(name: str) -> str:
            return await work(name)

    async def begin(self, runtime, *names, sla="low", tenant=""):
        """Runs of these names, each accepted later than the one before."""
        runs = []
        for name in names:
            self.clock.advance(0.001)
            given = Submission(pipeline="pipe", input=b'{"name":"%b"}' % name.encode(), sla=sla, tenant=tenant)
            runs.append(await runtime.submit(given))
        return runs

    async def has_begun(self):
        return bool(self.begun)

    async def ends(self, runs):
        self.let_go.set()
        for run in runs:
            await result_of(run)


async def test_an_overdue_class_of_a_service_gets_its_share():
    desk = Desk()
    async with testing.runtime(desk.app, clock=desk.clock, worker_runs=1) as runtime:
        runs = await desk.begin(runtime, "first", sla="high")
        await eventually(desk.has_begun)
        runs += await desk.begin(runtime, "low 1", "low 2")
        runs += await desk.begin(runtime, "high 1", "high 2", "high 3", sla="high")
        desk.clock.advance(6)
        await desk.ends(runs)
    assert desk.begun == ["first", "high 1", "low 1", "high 2", "low 2", "high 3"]


async def test_a_run_does_not_wait_for_all_earlier_ones_of_another_tenant():
    desk = Desk()
    async with testing.runtime(desk.app, clock=desk.clock, worker_runs=1) as runtime:
        runs = await desk.begin(runtime, "first", tenant="big")
        await eventually(desk.has_begun)
        runs += await desk.begin(runtime, *(f"big {number}" for number in range(150)), tenant="big")
        runs += await desk.begin(runtime, "small", tenant="small")
        await desk.ends(runs)
    assert desk.begun.index("small") == 2
