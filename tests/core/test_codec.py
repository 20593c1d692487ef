from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.codec import Signature
from offramp.errors import DeclarationError, EncodingError, InputError
from offramp.execution import context


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Note(msgspec.Struct):
    text: str
    tags: list[str] = []


class Author(pydantic.BaseModel):
    name: str
    born: dt.date | None = None


class Book(pydantic.BaseModel):
    title: str = pydantic.Field(min_length=1)
    authors: list[Author] = []


class Node(pydantic.BaseModel):
    value: int
    children: list[Node] = []


def everything(
    point: Point,
    note: Note,
    book: Book,
    when: dt.datetime,
    colour: Colour = Colour.RED,
    names: list[str] | None = None,
    table: dict[str, list[Point]] = {},  # noqa: B006 - what users write
    mode: Literal["a", "b"] = "a",
    *,
    limit: int = 3,
) -> Book: ...


SIGNATURE = Signature(everything, "step 'everything'")
WHEN = dt.datetime(2026, 11, 21, 9, 30, tzinfo=dt.UTC)

points = st.builds(Point, st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False))
texts = st.text(max_size=20)
books = st.builds(
    Book,
    title=st.text(min_size=1, max_size=20),
    authors=st.lists(st.builds(Author, name=texts, born=st.none() | st.dates()), max_size=3),
)
calls = st.fixed_dictionaries(
    {
        "point": points,
        "note": st.builds(Note, texts, st.lists(texts, max_size=3)),
        "book": books,
        "when": st.datetimes(timezones=st.just(dt.UTC)),
    },
    optional={
        "colour": st.sampled_from(Colour),
        "names": st.none() | st.lists(texts, max_size=3),
        "table": st.dictionaries(texts, st.lists(points, max_size=2), max_size=3),
        "mode": st.sampled_from(["a", "b"]),
        "limit": st.integers(0, 9),
    },
)


@given(calls)
def test_arguments_come_back_typed_as_annotated(given_arguments):
    call = SIGNATURE.encode_call((), given_arguments)
    assert SIGNATURE.decode_call(call.encoded) == list(call.values)
    assert call.values[: len(given_arguments)] or not given_arguments


@given(calls)
def test_an_input_comes_back_typed_with_its_defaults(given_arguments):
    decoded = SIGNATURE.decode_input(SIGNATURE.encode_input(given_arguments))
    assert decoded == dict(zip(SIGNATURE.names, SIGNATURE.encode_call((), given_arguments).values, strict=True))


@given(calls)
def test_the_same_call_has_the_same_encoding_however_it_is_written(given_arguments):
    ordered = [given_arguments[name] for name in ("point", "note", "book", "when")]
    rest = {name: value for name, value in given_arguments.items() if name not in {"point", "note", "book", "when"}}
    backwards = dict(reversed(given_arguments.items()))
    one, other = SIGNATURE.encode_call(tuple(ordered), rest), SIGNATURE.encode_call((), backwards)
    assert (one.encoded, one.key) == (other.encoded, other.key)


