"""An app whose hooks say where they run: importable by process lanes."""

import asyncio
import multiprocessing
import os
import threading
from pathlib import Path

from offramp import App

app = App("started")


def note(name: str) -> None:
    with Path(os.environ["STARTED_NOTES"]).open("a") as notes:
        notes.write(f"{name} {os.getpid()} {threading.current_thread().name}\n")


@app.on_start
def load() -> None:
    note("load")
    if os.environ.get("STARTED_FAILS_IN") == "lanes" and multiprocessing.parent_process() is not None:
        raise KeyError("model")


@app.on_start
async def connect() -> None:
    await asyncio.sleep(0)
    note("connect")


@app.step(lane="process")
def crunch(n: int) -> int:
    return os.getpid() + n


@app.pipeline
async def pids(n: int) -> int:
    return await crunch(n)
