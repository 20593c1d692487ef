"""An app with a step in each lane that uses a resource, and a runtime over given limits."""

from __future__ import annotations

import contextlib

from offramp import App
from offramp.paths.local import LocalRuntime
from tests.permits import uses
from tests.support import member

app = App("permits")


@app.step(timeout=30)
async def loop() -> str:
    return "loop"


@app.step(timeout=30)
def thread() -> str:
    return "thread"


@app.step(timeout=30, lane="process")
def process() -> str:
    return "process"


STEPS = {step.spec.name: uses(step, "api") for step in (loop, thread, process)}
LANES = list(STEPS)


@app.step
async def free() -> str:
    return "free"


@app.pipeline(budget=60)
async def fast(lane: str) -> str:
    return await STEPS[lane]()


@app.pipeline(budget=0)
async def deep(lane: str) -> str:
    return await STEPS[lane]()


@app.pipeline(budget=60)
async def without() -> str:
    return await free()


@contextlib.asynccontextmanager
async def opened(folder, limits, *, app=app, **settings):
    async with member(app, folder, "local", limits=limits, processes=1, **settings) as service:
        yield LocalRuntime(service)
