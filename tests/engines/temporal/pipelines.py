"""What the killed processes execute: each execution of a step is a line in a file, and some wait for a file."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from pathlib import Path

import offramp
from offramp import SLA, App, current_run, emit

HERE = Path(os.environ.get("STEPS_HOME", "."))
app = App("killed", classes=[SLA("now", budget=0.3), SLA("deep", budget=0)])


def note(step: str) -> None:
    with (HERE / "steps").open("a", encoding="utf-8") as file:
        file.write(f"{step} {os.getpid()}\n")


@app.step(timeout=60)
async def free(name: str) -> str:
    note(name)
    emit(name)
    return name


@app.step(timeout=60)
async def held(name: str) -> str:
    note(name)
    while not (HERE / f"go-{name}").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.02)
    return name


@app.step(timeout=60, effect="once")
async def charge(name: str) -> str:
    note(name)
    await asyncio.sleep(60)
    return name


@app.step(short=True)
async def brief(name: str, *, dies: bool) -> str:
    note(name)
    if dies and not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return name


@app.pipeline(sla="deep")
async def charges(tag: str) -> str:
    return await charge(tag)


@app.pipeline(sla="deep")
async def briefly(tag: str) -> list[str]:
    return [await brief(f"{tag}-{number}", dies=number == 1) for number in range(3)]


@app.step(timeout=60)
async def lasts(name: str, seconds: float) -> str:
    note(name)
    emit(name)
    await asyncio.sleep(seconds)
    return name


@app.pipeline(sla="now")
async def forks(tag: str) -> list[str]:
    async def branch() -> list[str]:
        await asyncio.sleep(0.35)  # its steps are new after the demotion
        return [await free(f"{tag}-a"), await lasts(f"{tag}-b", 0.1)]

    async with asyncio.TaskGroup() as group:
        slow = group.create_task(lasts(f"{tag}-slow", 0.7))
        other = group.create_task(lasts(f"{tag}-other", 0.45))
        rest = group.create_task(branch())
    return [slow.result(), other.result(), *rest.result(), await free(f"{tag}-last")]


@app.step
async def deadly(name: str) -> None:
    note(name)
    os.kill(os.getpid(), signal.SIGKILL)


@app.pipeline(sla="deep")
async def kills(tag: str) -> str:
    try:
        await deadly(tag)
    except Exception:  # noqa: BLE001 - what ends a run is not for its body to decide
        return "went on"
    return await free(f"{tag}-last")


@app.step
def frozen(name: str) -> None:
    """Holds the interpreter, with which no thread of its process moves, until the process is killed."""
    note(name)
    ctypes.PyDLL(None).sleep(600)


@app.pipeline(sla="deep")
async def freezes(tag: str) -> None:
    await frozen(tag)


async def body(tag: str) -> list[str]:
    first = await free(f"{tag}-first")
    middle = await held(f"{tag}-held")
    return [first, middle, await free(f"{tag}-last")]


app.pipeline(name="deep", sla="deep")(body)
app.pipeline(name="now", sla="now")(body)


def say(what: str) -> None:
    """What a body would log, and whether it knows that it repeats itself."""
    with (HERE / "said").open("a", encoding="utf-8") as file:
        file.write(f"{what} {current_run().replaying}\n")


@app.pipeline(sla="deep")
async def tidies(tag: str) -> None:
    say("begins")
    await free(f"{tag}-before")
    try:
        await held(f"{tag}-work")
    finally:
        say("struck")
        async with offramp.cleanup():
            await free(f"{tag}-one")
            say("tidy")
            await held(f"{tag}-two")
            await free(f"{tag}-three")
            say("over")
