"""What the table "What may be raised" is executed with: steps that raise, and a body that tells what it saw.

In a module of its own, so that a process lane can import it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import pathlib
import traceback
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pydantic
from pydantic_core import PydanticCustomError

from offramp import SLA, App, emit
from offramp.errors import StepFailed

app = App("raises", classes=[SLA("deep", budget=0)])


class Plain(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


class Color(enum.Enum):
    RED = "red"


class Odd(ValueError):
    pass


class ByHand(ExceptionGroup):
    """A group with a constructor of its own, as `derive` is for."""

    def __new__(cls, errors, code):
        made = super().__new__(cls, "by hand", errors)
        made.code = code
        return made

    def derive(self, errors):
        return ByHand(errors, self.code)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Answer(pydantic.BaseModel):
    number: int
    word: str = ""

    @pydantic.field_validator("word")
    @classmethod
    def _known(cls, word):
        if word == "custom":
            raise PydanticCustomError("unknown", "not among {count}", {"count": 3})
        if word:
            raise ValueError(f"{word} is no word")
        return word


class Client:
    def __repr__(self):
        return "<a client>"


class PanicException(BaseException):
    """As pyo3 gives it to Python when Rust code panics."""


class Loose(BaseException):
    pass


def _plain():
    raise Plain(503, "busy")


def _typed():
    error = Odd((1, b"\xff"), date(2026, 1, 2), Decimal("1.50"), Color.RED, uuid.UUID(int=7), {3: (timedelta(1),)})
    error.where, error.at = pathlib.PurePosixPath("/x"), datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    raise error


def _no_file():
    with pathlib.Path("/nowhere/at/all").open(encoding="utf-8"):
        pass


def _renamed():
    pathlib.Path("/nowhere/a").rename("/nowhere/b")


def _group():
    try:
        _no_file()
    except FileNotFoundError as error:
        raise ExceptionGroup("several", [Odd("one", 1), ExceptionGroup("inner", [error, KeyError("k")])]) from None


def _own_group():
    raise ByHand([Odd("one"), KeyError("two")], 7)


def _raised_from():
    try:
        _no_file()
    except FileNotFoundError as error:
        raise Odd("no settings") from error


def _noted():
    error = Odd("noted")
    error.add_note("while reading")
    error.add_note("line 3")
    raise error


def _with_response():
    error = Plain(429, "later")
    error.response = Client()
    raise error


def _local():
    class Local(Odd):
        pass

    raise Local("of a function", 2)


def _with_client():
    raise Odd(Client(), 1)


def _with_set():
    raise Odd({"a"} | {"b"})


def _large():
    raise Odd("x" * 9_000)


def _unspeakable():
    raise Unspeakable("x")


def _stray():
    raise asyncio.CancelledError


def _exit():
    raise SystemExit(3)


def _with_context():
    try:
        {}["k"]
    except KeyError:
        raise Odd("while another was handled")  # noqa: B904 - as it happens


def _panic():
    raise PanicException("index out of bounds")


def _many():
    raise BaseExceptionGroup("both", [Loose("one"), Odd("two")])


RAISES = {
    "plain": _plain,
    "typed": _typed,
    "no_file": _no_file,
    "renamed": _renamed,
    "no_number": lambda: (_ for _ in ()).throw(PermissionError("by hand")),
    "undecodable": lambda: str(b"a\xff", "utf-8"),
    "unencodable": lambda: "a€".encode("ascii"),
    "no_key": lambda: {}["k"],
    "no_json": lambda: json.loads('{"a": }'),
    "no_syntax": lambda: compile("a =", "made up", "exec"),
    "no_import": lambda: __import__("nothing_of_that_name"),
    "group": _group,
    "own_group": _own_group,
    "model": lambda: Answer(number="x"),
    "model_of_json": lambda: Answer.model_validate_json('{"number": 1'),
    "model_own": lambda: Answer(number=1, word="custom"),
    "model_value": lambda: Answer(number=1, word="abc"),
    "model_client": lambda: Answer(number=Client()),
    "raised_from": _raised_from,
    "noted": _noted,
    "with_context": _with_context,
    "with_response": _with_response,
    "local": _local,
    "with_client": _with_client,
    "with_set": _with_set,
    "large": _large,
    "unspeakable": _unspeakable,
    "stray": _stray,
    "exits": _exit,
    "interrupts": lambda: (_ for _ in ()).throw(KeyboardInterrupt("now")),
    "closes": lambda: (_ for _ in ()).throw(GeneratorExit()),
    "panics": _panic,
    "loose": lambda: (_ for _ in ()).throw(Loose("adrift", (1, 2))),
    "many": _many,
}


def of(name):
    """The live exception of a case."""
    try:
        RAISES[name]()
    except BaseException as error:  # noqa: BLE001 - it is what was asked for
        return error
    raise AssertionError(f"{name} raised nothing")


def kind_of(name):
    """The name of its class."""
    return type(of(name)).__name__


def seen(error, depth=0):
    """All that a body can see of an exception, but for its traceback and `__context__`, as one text."""
    if error is None:
        return "none"
    kind, text = type(error), "cannot say"
    with contextlib.suppress(RuntimeError):
        text = str(error)
    own = {name: value for name, value in vars(error).items() if not name.startswith("__")}
    fields = {name: getattr(error, name, None) for name in FIELDS}
    if isinstance(error, pydantic.ValidationError):
        own = {"errors": error.errors()}
    return "\n".join([
        f"{kind.__module__}:{kind.__qualname__} {text!r} {error.args!r}",
        f"{error!r}",
        f"caught as {[each.__name__ for each in BUILTIN if isinstance(error, each)]}",
        f"{sorted(own.items())!r} { {name: value for name, value in fields.items() if value is not None}!r}",
        f"notes {getattr(error, '__notes__', [])!r}",
        *(seen(each, depth + 1) for each in getattr(error, "exceptions", ())),
        f"from {seen(error.__cause__, depth + 1)}" if depth < 5 else "",
    ])  # fmt: skip


FIELDS = (
    *("errno", "strerror", "filename", "filename2", "reason", "object", "start", "end"),
    *("pos", "lineno", "msg", "code"),
)
BUILTIN = (OSError, ValueError, LookupError, ExceptionGroup, Odd, ByHand, StepFailed, pydantic.ValidationError)


@app.step(timeout=20)
async def on_loop(name: str) -> str:
    RAISES[name]()
    return "it returned"


@app.step(timeout=20)
def in_thread(name: str) -> str:
    RAISES[name]()
    return "it returned"


@app.step(timeout=20, lane="process")
def in_process(name: str) -> str:
    RAISES[name]()
    return "it returned"


@app.step(timeout=20)
async def note(text: str) -> None:
    """A step after the failure: its arguments are part of its key, so a body that saw something else diverges."""


LANES = {"loop": on_loop, "thread": in_thread, "process": in_process}


async def _met(name, lane):
    try:
        return await LANES[lane](name)
    except Exception as error:  # noqa: BLE001 - the body decides by what it sees
        last = "".join(traceback.format_exception_only(error))
        described = f"{last if name != 'unspeakable' else ''}\n{seen(error)}"
        if isinstance(error, ExceptionGroup):
            described += "\n" + seen(error.subgroup(KeyError))
        return described


@app.pipeline
async def meets(name: str, lane: str) -> str:
    described = await _met(name, lane)
    await note(described)
    return described


@app.pipeline(sla="deep")
async def meets_all(names: list[str], lane: str) -> dict[str, str]:
    found = {}
    for name in names:
        found[name] = await _met(name, lane)
        await note(found[name])
        emit(name)
    return found


@app.pipeline(sla="deep")
async def ends_with(name: str) -> None:
    RAISES[name]()


@app.pipeline(sla="deep")
async def branch_ends_with(name: str) -> None:
    async def branch():
        RAISES[name]()

    async with asyncio.TaskGroup() as group:
        group.create_task(branch())


@app.pipeline(sla="deep")
async def outer(name: str) -> str:
    try:
        return await inner(name)
    except Exception as error:  # noqa: BLE001 - the body decides by what it sees
        await note(str(error))
        return type(error).__name__


@app.pipeline
async def inner(name: str) -> str:
    return await on_loop(name)
