"""An app of a module, with failovers that processes other than the test's execute."""

from __future__ import annotations

import time

from offramp import App, current_run, emit

app = App("desk")


@app.step
async def broken(text: str) -> str:
    emit("broken")
    raise ConnectionError("it is down")


@app.step(lane="process", timeout=60)
def hangs(text: str) -> str:
    time.sleep(600)
    return text


@app.step(lane="process", timeout=60)
def emits_and_stays(text: str) -> str:
    emit("first")
    time.sleep(0.5)
    return f"in time: {text}"


@app.step
def plain(text: str) -> str:
    emit("plain")
    return f"{current_run().attempt}: {text}"


TARGETS = {
    "broken": app.failover(broken, plain, name="after_broken", first_token=30.0),
    "hangs": app.failover(hangs, plain, name="after_hangs", first_token=0.2),
    "emits": app.failover(emits_and_stays, plain, name="after_emits", first_token=30.0),
    "all": app.failover(broken, broken, broken, name="all_broken"),
}


@app.pipeline(budget=60)
async def fast(which: str) -> str:
    return await TARGETS[which]("why")


@app.pipeline(budget=0)
async def deep(which: str) -> str:
    return await TARGETS[which]("why")
