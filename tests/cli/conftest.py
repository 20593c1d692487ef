import re
import sys
from pathlib import Path

import pytest

from tests.cli.harness import Running, running

DESK = '''
import asyncio
import os
import time

from offramp import SLA, App, Retry, emit, signal

app = App("desk", classes=[SLA("interactive", budget=5.0), SLA("batch", budget=0)])
failed = set()


@app.step(timeout=20)
def look_up(word: str) -> list[str]:
    print("a print of the user's")
    return [word, word.upper()]


@app.step(timeout=20)
async def write(words: list[str]) -> str:
    for word in words:
        emit(f"{word}\\n")
    emit({"done": len(words)})
    return " ".join(words)


@app.step(timeout=20, retry=Retry(attempts=2, base=0.01))
async def flaky(word: str) -> str:
    if word not in failed:
        failed.add(word)
        emit("lost words")
        raise ValueError("not this time")
    return word


@app.step(timeout=60)
async def wait_for(name: str) -> int:
    """Ends once a file of this name exists."""
    while not os.path.exists(name):
        await asyncio.sleep(0.02)
    return os.getpid()


@app.step(timeout=100)
def hold(name: str) -> None:
    """Cannot be stopped, as long as no file of this name exists."""
    open("held", "x").close()
    while not os.path.exists(name):
        time.sleep(0.05)


@app.pipeline(sla="batch")
async def stick(gate: str) -> None:
    await hold(gate)


@app.pipeline(sla="interactive")
async def explain(question: str) -> str:
    """Say it twice."""
    return await write(await look_up(question))


@app.pipeline(sla="interactive")
async def stumble(question: str) -> str:
    return await flaky(question)


@app.pipeline(sla="batch")
async def audit(gates: list[str]) -> list[int]:
    return [await wait_for(gate) for gate in gates]


@app.pipeline(sla="batch")
async def ask(question: str) -> str:
    await look_up(question)
    return await signal("answer")


@app.pipeline
async def refuse(question: str) -> str:
    raise ValueError(f"no answer to {question}")
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an App in desk.py."""
    (tmp_path / "desk.py").write_text(DESK)
    return tmp_path


@pytest.fixture
def gateway(project: Path):
    """`offramp serve` with one worker, ready; has `url` and `worker`, the worker's process id."""
    with running("serve", "desk.py", "--port", "0", "--drain-timeout", "5", cwd=project) as command:
        command.url = command.wait_for(r"at (http://[\d.:]+),")[1]
        yield warm(command)


def warm(command: Running) -> Running:
    """Waits for the (next) worker to be ready."""
    command.worker = int(command.wait_for(r"worker 1 started \(pid (\d+)\)")[1])
    command.wait_for(r"worker 1  ready in")
    return command


@pytest.fixture
def own_imports():
    """Undoes what a test puts into sys.path and sys.modules."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not re.match(r"offramp|rich|typer|httpx", name):
            del sys.modules[name]
