"""Context variables on Temporal: a body and its steps have none of the worker's, nor of each other."""

from __future__ import annotations

import contextvars

from offramp import SLA, App
from tests.support import result_of

app = App("context", classes=[SLA("deep", budget=0)])
who = contextvars.ContextVar("who", default="nobody")


@app.step(timeout=20)
async def on_the_loop() -> str:
    before = who.get()
    who.set("a step")
    return before


@app.step(timeout=20)
def in_a_thread() -> str:
    return who.get()


@app.step(short=True)
async def brief() -> str:
    return who.get()


@app.pipeline(sla="deep")
async def look(name: str) -> list[str]:
    before = who.get()
    who.set(name)
    return [before, await on_the_loop(), await in_a_thread(), await brief(), await on_the_loop(), who.get()]


async def test_a_body_and_its_steps_see_nobody_elses(service):
    who.set("who begins the processes")
    async with service(app) as runtime:
        who.set("who begins the runs")
        handles = [await runtime.start("look", name=name) for name in ("ann", "bob")]
        results = [await result_of(handle) for handle in handles]
    assert results == [["nobody"] * 5 + [name] for name in ("ann", "bob")]
