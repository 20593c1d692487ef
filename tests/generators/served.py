"""Pipelines whose names and types are hard on generators of clients."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import msgspec
import pydantic

from offramp import SLA, App, emit, signal

app = App("odd-names", classes=[SLA("fast", budget=20.0), SLA("Fast"), SLA("fa-st")])


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Note:
    text: str
    below: list["Note"] = field(default_factory=list)


class Other(msgspec.Struct):
    colour: Colour
    size: int | None = None


class Model(pydantic.BaseModel):
    kind: Literal["a", "b"] = "a"
    notes: dict[str, Note] = {}


@app.pipeline(sla="fast")
async def research(question: str, notes: list[Note] | None = None) -> Note:
    """Answers with a note."""
    emit(question)
    return Note(question, notes or [])


@app.pipeline(name="re.search")
async def other(note: Note) -> Note:
    return note


@app.pipeline(name="re-search")
async def model(given: Model, other: Other) -> Model:
    return given


@app.pipeline(name="Research")
async def ask(model: Model | None = None) -> list[Other]:
    return [Other(Colour(await signal("answer")))]