@given(st.dictionaries(texts, st.integers(0, 5), max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_a_dict_does_not_change_the_journal_key(table, order):
    def count(table: dict[str, int]) -> int: ...

    signature = Signature(count, "step 'count'")
    items = list(table.items())
    order.shuffle(items)
    assert signature.encode_call((table,), {}).key == signature.encode_call((dict(items),), {}).key


@given(books)
def test_a_model_comes_back_as_a_result(book):
    assert SIGNATURE.decode_result(SIGNATURE.encode_result(book), book) == book


def test_a_mutable_result_is_a_copy_so_that_a_replay_cannot_differ():
    def names() -> list[str]: ...

    signature = Signature(names, "step 'names'")
    live = ["a"]
    assert signature.decode_result(signature.encode_result(live), live) is not live


SCALARS = [
    (str, 5),
    (int, "5"),
    (int, True),
    (float, 1),
    (Any, 2**70),
    (bool, 1),
    (str, None),
    (type(None), 3),
    (Literal["a"], "b"),
    (Colour, "red"),
    (dt.datetime, "2026-11-21T09:30:00Z"),
    (int | str, True),
]


def received(decode):
    try:
        value = decode()
    except EncodingError:
        return "refused"
    return type(value), repr(value)


@pytest.mark.parametrize(("annotation", "value"), SCALARS)
def test_a_step_gives_the_same_value_when_executed_and_when_replayed(annotation, value):
    def step() -> annotation: ...

    step.__annotations__["return"] = annotation
    signature = Signature(step, "step 'step'")
    encoded = signature.encode_result(value)
    assert received(lambda: signature.decode_result(encoded, value)) == received(
        lambda: signature.decode_result(encoded)
    )


def test_a_result_that_breaks_its_annotation_is_refused_by_name():
    def names() -> list[str]: ...

    signature = Signature(names, "step 'names'")
    with pytest.raises(EncodingError, match="result of step 'names' does not fit its annotation"):
        signature.decode_result(b"[1]", [1])


@pytest.mark.parametrize("value", [object(), {1, object()}, lambda: 1, "\udc80", [b"\xff", object()]])
def test_what_json_cannot_carry_is_refused_by_name(value):
    def anything(value: Any) -> Any: ...

    signature = Signature(anything, "step 'anything'")
    with pytest.raises(EncodingError, match="an argument of step 'anything'"):
        signature.encode_call((value,), {})
    with pytest.raises(EncodingError, match="the result of step 'anything'"):
        signature.encode_result(value)


def test_a_value_that_holds_itself_is_refused():
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(EncodingError):
        SIGNATURE.encode_result(circle)


def test_wrong_arguments_are_the_type_error_of_a_plain_call():
    for call in [((), {}), ((1,), {"point": 1}), ((), {"nope": 1})]:
        with pytest.raises(TypeError, match=r"argument"):
            SIGNATURE.encode_call(*call)


# Input errors.

GOOD = {
    "point": {"x": 1},
    "note": {"text": "t"},
    "book": {"title": "b", "authors": [{"name": "n"}]},
    "when": "2026-11-21T09:30:00Z",
}


@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"point": {"x": "one"}}, ["/input/point/x"]),
        ({"point": 3}, ["/input/point"]),
        ({"note": {"text": "t", "tags": ["a", 1]}}, ["/input/note/tags/1"]),
        ({"when": "yesterday"}, ["/input/when"]),
        ({"colour": "green"}, ["/input/colour"]),
        ({"mode": "c"}, ["/input/mode"]),
        ({"limit": 1.5}, ["/input/limit"]),
        ({"nope": 1}, ["/input"]),
        ({"table": {"a/b": [{"x": "q"}]}}, ["/input/table"]),
        ({"book": {"authors": [{"name": "n"}, {"name": 3}]}}, ["/input/book/title", "/input/book/authors/1/name"]),
        ({"book": {"title": ""}}, ["/input/book/title"]),
        ({"book": 3}, ["/input/book"]),
    ],
)
def test_an_input_error_points_to_its_field(change, pointers):
    with pytest.raises(InputError) as caught:
        SIGNATURE.decode_input(msgspec.json.encode(GOOD | change))
    assert [pointer for pointer, _ in caught.value.errors] == pointers
    for pointer, message in caught.value.errors:
        assert message
        assert "http" not in message
        assert pointer in str(caught.value)


@pytest.mark.parametrize(("raw", "name"), [(b"{}", "point"), (msgspec.json.encode(GOOD | {"nope": 1}), "nope")])
def test_a_missing_or_unknown_argument_is_named_and_its_object_pointed_at(raw, name):
    with pytest.raises(InputError, match=f"`{name}`") as caught:
        SIGNATURE.decode_input(raw)
    assert [pointer for pointer, _ in caught.value.errors] == ["/input"]


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_an_input_that_is_no_json_object_is_an_input_error(raw):
    with pytest.raises(InputError) as caught:
        SIGNATURE.decode_input(raw)
    assert caught.value.errors[0][0].startswith("/input")


