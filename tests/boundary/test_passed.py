"""Every row of the table "What may be passed" is executed: in every lane, the first time and in a replay."""

from __future__ import annotations

import asyncio
import inspect
import math

import httpx
import pydantic
import pytest

from offramp import App, emit, testing
from offramp.errors import DeclarationError, EncodingError
from tests.boundary import passing
from tests.boundary.passing import (
    AUTHOR,
    Author,
    Book,
    Editor,
    LongNote,
    Note,
    Place,
    Point,
    assert_unchanged,
)
from tests.boundary.tables import rows
from tests.support import log_of, of, result_of


@pytest.fixture(autouse=True)
def fresh():
    passing.SEEN.clear()
    passing.GIVEN.clear()


async def unchanged(*cases):
    await testing.replays(passing.app, "echo", cases=list(cases))
    assert_unchanged(cases)
    assert all(len(passing.SEEN[case]) == 2 for case in cases)


def declared(annotation, *, returns=False):
    """Declares a step of this annotation."""

    def step(value): ...

    step.__annotations__ = {"return" if returns else "value": annotation, **({"value": int} if returns else {})}
    return App("declared").step(step)


def refused(annotation, message):
    with pytest.raises(DeclarationError) as caught:
        declared(annotation)
    assert "parameter 'value'" in str(caught.value)
    assert "step 'step'" in str(caught.value)
    for text in message:
        assert text in str(caught.value)
    with pytest.raises(DeclarationError, match=r"step 'step'.*the result|the result of step 'step'"):
        declared(annotation, returns=True)


async def refused_everywhere(annotation, value, *message, emitted=True):
    """As a result, an argument, an input and an emitted value: `EncodingError`, which says this."""
    app, errors = App("refuses"), []

    def returning():
        return value

    async def taking(value): ...

    async def given(value): ...

    async def pipe():
        for call in (give, lambda: take(value), lambda: asyncio.sleep(0, emit(value))):
            try:
                await call()
            except Exception as error:  # noqa: BLE001 - shown below
                errors.append(error)

    returning.__annotations__ = {"return": annotation}
    taking.__annotations__ = given.__annotations__ = {"value": annotation}
    give, take = app.step(returning), app.step(taking)
    app.pipeline(pipe)
    app.pipeline(given)
    async with testing.runtime(app) as runtime:
        await result_of(await runtime.start("pipe"))
        try:
            await runtime.start("given", value=value)
        except EncodingError as error:
            errors.append(error)
    assert [type(error) for error in errors] == [EncodingError] * (4 if emitted else 3), errors
    for error in errors:
        for text in message:
            assert text in str(error), (text, str(error))


# One for each row.


async def builtins():
    await unchanged("str", "int", "float", "bool", "none", "list", "dict")


async def standard():
    times = ("datetime", "zoned", "naive", "date", "time", "timedelta")
    await unchanged(*times, "uuid", "decimal", "bytes", "enum", "int_enum", "literal", "path", "paths", "no_path")


async def containers():
    await unchanged("tuple", "tuples", "named_tuple", "set", "frozenset", "typed_dict")


async def keys():
    await unchanged("int_keys", "enum_keys", "date_keys", "uuid_keys")
    refused(dict[tuple[int, int], str], ["a dict's keys are text in JSON"])


async def classes():
    await unchanged("dataclass", "struct", "model", "recursive", "generic", "nested")


async def pydantic_models():
    await unchanged("aliased", "strict", "stricts", "packed", "root", "roots", "url")


async def unions():
    await unchanged("models", "models_first", "pet", "pets", "model_or_text", "text_or_model", "models_or_text")
    await unchanged("maybe_model_or_text", "date_or_text", "text_or_date", "dates_or_texts", "id_or_text")
    await unchanged("dataclasses", "dataclasses_first", "in_dataclass", "tagged")


async def ambiguous():
    annotation = passing.dt.datetime | str
    message = ("at $", "(str) would come back as", "(datetime)", "tag=True")
    await refused_everywhere(annotation, "2026-11-21T09:30:00Z", *message, emitted=False)
    first, second = pydantic.create_model("First", x=(int, ...)), pydantic.create_model("Second", x=(int, ...))
    await refused_everywhere(first | second, second(x=1), "Second", "First", "Literal", emitted=False)


async def own_copy():
    result = await testing.replays(passing.app, "appends", start=[1])
    assert result == [[1, 1]] * 4 + [[1, 1, 1]] * 2 + [[1, 7]]


async def mutable_default():
    assert (await testing.replays(passing.app, "appends"))[-1] == [7]
    assert (await testing.replays(passing.app, "appends"))[-1] == [7]
    assert passing.GIVEN == [["me"]] * 8


async def unannotated():
    app, seen = App("loose"), []

    @app.step
    async def loose():
        return (1, Point(2))

    @app.pipeline
    async def pipe() -> None:
        seen.append(await loose())

    await testing.replays(app, "pipe")
    assert seen == [[1, {"x": 2, "y": 0.0}]] * 2


async def not_finite():
    for number in (math.nan, math.inf, -math.inf):
        await refused_everywhere(dict[str, list[float]], {"scores": [1.0, number]}, "$", ".scores[1]", str(number))
        await refused_everywhere(passing.Any, [{"a": number}], "[0].a", str(number))
    await refused_everywhere(Point, Point(1, math.nan), ".y", "nan")
    await refused_everywhere(str | None, math.nan, "nan")
    await refused_everywhere(passing.decimal.Decimal, passing.decimal.Decimal("-Infinity"), "-Infinity")
    scored = pydantic.create_model("Scored", scores=(list[float], ...))
    await refused_everywhere(list[scored], [scored(scores=[1.0, math.inf])], "[0].scores[1]", "inf")


