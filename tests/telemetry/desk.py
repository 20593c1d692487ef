"""An App whose steps do what clients do: open a span of their own. Gates are files in the working directory."""

import asyncio
import time
from pathlib import Path

from opentelemetry import trace

import offramp
from offramp import SLA, App, Retry

app = App("desk", classes=[SLA("interactive", budget=1.0), SLA("patient", budget=30.0), SLA("batch", budget=0)])
tried = set()


def client(where):
    """The span of an instrumented client."""
    return trace.get_tracer("client").start_as_current_span(f"GET {where}", kind=trace.SpanKind.CLIENT)


@app.step(kind="tool", retry=Retry(attempts=2, base=0.01))
def look_up(word: str) -> str:
    with client("thread"):
        if word not in tried:
            tried.add(word)
            raise LookupError(f"not yet: {word}")
    return word.upper()


@app.step(lane="process")
def count(word: str) -> int:
    with client("process"):
        return len(word)


@app.step(kind="llm")
async def write(word: str) -> str:
    with client("loop"):
        return f"{word}!"


@app.step(kind="agent")
async def wait_for(gate: str) -> str:
    Path(f"{gate}-held").touch()  # noqa: ASYNC240 - a test looks for it
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - a test's gate, which another process opens
        await asyncio.sleep(0.02)
    return gate


@app.step
def hold(gate: str) -> None:
    Path(f"{gate}-held").touch()
    while not Path(gate).exists():
        time.sleep(0.02)


@app.pipeline(sla="interactive", version="7")
async def answer(word: str, gate: str) -> str:
    """Outlives its budget in a wait for its gate."""
    found = await look_up(word)
    letters = await count(found)
    await offramp.sleep(0.01)
    await wait_for(gate)
    return f"{await write(found)} {letters}"


@app.pipeline(sla="patient")
async def quick(word: str) -> str:
    return await write(word)


@app.pipeline(sla="batch")
async def audit(gate: str) -> str:
    """Deep from the start; `gate` holds it up between two steps."""
    word = await write("first")
    await wait_for(gate)
    await write("last")
    return word


@app.pipeline(sla="patient")
async def refuse(word: str) -> str:
    raise ValueError(f"no answer to {word}")


@app.pipeline(sla="patient")
async def stay(gate: str) -> None:
    await hold(gate)