# Schemas.


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def definitions_below(node, depth=0):
    if isinstance(node, dict):
        return (depth > 0 and "$defs" in node) or any(definitions_below(v, depth + 1) for v in node.values())
    return isinstance(node, list) and any(definitions_below(item, depth + 1) for item in node)


def assert_closed(schema):
    """Every reference resolves at the root, where JSON Schema 2020-12 looks for `#/$defs/…`."""
    for reference in references(schema):
        prefix, _, name = reference.rpartition("/")
        assert prefix == "#/$defs"
        assert name in schema["$defs"]
    assert not any(definitions_below(definition, 1) for definition in schema.get("$defs", {}).values())


@pytest.mark.parametrize("schema", [SIGNATURE.input_schema, SIGNATURE.result_schema])
def test_schemas_hoist_every_definition(schema):
    assert_closed(schema)
    assert msgspec.json.decode(msgspec.json.encode(schema)) == schema


def test_a_recursive_model_has_a_closed_schema():
    def walk(node: Node, nodes: list[Node]) -> Node: ...

    signature = Signature(walk, "step 'walk'")
    assert_closed(signature.input_schema)
    assert_closed(signature.result_schema)


def test_two_models_of_one_name_keep_their_own_definitions():
    def outer(kind: type) -> type[pydantic.BaseModel]:
        item = pydantic.create_model("Item", value=(kind, ...))
        return pydantic.create_model(f"Holder{kind.__name__}", items=(list[item], ...))

    numbers, texts_ = outer(int), outer(str)

    def both(a: int, b: int) -> int: ...

    both.__annotations__ |= {"a": numbers, "b": texts_}
    schema = Signature(both, "step 'both'").input_schema
    assert_closed(schema)
    fields = schema["properties"]
    kinds = [
        schema["$defs"][next(references(fields[name])).rpartition("/")[2]]["properties"]["value"]["type"]
        for name in ("a", "b")
    ]
    assert kinds == ["integer", "string"]


def test_the_input_schema_says_what_is_required_and_what_defaults():
    fields = SIGNATURE.input_schema
    assert sorted(fields["required"]) == ["book", "note", "point", "when"]
    assert fields["additionalProperties"] is False
    assert fields["properties"]["limit"] == {"type": "integer", "default": 3}


def test_an_argument_may_have_a_default_before_one_that_has_none():
    def odd(a: int = 1, *, b: uuid.UUID, c: list[int] = []) -> None: ...  # noqa: B006 - what users write

    key = uuid.uuid4()
    assert Signature(odd, "step 'odd'").decode_input(b'{"b": "%s"}' % str(key).encode()) == {"a": 1, "b": key, "c": []}


@pytest.mark.parametrize("annotation", [object, "Unknown", type, complex, lambda: 1])
def test_a_type_that_json_cannot_carry_is_refused_when_declared(annotation):
    def step(value: int) -> int: ...

    step.__annotations__["value"] = annotation
    with pytest.raises(DeclarationError, match="step 'step'"):
        Signature(step, "step 'step'")


# The property that everything rests on: what is given the first time is what a replay gets.


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    name: str = pydantic.Field(alias="catName")
    lives: set[int] = set()


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: dt.datetime
    price: decimal.Decimal
    where: Path
    raw: pydantic.Json[list[int]]


class Words(pydantic.RootModel[list[str]]):
    pass


@dataclasses.dataclass
class Mixed:
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    author: Author | str
    more: dict[Colour, list[Point]] = dataclasses.field(default_factory=dict)


