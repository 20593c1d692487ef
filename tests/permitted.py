"""Apps with a step in each lane that uses a resource, and a runtime over given limits."""

from __future__ import annotations

import contextlib

from offramp import App
from offramp.paths.local import LocalRuntime
from tests.permits import uses
from tests.support import member

here, lanes = App("permits"), App("permits")
"""The steps of the process itself, and those of its lanes: where there are none, no process is started for them."""


@here.step(timeout=30)
async def loop() -> str:
    return "loop"


@here.step(timeout=30)
def thread() -> str:
    return "thread"


@lanes.step(timeout=30, lane="process")
def process() -> str:
    return "process"


@here.step
async def free() -> str:
    return "free"


@here.pipeline(budget=60)
async def without() -> str:
    return await free()


def _pipelines(app, *steps):
    named = {step.spec.name: uses(step, "api") for step in steps}

    @app.pipeline(budget=60)
    async def fast(lane: str) -> str:
        return await named[lane]()

    @app.pipeline(budget=0)
    async def deep(lane: str) -> str:
        return await named[lane]()


_pipelines(here, loop, thread)
_pipelines(lanes, process)
APPS = {"loop": here, "thread": here, "process": lanes}
LANES = list(APPS)


@contextlib.asynccontextmanager
async def opened(folder, limits, *, app=here, **settings):
    async with member(app, folder, "local", limits=limits, processes=1, **settings) as service:
        yield LocalRuntime(service)
