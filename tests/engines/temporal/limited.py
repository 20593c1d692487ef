"""Runs whose steps take permits of one resource, for the tests with several workers on Temporal."""

import asyncio
import os
from pathlib import Path

import offramp
from offramp import SLA, App, Retry

HOME = Path(os.environ.get("STEPS_HOME", "."))
app = App("limited", classes=[SLA("high", budget=0, priority=10), SLA("low", budget=0, priority=-1)])
model = app.resource("model", concurrency=2, rate=["5/s", "200/min"])
client = offramp.per_loop(lambda: model.async_http_client(base_url=os.environ["PROVIDER"], timeout=60))


def note(name):
    with (HOME / "steps").open("a", encoding="utf-8") as file:
        file.write(f"{name} {os.getpid()}\n")


@app.step(uses=model)
async def hold(tag: str) -> str:
    note(tag)
    while not (HOME / "go-hold").exists():  # noqa: ASYNC110 - nothing else reaches it from another process
        await asyncio.sleep(0.01)
    return tag


@app.step(uses=model, retry=Retry(attempts=5, base=0.1))
async def call(tag: str) -> str:
    note(tag)
    words = {"model": "any", "messages": [{"role": "user", "content": "in=5 out=30"}]}
    answer = await client().post("/v1/chat/completions", json=words)
    answer.raise_for_status()
    return tag


@app.pipeline(sla="low")
async def holds(tag: str) -> str:
    return await hold(tag)


@app.pipeline(sla="low")
async def calls(tag: str) -> list[str]:
    return [await call(f"{tag}-{number}") for number in range(3)]
