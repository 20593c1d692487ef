"""The App under attack: pipelines of every kind, whose steps write down each of their executions.

A line of the file `executions` is `{run, key, attempt, pid, at, ended}`; `at` is monotonic, so the lines of all
processes of a machine compare. Each execution returns a token of its own, so that a result shows which ones count.
"""

import asyncio
import json
import os
import time
import uuid
from pathlib import Path

import offramp
from offramp import SLA, App, Retry, current_run, emit

app = App(
    "chaos",
    classes=[SLA("interactive", budget=30.0), SLA("brief", budget=0.25), SLA("batch", budget=0)],
)
HOME = Path(os.environ.get("CHAOS_HOME", "."))


def note(**line):
    """Append one line, which O_APPEND keeps whole."""
    file = os.open(HOME / "executions", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


def began(pid=None):
    run = current_run()
    line = {"run": run.id, "key": run.idempotency_key, "attempt": run.attempt, "pid": pid or os.getpid()}
    note(**line, at=time.monotonic(), ended=None)
    return line


def ended(line):
    token = f"{line['key'].partition(':')[2]}={uuid.uuid4().hex[:8]}"
    note(**line, at=time.monotonic(), ended=token)
    return token


@app.step
async def work(n: int, seconds: float) -> str:
    line = began()
    await asyncio.sleep(seconds)
    return ended(line)


@app.step
def block(n: int, seconds: float) -> str:
    line = began()
    time.sleep(seconds)
    return ended(line)


@app.step(lane="process", retry=Retry(attempts=20, base=0.01))
def compute(n: int, seconds: float) -> str:
    """Its process may be killed alone: that is an attempt that failed, so it is tried again."""
    line = began(os.getppid())
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(200))
    return ended(line)


@app.step
async def chat(n: int, words: int) -> str:
    line = began()
    for word in range(words):
        emit(f"{n}.{word} ")
        await asyncio.sleep(0.002)
    return ended(line)


@app.step
async def flood(words: int) -> str:
    """All at once, when the test says so."""
    line = began()
    while not (HOME / "flood").exists():  # noqa: ASYNC110 - nothing else reaches it from another process
        await asyncio.sleep(0.01)
    for word in range(words):
        emit(word)
    return ended(line)


@app.step(retry=Retry(attempts=4, base=0.02))
async def flaky(n: int) -> str:
    line = began()
    await asyncio.sleep(0.005)
    if current_run().attempt < 3:
        raise ConnectionError("not yet")
    return ended(line)


@app.step(retry=Retry(attempts=2, base=0.01))
async def broken(n: int) -> str:
    began()
    raise ConnectionError("never")


@app.step(effect="once")
async def charge(n: int, seconds: float) -> str:
    line = began()
    await asyncio.sleep(seconds)
    return ended(line)


@app.step
async def hurdle(name: str, n: int) -> str:
    """Fails until the test has raised the level."""
    line = began()
    await asyncio.sleep(0.01)
    if n >= int((HOME / f"level-{name}").read_text()):
        raise ConnectionError("not yet")
    return ended(line)


@app.pipeline(sla="interactive", on_disconnect="demote")
async def sequence(steps: int, seconds: float = 0.02) -> list[str]:
    return [await work(n, seconds) for n in range(steps)]


@app.pipeline(sla="interactive")
async def fan(branches: int, seconds: float = 0.03) -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(n, seconds * (n + 1)) if n % 2 else block(n, seconds)) for n in range(branches)]
    return [task.result() for task in tasks] + [await work(99, seconds)]


@app.pipeline(sla="interactive")
async def retries(steps: int) -> list[str]:
    return [await flaky(n) for n in range(steps)]


@app.pipeline(sla="interactive")
async def threads(steps: int, seconds: float = 0.02) -> list[str]:
    return [await block(n, seconds) for n in range(steps)]


@app.pipeline(sla="interactive")
async def cpu(steps: int, seconds: float = 0.02) -> list[str]:
    return [await compute(n, seconds) for n in range(steps)]


@app.pipeline(sla="interactive")
async def chatty(steps: int, words: int = 20) -> list[str]:
    tokens = []
    for n in range(steps):
        emit({"step": n})
        tokens.append(await chat(n, words))
    return tokens


@app.pipeline(sla="interactive")
async def floods(words: int) -> list[str]:
    return [await flood(words)]


@app.pipeline(sla="interactive")
async def sleepy(steps: int, seconds: float = 0.1) -> list[str]:
    tokens = [f"{offramp.uuid4()}", f"{offramp.random()}", offramp.now().isoformat()]
    for n in range(steps):
        await offramp.sleep(seconds)
        tokens.append(await work(n, 0.01))
    return tokens


@app.pipeline(sla="interactive")
async def approval(seconds: float = 0.01) -> list[str]:
    first = await work(0, seconds)
    answer = await offramp.signal("approved")
    second = await work(1, seconds)
    again = await offramp.signal("released", timeout=600)
    return [first, answer, second, again]


@app.pipeline(sla="interactive")
async def nested(steps: int) -> list[str]:
    tokens = [await work(100, 0.01)]
    tokens += await sequence(steps)
    tokens += await fan(2)
    return [*tokens, *await sequence(steps)]


@app.pipeline(sla="interactive")
async def breaks(steps: int) -> list[str]:
    for n in range(steps):
        await work(n, 0.01)
    return [await broken(0)]


@app.pipeline(sla="batch")
async def climb(name: str, hurdles: int, seconds: float = 0.02) -> list[str]:
    """To be retried: each time it gets as far as the level, and what failed has company that does not."""
    tokens = [f"{offramp.uuid4()}", await offramp.signal("approved")]
    for n in range(hurdles):
        tokens.append(await work(n, seconds))
        await offramp.sleep(0.01)
        beside = block(n, seconds * 2), hurdle(name, n), work(1_000 + n, seconds)
        results = await asyncio.gather(*beside, return_exceptions=True)
        tokens += [result for result in results if isinstance(result, str)]
        for result in results:
            if isinstance(result, BaseException):
                raise result
    return tokens


@app.pipeline(sla="interactive")
async def pays(steps: int, seconds: float = 0.02) -> list[str]:
    return [await charge(n, seconds) if n % 2 else await work(n, seconds) for n in range(steps)]


@app.pipeline(sla="interactive")
async def endless() -> list[str]:
    """To be cancelled."""
    return [await work(n, 0.02) for n in range(3_000)]
