"""What a gateway serves while it is fuzzed: pipelines of every shape, each of which ends within moments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from offramp import SLA, App, emit, signal
from offramp.errors import SignalTimeout

HOLD = "hold"
app = App("fuzzed", classes=[SLA("interactive", budget=5.0), SLA("batch", budget=0)])


@dataclass
class Part:
    name: str
    weight: float | None = None
    parts: list[Part] = field(default_factory=list)
    marks: Annotated[list[Annotated[str, msgspec.Meta(pattern="^[a-z]{1,8}$")]], msgspec.Meta(max_length=4)] = field(
        default_factory=list
    )


@app.step
async def count(part: Part) -> int:
    emit({"part": part.name})
    return 1 + sum([await count(inner) for inner in part.parts])


@app.step
def shout(text: str) -> str:
    return text.upper()


@app.pipeline(sla="interactive")
async def echo(text: str, times: int = 1) -> str:
    """Say it again."""
    return await shout(text) * min(max(times, 0), 3)


@app.pipeline(sla="interactive")
async def weigh(part: Part, unit: Literal["g", "kg"] = "g", tags: dict[str, int] | None = None) -> dict[str, int]:
    return {unit: await count(part), **(tags or {})}


@app.pipeline(sla="interactive")
async def fails(why: str) -> str:
    raise ValueError(why)


@app.pipeline(sla="batch")
async def waits(seconds: float = 0.0, note: str = "") -> str | None:
    """Wait for a signal, but not long: only who knows the word for it gets a run that lasts."""
    longest = 600.0 if note == HOLD else 0.05
    try:
        return str(await signal("go", timeout=longest if note == HOLD else min(max(seconds, 0.01), longest)))
    except SignalTimeout:
        return None
