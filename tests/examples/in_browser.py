"""What the page of examples/browser asks for, held in its second part until a test lets it go."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from offramp import SLA, App, emit

GATE = Path(os.environ["CHAOS_HOME"]) / "gate"
app = App("held", classes=[SLA("interactive", budget=float(os.environ["HELD_BUDGET"]))])


@app.step
async def write(part: str) -> str:
    emit(part + " ")
    if part != "one":
        while not GATE.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
    return part


@app.pipeline(sla="interactive")
async def answer(question: str) -> str:
    return " ".join([await write("one"), await write("two"), question])