whens = st.datetimes(timezones=st.just(dt.UTC))
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=3)
numbers = st.floats(allow_nan=False, allow_infinity=False)
paths = st.text("abc/._ ", max_size=8).map(Path)
cats = st.builds(lambda name, lives: Cat(catName=name, lives=lives), texts, st.sets(st.integers(), max_size=3))
pets = cats | st.builds(Dog, name=texts)
authors = st.builds(Author, name=texts, born=st.none() | st.dates())
stricts = st.builds(
    lambda when, price, where, raw: Strict(when=when, price=price, where=where, raw=msgspec.json.encode(raw).decode()),
    *(whens, decimals, paths, st.lists(st.integers(), max_size=3)),
)
mixed = st.builds(Mixed, pets, authors | texts, st.dictionaries(st.sampled_from(Colour), st.lists(points, max_size=2)))
Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (set[str], st.sets(texts, max_size=4)),
    (frozenset[uuid.UUID], st.frozensets(st.uuids(), max_size=3)),
    (tuple[int, float, bytes], st.tuples(st.integers(), numbers, st.binary(max_size=5))),
    (dict[int, dt.date], st.dictionaries(st.integers(), st.dates(), max_size=3)),
    (dict[uuid.UUID, Path], st.dictionaries(st.uuids(), paths, max_size=3)),
    (dict[dt.date, decimal.Decimal], st.dictionaries(st.dates(), decimals, max_size=3)),
    (dt.timedelta, st.timedeltas()),
    (list[dt.time], st.lists(st.times(), max_size=3)),
    (Cat | Dog | None, st.none() | pets),
    (list[Pet], st.lists(pets, max_size=3)),
    (list[Author | str], st.lists(authors | texts, max_size=3)),
    (list[dt.datetime | str], st.lists(whens | texts, max_size=3)),
    (dict[str, Strict], st.dictionaries(texts, stricts, max_size=2)),
    (list[Words], st.lists(st.builds(Words, st.lists(texts, max_size=2)), max_size=2)),
    (list[Mixed], st.lists(mixed, max_size=2)),
    (Any, st.recursive(st.none() | st.booleans() | st.integers() | numbers | texts, st.lists, max_leaves=5)),
]


