"""The App that the gateway serves in these benchmarks: token streams, five small deep steps, and a long wait."""

from __future__ import annotations

import asyncio

from bench._load import STEP_RESULT, STEPS_PER_RUN
from offramp import App, emit, signal

TOKEN = "token "
APPROVAL = "approval"
SIGNAL = "go"
NOTE_S = 0.02
"""Long enough that a run does not finish before its 202 is sent, which would make it a 200."""

app = App("bench")


@app.step
async def generate(tokens: int, pause_ms: float) -> str:
    for _ in range(tokens):
        emit(TOKEN)
        await asyncio.sleep(pause_ms / 1000)
    return "done"


@app.step
async def note(number: int) -> str:
    del number
    await asyncio.sleep(NOTE_S)
    return STEP_RESULT


# No run may leave its stream: the benchmark measures the fast path.
@app.pipeline(budget=60.0)
async def tokens(tokens: int, pause_ms: float) -> str:
    return await generate(tokens, pause_ms)


@app.pipeline
async def five() -> str:
    result = ""
    for number in range(STEPS_PER_RUN):
        result = await note(number)
    return result


@app.pipeline(name=APPROVAL)
async def approval() -> str:
    answer: str = await signal(SIGNAL)
    return answer
