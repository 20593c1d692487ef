"""A failover in a process that tests kill: what its steps did is kept in a file beside the database."""

import asyncio
import os
import sys
from pathlib import Path

from offramp import App, current_run, emit
from offramp.paths.submission import Submission
from offramp.settings import Settings
from offramp.wiring import build

app = App("victim")
INPUT = b'{"text":"why"}'
folder = Path(os.environ.get("OFFRAMP_TEST_FOLDER", "."))


async def called(name: str) -> None:
    """Say so in a line, and emit a part."""
    with (folder / "executed").open("a") as file:
        file.write(f"{name} {current_run().attempt}\n")
    emit(f"{name} begins")


async def until(name: str) -> None:
    """Wait for another process to make this file."""
    while not (folder / name).exists():  # noqa: ASYNC110 - what is waited for is done by another process
        await asyncio.sleep(0.005)


@app.step
async def broken(text: str) -> str:
    await called("broken")
    raise ConnectionError("it is down")


@app.step
async def slow(text: str) -> str:
    await called("slow")
    await until("go")
    return f"slow: {text}"


answer = app.failover(broken, slow, name="answer")


@app.pipeline(budget=60)
async def fast(text: str) -> str:
    return await answer(text)


@app.pipeline(budget=0)
async def deep(text: str) -> str:
    return await answer(text)


async def main(role: str, owner: str, *pipelines: str) -> None:
    """Start these pipelines, and execute runs until killed."""
    settings = Settings.load({}, Path("absent.toml"), data=str(folder), lease=0.5, poll=0.1)
    service = build(app, settings, role=role, owner=owner)
    await service.start()
    runs = [(await service.submit(Submission(pipeline=name, input=INPUT))).record.id for name in pipelines]
    sys.stdout.write(" ".join(["ready", *runs]) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    from tests.failover import victim

    asyncio.run(victim.main(*sys.argv[1:]))