async def secrets():
    held = pydantic.create_model("Held", password=(pydantic.SecretStr, ...))
    for annotation in (pydantic.SecretStr, pydantic.SecretBytes, list[pydantic.SecretStr]):
        refused(annotation, ["Secret", "Pass the secret's name"])
    refused(dict[str, held], ["field 'password' of Held", "SecretStr"])
    secret = pydantic.SecretStr("x")
    await refused_everywhere(passing.Any, [secret], "SecretStr is written as asterisks")
    await refused_everywhere(Book, Book(title="a", extra={"k": secret}), ".extra.k", "SecretStr")
    await refused_everywhere(passing.Any, held(password="x"), "field 'password' of Held")


async def excluded():
    account = pydantic.create_model("Account", token=(str, pydantic.Field("", exclude=True)))
    outer = pydantic.create_model("Outer", accounts=(list[account], ...))
    for annotation in (account, list[account], outer):
        refused(annotation, ["field 'token' of Account has exclude=True", "Drop exclude="])
    await refused_everywhere(passing.Any, [account()], "field 'token' of Account has exclude=True")


async def one_sided_alias():
    alias = pydantic.Field(validation_alias="in", serialization_alias="out")
    model = pydantic.create_model("Sided", x=(int, alias))
    refused(model, ["field 'x' of Sided is written as 'out' and read as 'in'", "AliasChoices"])


async def subclasses():
    editor = Editor(name="a")
    message = ("Editor where Author is declared", "Declare Editor")
    await refused_everywhere(Author, editor, *message, emitted=False)
    await refused_everywhere(list[Author], [AUTHOR, editor], "[1]: ", *message, emitted=False)
    await refused_everywhere(Book, Book(title="b", authors=[editor]), ".authors[0]", *message)
    await refused_everywhere(dict[str, Point], {"k": Place(1)}, ".k", "Place where Point is declared", emitted=False)
    await refused_everywhere(Note | None, LongNote("a"), "LongNote where Note is declared", emitted=False)
    await refused_everywhere(Author | str, editor, *message, emitted=False)


async def clients():
    for client in (httpx.AsyncClient, asyncio.Lock, type):
        refused(client, [client.__name__, "cannot be carried as JSON", "at module level"])
    refused(list[httpx.AsyncClient | None], ["AsyncClient", "at module level"])


async def forgotten():
    app = App("forgets")

    @app.step
    async def one() -> int:
        return 1

    @app.step
    def two(value: passing.Any) -> passing.Any:
        return one()

    @app.pipeline
    async def pipe() -> list[str]:
        message = []
        coroutine = one()
        for call in (lambda: two(coroutine), lambda: two(1)):
            try:
                await call()
            except EncodingError as error:
                message.append(str(error))
        coroutine.close()
        return message

    message = await testing.replays(app, "pipe")
    assert len(message) == 2
    assert all("did you forget await?" in text for text in message)


async def not_there_yet():
    later = pydantic.create_model("Later", child=("Missing", ...))
    refused(later, ["model Later names a type that is not defined yet", "Missing", "at module level", "model_rebuild"])
    forward = passing.dataclasses.make_dataclass("Forward", [("child", "Missing")])
    refused(forward, ["Forward names a type that is not defined yet", "Missing", "at module level"])

    def step(value: Missing) -> None: ...  # noqa: F821

    with pytest.raises(DeclarationError, match=r"step 'step'.*parameter 'value'.*Missing.*TYPE_CHECKING"):
        App("declared").step(step)


async def misfit():
    for where in ("here", "elsewhere", "model"):
        name, text = await testing.replays(passing.app, "misfits", where=where)
        assert name == "EncodingError"
        assert "an argument of step 'wants_" in text
        assert "$.number" in text
    async with testing.runtime(passing.app) as runtime:
        handle = await runtime.start("misfits", where="here")
        await result_of(handle)
        failed = of(await log_of(handle), "step.failed")
    assert [event.data["step"] for event in failed] == ["wants_number"]


CASES = {
    "`str`, `int`, `float`, `bool`, `None`, lists and dicts": builtins,
    "dates, times, `timedelta`, `UUID`, `Decimal`, `bytes`, Enums, `Literal`, `Path`": standard,
    "tuples, `NamedTuple`, `set`, `frozenset`, `TypedDict`": containers,
    "a dict with `int`, Enum, date or `UUID` keys": keys,
    "dataclasses, msgspec Structs, pydantic models, and collections of them": classes,
    "pydantic aliases, computed fields, `strict=True`, `Json`, `RootModel`": pydantic_models,
    "unions: models, discriminated unions, `Model | str`, `datetime | str`, lists of them": unions,
    "a member of a union that decodes as another one": ambiguous,
    "a list or object that the step changes": own_copy,
    "a mutable default": mutable_default,
    "a value without annotation, or annotated `Any`": unannotated,
    "NaN, infinities": not_finite,
    "`SecretStr`, `SecretBytes`": secrets,
    "a pydantic field with `exclude=True`": excluded,
    "a pydantic field that is written under one alias and read under another": one_sided_alias,
    "an instance of a subclass where its base is declared": subclasses,
    "a client, a lock, any class without a JSON form": clients,
    "a coroutine": forgotten,
    "a type that is not defined yet": not_there_yet,
    "an argument that does not fit its annotation": misfit,
}


def test_the_table_has_a_case_for_each_row():
    assert list(rows("What may be passed")) == list(CASES)
    assert all(inspect.iscoroutinefunction(case) for case in CASES.values())


@pytest.mark.parametrize("row", CASES)
async def test_row(row):
    await CASES[row]()
