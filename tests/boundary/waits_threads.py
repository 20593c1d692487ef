"""The rows of "What may be waited for" about code that does not end: a coroutine function executes each."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from offramp import App, Retry, emit, testing
from offramp.errors import StepTimeout
from offramp.gateway.health import ready
from offramp.gateway.problems import NotReady
from offramp.testing import FakeClock
from tests.support import Signal, eventually, log_of, of, reach, reading, result_of, types

GRACE_S = 0.5


class Desk:
    """Steps that do not end when they should, as long as `hold` is not set."""

    def __init__(self):
        self.app, self.hold, self.begun, self.executed = App("desk"), Signal(), Signal(), []
        self.steps = SimpleNamespace(**self._loop_steps(), **self._thread_steps())
        self._declare_pipelines()

    async def refuse(self):
        self.begun.set()
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                emit("goes on")

    def _loop_steps(self):
        @self.app.step(timeout=0.05)
        async def timed() -> None:
            await self.refuse()

        @self.app.step
        async def untimed() -> None:
            await self.refuse()

        @self.app.step(timeout=0.05, retry=Retry(attempts=2, base=0))
        async def late() -> str:
            self.executed.append("late")
            if len(self.executed) == 1:
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    return "too late"
            return "in time"

        return {"timed": timed, "untimed": untimed, "late": late}

    def _thread_steps(self):
        @self.app.step(timeout=0.05)
        def stuck() -> None:
            self.hold.block()
            emit("too late")
            self.executed.append("stuck")

        @self.app.step
        def occupied() -> None:
            self.begun.set()
            self.hold.block()

        @self.app.step
        def quick() -> str:
            self.executed.append("quick")
            return "quick"

        return {"stuck": stuck, "occupied": occupied, "quick": quick}

    def _declare_pipelines(self):
        @self.app.pipeline
        async def calls(step: str) -> str | None:
            try:
                return await getattr(self.steps, step)()
            except StepTimeout:
                return "timed out"

        @self.app.pipeline
        async def gives_up() -> str:
            try:
                async with asyncio.timeout(0.05):
                    await self.steps.untimed()
            except TimeoutError:
                return "gave up"

        @self.app.pipeline(budget=60)
        async def occupies() -> None:
            await self.steps.occupied()

    def runtime(self, clock=None, **settings):
        return testing.runtime(self.app, clock=clock, cancel_grace=GRACE_S, **settings)


def abandoned(runtime, pipeline, step):
    return reading(runtime.service, "offramp_steps_abandoned_total", pipeline=pipeline, step=step)


async def a_timeout_that_is_swallowed_for_ever():
    desk, clock = Desk(), FakeClock()
    async with desk.runtime(clock) as runtime:
        handle = await runtime.start("calls", step="timed")
        await reach(handle, "step.delta")
        clock.advance(GRACE_S + 0.01)
        assert await result_of(handle) == "timed out"
        assert abandoned(runtime, "calls", "timed") == 1


async def a_timeout_that_is_swallowed_once():
    desk = Desk()
    async with desk.runtime() as runtime:
        handle = await runtime.start("calls", step="late")
        assert await result_of(handle) == "in time"
        seen = await log_of(handle)
    assert desk.executed == ["late", "late"]
    assert of(seen, "step.retrying")[0].data["error"]["code"] == "step-timeout"


async def a_cancellation_that_is_swallowed():
    desk, clock = Desk(), FakeClock()
    async with desk.runtime(clock) as runtime:
        handle = await runtime.start("gives_up")
        assert await clock.run_until(handle.result()) == "gave up"
        assert abandoned(runtime, "gives_up", "untimed") == 1
        seen = await log_of(handle)
    assert not {"step.completed", "step.failed"} & set(types(seen))


async def a_thread_past_its_timeout():
    desk = Desk()
    async with desk.runtime() as runtime:
        handle = await runtime.start("calls", step="stuck")
        assert await result_of(handle) == "timed out"  # at once: its thread is held
        assert reading(runtime.service, "offramp_threads_held") == 1
        desk.hold.set()
        await eventually(lambda: reading(runtime.service, "offramp_threads_held") == 0)
        assert not of(await log_of(handle), "step.delta")
    assert desk.executed == ["stuck"]


async def threads_that_are_held():
    desk = Desk()
    async with desk.runtime(threads=1) as runtime:
        call = SimpleNamespace(service=runtime.service)
        await result_of(await runtime.start("calls", step="stuck"))
        assert await result_of(await runtime.start("calls", step="quick")) == "quick"
        await ready(call)
        await result_of(await runtime.start("calls", step="stuck"))
        with pytest.raises(NotReady, match=r"2 threads are held .* 2 at .+:\d+ in \w+ \(step 'stuck'\)"):
            await ready(call)
        desk.hold.set()
        await eventually(lambda: reading(runtime.service, "offramp_threads_held") == 0)
        await ready(call)


async def a_thread_that_is_not_free():
    desk, clock = Desk(), FakeClock()
    async with desk.runtime(clock, threads=1) as runtime:
        other = await runtime.start("occupies")
        await desk.begun.wait()
        handle = await runtime.start("calls", step="quick")
        await eventually(lambda: runtime.service.process.lanes.threads.waiting == 1)
        clock.advance(6.1)
        await reach(handle, "run.resumed")  # it left, and waits for a thread where it is now
        desk.hold.set()
        assert await result_of(handle) == "quick"
        assert await result_of(other) is None
        seen = await log_of(handle)
    assert desk.executed == ["quick"]
    assert types(seen).index("run.demoted") < types(seen).index("step.started")


CASES = {
    "async code that continues after its step's `timeout`": a_timeout_that_is_swallowed_for_ever,
    "the same, but it returns or raises something within `cancel_grace`": a_timeout_that_is_swallowed_once,
    "async code that continues after a cancellation: by the run, a failed sibling, a timeout of the body": (
        a_cancellation_that_is_swallowed
    ),
    "a plain function that continues after its step's `timeout`, or a cancellation": a_thread_past_its_timeout,
    "threads that such functions hold": threads_that_are_held,
    "a thread, if none is free": a_thread_that_is_not_free,
}
