"""An App whose steps use a resource, for processes that are killed; each beginning and end is a line of a file."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from offramp import SLA, App

folder = Path(os.environ.get("OFFRAMP_TEST_FOLDER", "."))
app = App("limited", classes=[SLA("high", priority=10, budget=20.0), SLA("low", priority=-1, budget=0.0)])
gpu = app.resource("gpu", concurrency=1)


def note(what: str, tag: str) -> None:
    with (folder / "noted").open("a") as file:
        file.write(f"{what} {tag} {os.getpid()}\n")


@app.step(uses=gpu)
async def held(tag: str) -> str:
    note("begin", tag)
    while not ((folder / "go").exists() or (folder / f"go-{tag}").exists()):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    note("end", tag)
    return tag


@app.step
async def asks(tag: str) -> str:
    async with gpu.permit():
        return await held.fn(tag)


@app.step(uses=gpu, lane="process")
def lane(tag: str) -> str:
    for number in range(2):  # the step's own permit, and one that the child asks for
        with gpu.permit():
            note("begin", f"{tag}-{number}")
            while not ((folder / "go").exists() or (folder / f"go-{tag}-{number}").exists()):
                time.sleep(0.01)
            note("end", f"{tag}-{number}")
    return tag


@app.pipeline(sla="low")
async def line(tag: str) -> str:
    return await held(tag)


@app.pipeline(sla="low")
async def asking(tag: str) -> str:
    return await asks(tag)


@app.pipeline(sla="high")
async def urgent(tag: str) -> str:
    return await held(tag)


@app.pipeline(sla="low")
async def laned(tag: str) -> str:
    return await lane(tag)