def shown(value):
    """A repr by which values of other types or with other contents differ."""
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(map(repr, value))
    if isinstance(value, pydantic.BaseModel):
        return type(value).__name__, {name: shown(getattr(value, name)) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value):
        return type(value).__name__, shown(vars(value))
    if isinstance(value, dict):
        return {repr(key): shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, list(map(shown, value))
    return value.isoformat() if isinstance(value, (dt.datetime, dt.time)) else repr(value)  # JSON has no fold


@pytest.mark.parametrize(("annotation", "values"), KINDS, ids=[str(number) for number in range(len(KINDS))])
@settings(max_examples=40)
@given(st.data())
def test_what_is_given_first_is_what_a_replay_gets(annotation, values, data):
    def step(value: annotation) -> annotation: ...

    step.__annotations__ = {"value": annotation, "return": annotation}
    signature, value = Signature(step, "step 'step'"), data.draw(values)
    encoded = signature.encode_result(value)
    first, later = signature.decode_result(encoded, value), signature.decode_result(encoded)
    assert shown(first) == shown(later) == shown(value)
    call = signature.encode_call((value,), {})
    (copied,), (decoded,) = signature.copies(call.values, call.encoded), signature.decode_call(call.encoded)
    assert shown(copied) == shown(decoded) == shown(value)
    again = signature.encode_call((decoded,), {})
    assert (again.key, sorted(again.encoded)) == (call.key, sorted(call.encoded))
    assert shown(signature.decode_input(signature.encode_input({"value": value}))["value"]) == shown(value)
    jsonschema_rs.validator_for(signature.result_schema).validate(json.loads(encoded))


@pytest.mark.parametrize("model", [Cat, Strict, Words, Book, Cat | Dog, Annotated[Cat | Dog, "x"], list[Cat | str]])
def test_a_result_agrees_with_its_schema(model):
    def step() -> model: ...

    step.__annotations__ = {"return": model}
    signature = Signature(step, "step 'step'")
    assert_closed(signature.result_schema)
    values = {
        Cat: Cat(catName="a", lives={1}),
        Strict: Strict(when=WHEN, price=decimal.Decimal("1.5"), where=Path("a"), raw="[1]"),
        Words: Words(["a"]),
        Book: Book(title="a", authors=[Author(name="b")]),
    }
    value = values.get(model, [Cat(catName="a"), "b"] if model == list[Cat | str] else Cat(catName="a"))
    jsonschema_rs.validator_for(signature.result_schema).validate(json.loads(signature.encode_result(value)))


def test_the_order_of_a_set_in_a_model_does_not_change_the_journal_key():
    def step(cat: Cat) -> None: ...

    signature = Signature(step, "step 'step'")
    lives = [8, 16, 0, 32, 24]  # which collide in a set of eight, and so keep the order of their insertion
    forwards, backwards = Cat(catName="a", lives=set(lives)), Cat(catName="a", lives={24, 32, 0, 16, 8})
    assert list(forwards.lives) != list(backwards.lives)
    assert signature.encode_call((forwards,), {}).key == signature.encode_call((backwards,), {}).key


def test_objects_of_different_classes_have_different_keys_where_either_may_stand():
    left = pydantic.create_model("Left", x=(int, 1), y=(int, 2))
    right = pydantic.create_model("Right", x=(int, 1), z=(int, 2))

    def step(value: Any) -> None: ...

    for annotation in (left | right, Any, list[Any], Cat | Dog):
        step.__annotations__ = {"value": annotation, "return": None}
        signature = Signature(step, "step 'step'")
        pair = (Cat(catName="a"), Dog(name="a")) if annotation == Cat | Dog else (left(), right())
        keys = {signature.encode_call(([each] if annotation == list[Any] else each,), {}).key for each in pair}
        assert len(keys) == 2


def test_a_default_that_differs_each_time_is_part_of_the_key_and_asks_for_no_run():
    asked = []

    def fresh() -> str:
        asked.append(context.current.get())
        return str(len(asked))

    made = dataclasses.make_dataclass("Made", [("id", str, dataclasses.field(default_factory=fresh))])

    def step(value: Any) -> None: ...

    step.__annotations__ = {"value": made, "return": None}
    token = context.current.set(object())
    try:
        signature = Signature(step, "step 'step'")
        assert b'"id":"1"' in signature.encode_call((made("1"),), {}).key
    finally:
        context.current.reset(token)
    assert set(asked) == {None}


def test_a_default_of_none_makes_its_parameter_optional():
    def step(names: list[str] = None, limit: int = 3) -> None: ...  # noqa: RUF013 - what users write

    signature = Signature(step, "step 'step'")
    assert signature.decode_call(signature.encode_call((), {}).encoded) == [None, 3]
    assert signature.decode_input(b"{}") == {"names": None, "limit": 3}


@pytest.mark.parametrize("default", [object(), "three", [1]])
def test_a_default_that_does_not_fit_is_refused_when_declared(default):
    def step(limit: int = default) -> None: ...

    with pytest.raises(DeclarationError, match=r"step 'step': the default .*parameter 'limit'"):
        Signature(step, "step 'step'")


@pytest.mark.parametrize("text", [b'{"value":"NaN"}', b'{"value":{"score":"inf"}}', b'{"value":{"score":"-Infinity"}}'])
def test_an_input_that_becomes_no_number_is_an_input_error(text):
    scored = pydantic.create_model("Scored", score=(float, ...))

    def step(value: Any) -> None: ...

    step.__annotations__ = {"value": scored if b"score" in text else decimal.Decimal, "return": None}
    with pytest.raises(InputError) as caught:
        Signature(step, "step 'step'").decode_input(text)
    assert caught.value.errors[0][0] == "/input/value"
