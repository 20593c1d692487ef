"""Steps for the process lane: importable by a child process, which is why they are not in a test."""

import contextvars
import multiprocessing
import os
import queue
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from offramp import App, Retry, current_run, emit

app = App("cpu")


class Odd(Exception):
    """An exception of the user's own."""


@dataclass
class Point:
    x: int
    y: int = 0


@app.step(lane="process")
def square(n: int, *, plus: int = 0) -> int:
    return n * n + plus


@app.step(lane="process")
def mirrored(point: Point) -> Point:
    assert isinstance(point, Point)
    return Point(point.y, point.x)


@app.step(lane="process")
def pid() -> int:
    return os.getpid()


@app.step(lane="process")
def raising(text: str) -> str:
    raise Odd(text)


@app.step(lane="process")
def telling(words: list[str]) -> str:
    for word in words:
        emit(word)
    run = current_run()
    return f"{run.step} {run.attempt} {run.pipeline} {run.idempotency_key}"


@app.step(lane="process")
def dying(code: int) -> int:
    os._exit(code)


@app.step(lane="process", retry=Retry(attempts=2, base=0.0))
def dying_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(9)
    return "second life"


def _forever(marker: str) -> None:
    Path(marker).write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)


@app.step(lane="process", timeout=0.3)
def late(marker: str) -> None:
    _forever(marker)


@app.step(lane="process")
def endless(marker: str) -> None:
    _forever(marker)


@app.step(lane="process")
def exiting(text: str) -> str:
    raise SystemExit(text)


@app.step(lane="process")
def forking() -> str:
    child = os.fork()
    if child == 0:
        raise SystemExit(0)
    os.waitpid(child, 0)
    return "the one that forked"


@app.pipeline
async def of_forking() -> str:
    return await forking()


@app.step(lane="process")
def pooled(n: int) -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, range(-n, 0))


def _napping(markers: queue.SimpleQueue) -> None:
    markers.put(os.getpid())
    time.sleep(60)


@app.step(lane="process", timeout=60)
def with_children(marker: str) -> None:
    """Forks one child, executes another, tells the ids of all three, and waits for them."""
    fork = multiprocessing.get_context("fork")
    told = fork.SimpleQueue()
    child = fork.Process(target=_napping, args=(told,))
    child.start()
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pids = [os.getpid(), told.get(), program.pid]
    Path(marker).with_suffix(".new").write_text(" ".join(map(str, pids)))
    Path(marker).with_suffix(".new").rename(marker)
    child.join()


@app.pipeline
async def of_pooled(n: int) -> list[int]:
    return await pooled(n)


@app.pipeline
async def of_children(marker: str) -> None:
    await with_children(marker)


@app.pipeline
async def of_square(n: int) -> int:
    return await square(n, plus=1)


@app.pipeline
async def of_mirrored(point: Point) -> Point:
    return await mirrored(point)


@app.pipeline
async def of_pids(n: int) -> list[int]:
    return [await pid() for _ in range(n)]


@app.pipeline
async def of_raising(text: str) -> str:
    return await raising(text)


@app.pipeline
async def of_telling(words: list[str]) -> str:
    return await telling(words)


@app.pipeline
async def of_dying(code: int) -> int:
    return await dying(code)


@app.pipeline
async def of_dying_once(marker: str) -> str:
    return await dying_once(marker)


@app.pipeline
async def of_late(marker: str) -> None:
    await late(marker)


@app.pipeline
async def of_endless(marker: str) -> None:
    await endless(marker)


@app.pipeline
async def of_exiting(text: str) -> str:
    return await exiting(text)


mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="unset")


@app.step(lane="process")
def sets(name: str) -> str:
    before = mine.get()
    mine.set(name)
    return before


@app.pipeline
async def of_context(name: str) -> list[str]:
    mine.set(name)  # which does not reach another process
    return [await sets(name), await sets(f"{name} again")]
