"""An App whose steps take down the process that executes them; each execution is a line of the file `executed`."""

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
from pathlib import Path

from offramp import App

app = App("killers")
folder = Path(os.environ.get("OFFRAMP_TEST_FOLDER", "."))


def note(line: str) -> None:
    with (folder / "executed").open("a") as file:
        file.write(f"{line}\n")


def die(how: str) -> None:
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.Signals[how])


async def recorded(entries: int) -> None:
    """Wait until so many finished steps of the only run are in the database: they are written behind."""
    with contextlib.closing(sqlite3.connect(folder / ".offramp" / "offramp.db")) as connection:
        while connection.execute("SELECT count(*) FROM journal").fetchone()[0] < entries:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


@app.step
async def prepare(n: int) -> int:
    return n


@app.step
async def crash(how: str) -> None:
    note("crash")
    die(how)
    await asyncio.Event().wait()


@app.step
def crash_in_thread(how: str) -> None:
    note("crash")
    die(how)


@app.step
async def wait_for_go(n: int) -> int:
    note(f"wait {n}")
    while not (folder / "go").exists():  # noqa: ASYNC110 - what is waited for is done by another process
        await asyncio.sleep(0.01)
    return n


@app.pipeline(budget=0)
async def kills(how: str) -> None:
    await prepare(1)
    await crash(how)


@app.pipeline(budget=0)
async def kills_in_thread(how: str) -> None:
    await crash_in_thread(how)


@app.pipeline(budget=60)
async def kills_fast(how: str) -> None:
    await crash_later(how)


@app.step
async def tick(n: int) -> int:
    await asyncio.sleep(0.05)
    return n


@app.pipeline(budget=0)
async def kills_beside_others(how: str) -> None:
    """Others go on, and finish, in each of its lives."""

    async def tick_on() -> None:
        for n in range(10_000):
            await tick(n)

    async with asyncio.TaskGroup() as group:
        group.create_task(tick_on())
        group.create_task(crash_later(how))


@app.step
async def crash_later(how: str) -> None:
    await asyncio.sleep(0.3)
    note("crash")
    die(how)


@app.step
async def stumble(n: int) -> int:
    """Takes down two processes, then succeeds."""
    note(f"stumble {n}")
    if (folder / "executed").read_text().splitlines().count(f"stumble {n}") <= 2:
        await recorded(n)
        die("exit")
    return n


@app.pipeline(budget=0)
async def stumbles(steps: int) -> list[int]:
    return [await stumble(n) for n in range(steps)]


@app.step
def hold(text: str) -> bool:
    """Backtracks for hours, in C code that gives the interpreter to no other thread."""
    note("hold")
    return re.match(r"(a+)+$", text) is not None


@app.pipeline(budget=0)
async def holds() -> bool:
    return await hold("a" * 40 + "b")


@app.pipeline(budget=0)
async def waits(n: int) -> int:
    return await wait_for_go(n)
