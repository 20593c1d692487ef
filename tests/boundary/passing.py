"""What the table "What may be passed" is executed with: echoes in every lane, importable by the process lane."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pydantic
from pydantic.alias_generators import to_camel

from offramp import SLA, App
from tests.support import Signal

app = App("passes", classes=[SLA("deep", budget=0)])
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


@dataclasses.dataclass
class Place(Point):
    name: str = ""


class Note(msgspec.Struct):
    text: str
    tags: list[str] = []


class LongNote(Note):
    more: str = ""


class Author(pydantic.BaseModel):
    name: str
    born: dt.date | None = None
    marks: set[str] = set()


class Editor(Author):
    house: str = ""


class Book(pydantic.BaseModel):
    title: str
    authors: list[Author] = []
    extra: Any = None


class Node(pydantic.BaseModel):
    value: int
    children: list[Node] = []


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=to_camel, extra="forbid")
    first_name: str
    second: int = pydantic.Field(2, alias="other")

    @pydantic.computed_field
    @property
    def loud(self) -> str:
        return self.first_name.upper()


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: dt.datetime
    ids: set[int]
    path: Path
    pair: tuple[int, str]
    id: uuid.UUID


class Packed(pydantic.BaseModel):
    data: pydantic.Json[list[int]]


class Names(pydantic.RootModel[list[str]]):
    pass


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Spot(NamedTuple):
    row: int
    column: int = 0


class Card(TypedDict, total=False):
    path: Path
    authors: list[Author]


@dataclasses.dataclass
class Reply:
    body: Author | str
    at: dt.datetime | str = "now"
    notes: list[str] = dataclasses.field(default_factory=list)


class Written(msgspec.Struct, tag=True):
    text: str


class Drawn(msgspec.Struct, tag=True):
    text: str


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
WHEN = dt.datetime(2026, 11, 21, 9, 30, 1, 5, tzinfo=dt.UTC)
ID = uuid.UUID(int=7)
AUTHOR = Author(name="Ada", born=dt.date(1815, 12, 10), marks={"a", "b", "c"})
EVEN = dt.timezone(dt.timedelta(hours=2))

GOOD: dict[str, tuple[Any, Any]] = {
    "str": (str, "a"),
    "int": (int, 2**70),
    "float": (float, 1.5),
    "bool": (bool, True),
    "none": (None, None),
    "list": (list[int], [1, 2]),
    "dict": (dict[str, list[float]], {"a": [1.0, 0.1]}),
    "datetime": (dt.datetime, WHEN),
    "zoned": (dt.datetime, WHEN.astimezone(EVEN)),
    "naive": (dt.datetime, WHEN.replace(tzinfo=None)),
    "date": (dt.date, dt.date(2026, 1, 2)),
    "time": (dt.time, dt.time(1, 2, 3)),
    "timedelta": (dt.timedelta, dt.timedelta(days=1, microseconds=3)),
    "uuid": (uuid.UUID, ID),
    "decimal": (decimal.Decimal, decimal.Decimal("1.50")),
    "bytes": (bytes, b"\xff\x00"),
    "enum": (Colour, Colour.RED),
    "int_enum": (Number, Number.ONE),
    "literal": (Literal["a", 1], 1),
    "path": (Path, Path("a/b")),
    "paths": (dict[str, list[Path]], {"a": [Path("/b")]}),
    "no_path": (Path | None, None),
    "tuple": (tuple[int, str], (1, "a")),
    "tuples": (tuple[tuple[int, ...], ...], ((1, 2), ())),
    "named_tuple": (Spot, Spot(1)),
    "set": (set[str], {"a", "b", "c"}),
    "frozenset": (frozenset[int], frozenset({1, 2})),
    "typed_dict": (Card, {"path": Path("a"), "authors": [AUTHOR]}),
    "int_keys": (dict[int, str], {2: "a", 10: "b"}),
    "enum_keys": (dict[Colour, int], {Colour.RED: 1}),
    "date_keys": (dict[dt.date, list[Point]], {dt.date(2026, 1, 2): [Point(1)]}),
    "uuid_keys": (dict[uuid.UUID, int], {ID: 1}),
    "dataclass": (Point, Point(1, 2.0)),
    "struct": (Note, Note("a", ["b"])),
    "model": (Book, Book(title="b", authors=[AUTHOR], extra={"a": [1, None]})),
    "recursive": (Node, Node(value=1, children=[Node(value=2)])),
    "generic": (Page[Author], Page[Author](items=[AUTHOR])),
    "nested": (dict[str, tuple[Point, list[Book]]], {"a": (Point(1), [Book(title="b")])}),
    "aliased": (Aliased, Aliased(firstName="ada", other=3)),
    "strict": (Strict, Strict(when=WHEN, ids={1, 2}, path=Path("p"), pair=(1, "a"), id=ID)),
    "stricts": (list[Strict], [Strict(when=WHEN, ids={1}, path=Path("p"), pair=(1, "a"), id=ID)]),
    "packed": (Packed, Packed(data="[1,2]")),
    "root": (Names, Names(["a"])),
    "roots": (dict[str, Names], {"a": Names(["b"])}),
    "url": (pydantic.HttpUrl, pydantic.HttpUrl("https://example.org/a")),
    "models": (Author | Book, Book(title="b")),
    "models_first": (Author | Book, AUTHOR),
    "pet": (Pet, Dog(name="rex")),
    "pets": (list[Pet], [Cat(name="tom"), Dog(name="rex")]),
    "model_or_text": (Author | str, "ada"),
    "text_or_model": (str | Author, AUTHOR),
    "models_or_text": (list[Author | str], ["ada", AUTHOR]),
    "maybe_model_or_text": (Author | str | None, None),
    "date_or_text": (dt.datetime | str, WHEN),
    "text_or_date": (dt.datetime | str, "tomorrow"),
    "dates_or_texts": (list[dt.datetime | str], [WHEN, "tomorrow"]),
    "dataclasses": (Point | Place, Place(1, name="here")),
    "dataclasses_first": (list[Point | Place], [Point(1), Place(1)]),
    "id_or_text": (uuid.UUID | str, ID),
    "in_dataclass": (list[Reply], [Reply("a"), Reply(AUTHOR, WHEN, ["n"])]),
    "tagged": (Written | Drawn, Drawn("a")),
}
SEEN: dict[str, list[Any]] = {}
"""What each execution of a body was given by the lanes, by case."""


def _echo(case, annotation, lane):
    name = f"{case}_{lane}"

    async def on_loop(value):
        return value

    def elsewhere(value):
        return value

    function = on_loop if lane == "loop" else elsewhere
    function.__annotations__ = {"value": annotation, "return": annotation}
    function.__name__ = function.__qualname__ = name
    globals()[name] = app.step(name=name, lane=lane)(function)
    return globals()[name]


LANES = ("loop", "thread", "process")
ECHOES = {case: [_echo(case, kind, lane) for lane in LANES] for case, (kind, _) in GOOD.items()}


@app.pipeline(sla="deep")
async def echo(cases: list[str]) -> int:
    for case in cases:
        value = GOOD[case][1]
        SEEN.setdefault(case, []).append([await step(value) for step in ECHOES[case]])
    return len(cases)


def assert_unchanged(cases):
    """Every lane gave back what it was given, in each execution of the body."""
    for case in cases:
        _, value = GOOD[case]
        for received in SEEN[case]:
            for lane, got in zip(LANES, received, strict=True):
                assert got == value, (case, lane)
                assert type(got) is type(value), (case, lane)
                assert repr_of(got) == repr_of(value), (case, lane)


def repr_of(value):
    """A repr that tells types inside apart, and no order of a set."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, pydantic.BaseModel):
        return {name: repr_of(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {repr(name): repr_of(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value), *map(repr_of, value)]
    if isinstance(value, dt.datetime):
        return value.isoformat()  # pydantic has a class of its own for offsets
    return repr(value) if not dataclasses.is_dataclass(value) else {n: repr_of(v) for n, v in vars(value).items()}


# What a step does with its arguments.

GIVEN: list[Any] = []


@app.step
def thread_append(items: list[int], seen: list[str] = []) -> list[int]:  # noqa: B006 - what users write
    items.append(len(items))
    seen.append("me")
    GIVEN.append(list(seen))
    return items


@app.step
async def loop_append(items: list[int], seen: list[str] = []) -> list[int]:  # noqa: B006 - what users write
    items.append(len(items))
    seen.append("me")
    GIVEN.append(list(seen))
    return items


@app.step(lane="process")
def process_append(items: list[int], seen: list[str] = []) -> list[int]:  # noqa: B006 - what users write
    items.append(len(items))
    seen.append("me")
    return [*items, len(seen)]


@app.pipeline(sla="deep")
async def appends(start: list[int] = []) -> list[list[int]]:  # noqa: B006 - what users write
    made = [await step(start) for step in (loop_append, thread_append, process_append) for _ in range(2)]
    start.append(7)
    return [*made, start]


@app.step
def wants_number(number: int) -> int:
    return number


@app.step(lane="process")
def wants_number_elsewhere(number: int) -> int:
    return number


@app.step
def wants_author(number: Author) -> str:
    return number.name


WANTING: dict[str, tuple[Any, Any]] = {
    "here": (wants_number, "many"),
    "elsewhere": (wants_number_elsewhere, "many"),
    "model": (wants_author, {"name": 3}),
}


@app.pipeline(sla="deep")
async def misfits(where: str) -> list[str]:
    step, value = WANTING[where]
    try:
        await step(value)
    except Exception as error:  # noqa: BLE001 - shown to the test
        return [type(error).__name__, str(error)]
    return []


# A run that moves to another process between two steps.

GATE = Signal()


@app.step
async def asked(authors: list[Author | str], day: dt.datetime | str = "today") -> dict[Colour, list[Author | str]]:
    return {Colour.RED: authors}


@app.step
async def gated() -> str:
    await GATE.wait()
    return "again"


@app.pipeline
async def demoted() -> list[str]:
    SEEN.setdefault("demoted", []).append(await asked([AUTHOR, "ada"], WHEN))
    return [await gated(), await gated()]
