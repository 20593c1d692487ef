"""A value is checked against a schema as JSON Schema says, in bounded time, and what cannot be checked is refused."""

import dataclasses
import enum
import time
from typing import Annotated, Literal

import hypothesis.strategies as st
import msgspec
import pydantic
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from offramp.core import models
from offramp.core.fitting import LOOKS_MAX, PROBLEMS_MAX, problems_of, require_checkable
from offramp.core.question import Question
from offramp.core.waits import ASK_BYTES_MAX, SCHEMA_BYTES_MAX
from offramp.errors import DeclarationError, EncodingError, MissingExtra, TooLarge

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([0.5, 1.0, 1e308])
    | st.sampled_from(["", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
numbers = st.sampled_from([-1, 0, 1, 2, 0.5])
counts = st.integers(0, 3)
SIMPLE = {
    "type": st.sampled_from(
        [*["null", "boolean", "integer", "number", "string", "array", "object"], ["string", "null"]]
    ),
    "enum": st.lists(values, min_size=1, max_size=3),
    "const": values,
    "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    "uniqueItems": st.booleans(),
    "pattern": st.sampled_from(["^a", "b", "a$"]),
    "multipleOf": st.sampled_from([1, 2, 0.5, 0.01]),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), numbers),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), counts),
}


def nesting(inner):
    lists = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            **dict.fromkeys(("additionalProperties", "propertyNames", "items", "not"), inner),
            **dict.fromkeys(("prefixItems", "allOf", "anyOf", "oneOf"), lists),
        },
    )


schemas = st.recursive(st.booleans() | st.fixed_dictionaries({}, optional=SIMPLE), nesting, max_leaves=5)


@given(schemas, values)
def test_it_judges_as_a_whole_validator_does(schema, value):
    require_checkable(schema, "a test")
    assert (not problems_of(schema, value)) == Draft202012Validator(schema).is_valid(value)


def test_a_problem_has_a_pointer_and_says_what_to_send():
    schema = {
        "type": "object",
        "properties": {"a/b": {"type": ["integer", "null"]}, "tags": {"items": {"enum": ["x", "y"]}}},
        "required": ["by"],
        "additionalProperties": False,
    }
    assert problems_of(schema, {"a/b": "1", "tags": ["x", "z"], "more": 1}) == [
        ("/a~1b", "expected an integer or null, got a string"),
        ("/tags/1", 'expected one of "x", "y"'),
        ("", "misses the field 'by'"),
        ("/more", "unknown field"),
    ]
    choice = {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"sum": {"minimum": 1}}}]}
    assert problems_of(choice, {"sum": 0}) == [("/sum", "expected at least 1")]
    assert problems_of(choice, 1) == [("", "expected null, got an integer or expected an object, got an integer")]
    assert len(problems_of({"items": False}, [0] * 1000)) == PROBLEMS_MAX


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"patternProperties": {}}, "/patternProperties"),
        ({"properties": {"a": {"if": {}}}}, "/properties/a/if"),
        ({"items": [{}]}, "/items"),
        ({"type": "text"}, "/type"),
        ({"minLength": "3"}, "/minLength"),
        ({"pattern": "(?=a)"}, "/pattern"),
        ({"pattern": "(a)\\1"}, "/pattern"),
        ({"anyOf": []}, "/anyOf"),
        ({"$ref": "https://example.com/schema"}, "/$ref"),
        ({"$ref": "#/$defs/missing"}, "/$ref"),
        ({"$ref": "#"}, "without end"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "without end"),
    ],
)
def test_a_schema_that_would_not_be_checked_is_refused_with_its_place(schema, place):
    with pytest.raises(DeclarationError, match="schema= of signal 'go'") as refused:
        Question("go", schema=schema)
    assert place in str(refused.value)


def test_a_pattern_without_the_library_that_checks_it_names_the_extra(monkeypatch):
    def missing(_):
        raise ImportError

    monkeypatch.setattr(models, "pattern", missing)
    with pytest.raises(MissingExtra, match="extra 'pydantic'"):
        Question("go", schema={"pattern": "a"})


ENUM = [{"k": number} for number in range(800)]
LARGE = [{"k": list(range(1_000))} for _ in range(200)]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 900_000 + "!"),
        ({"$defs": {"a": {"anyOf": [{"items": {"$ref": "#/$defs/a"}}] * 8}}, "$ref": "#/$defs/a", "not": {}}, None),
        ({"items": {"type": "integer"}}, [1] * LOOKS_MAX),
        ({"uniqueItems": True}, list(range(200_000))),
        ({"multipleOf": 1e-300}, 1e300),
        ({"items": {"not": {"enum": ENUM}}}, LARGE),
        ({"anyOf": [{"enum": ENUM, "type": "null"}] * 1_000}, LARGE),
        ({"items": {"not": {"enum": [f"{n:030}" for n in range(1_500)]}}}, [1] * 5_000),
        ({"additionalProperties": {"items": {"type": "integer"}}}, {"k" * 500_000: [1] * 100_000}),
        ({"anyOf": [{"uniqueItems": True, "type": "null"}] * 1_000}, list(range(100_000))),
        ({"anyOf": [{"additionalProperties": False}] * 1_000}, {str(n): 1 for n in range(60_000)}),
        ({"anyOf": [{"items": False}] * 3_000}, [1] * 500_000),
        ({"anyOf": [{"pattern": "a+b"}] * 1_000}, "a" * 900_000),
        ({"items": {"properties": {str(n): {} for n in range(5_000)}}}, [{}] * 100_000),
    ],
)
def test_no_value_takes_long(schema, value):
    if value is None:  # each level has eight alternatives, which all lead into the next
        value = 1
        for _ in range(60):
            value = [value]
    began = time.process_time()
    problems_of(schema, value)
    assert time.process_time() - began < 0.5


def test_a_large_value_that_fits_one_of_many_alternatives_is_accepted():
    assert problems_of({"items": {"anyOf": [{"enum": ENUM}, {"required": ["k"]}]}}, LARGE) == []
    assert problems_of({"enum": [*ENUM, LARGE]}, LARGE) == []


@dataclasses.dataclass
class Answer:
    approved: bool
    note: str = ""


class Colour(enum.Enum):
    RED = "red"


class Sum(pydantic.BaseModel):
    amount: Annotated[int, pydantic.Field(gt=0)]
    code: Annotated[str, pydantic.Field(pattern="^[A-Z]+$")] = "EUR"

    @pydantic.field_validator("amount")
    @classmethod
    def even(cls, amount: int) -> int:
        if amount % 2:
            raise ValueError("odd")
        return amount


@pytest.mark.parametrize(
    ("wanted", "good", "bad", "pointer"),
    [
        (bool, True, "yes", ""),
        (Answer, {"approved": True}, {"approved": 1}, "/approved"),
        (Colour, "red", "blue", ""),
        (Literal["a", "b"], "b", "c", ""),
        (int | None, None, 0.5, ""),
        (list[Answer], [{"approved": False, "note": "n"}], [{"note": "n"}], "/0"),
        (Sum, {"amount": 2}, {"amount": 0}, "/amount"),
        (Sum, {"amount": 2}, {"amount": 2, "code": "eur"}, "/code"),
        (Sum, {"amount": 2}, {"amount": 1}, "/amount"),
        (dict[str, Annotated[int, msgspec.Meta(ge=1)]], {"a": 1}, {"a": 0}, "/a"),
    ],
)
def test_a_type_is_its_schema_and_what_only_the_type_knows(wanted, good, bad, pointer):
    question = Question("go", schema=wanted)
    encoded = msgspec.json.encode(good)
    assert question.problems(encoded) == []
    assert (
        msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(question.read(encoded), enc_hook=dict))) is not ...
    )
    assert [problem[0] for problem in question.problems(msgspec.json.encode(bad))] == [pointer]


@dataclasses.dataclass
class Tree:
    answer: Answer
    below: list["Tree"] = dataclasses.field(default_factory=list)


def test_the_schema_of_a_class_is_its_own_and_no_reference_unless_it_is_recursive():
    assert msgspec.json.decode(Question("go", schema=Answer).schema)["required"] == ["approved"]
    tree = Question("go", schema=Tree)
    assert msgspec.json.decode(tree.schema)["$ref"] == "#/$defs/Tree"
    bad = {"answer": {"approved": True}, "below": [{"answer": {}}]}
    assert tree.problems(msgspec.json.encode(bad)) == [("/below/0/answer", "misses the field 'approved'")]


def test_a_value_comes_back_as_the_type():
    assert Question("go", schema=Answer).read(b'{"approved":true}') == Answer(approved=True)
    assert Question("go", schema=Sum).read(b'{"amount":2}') == Sum(amount=2)
    assert Question("go", schema={"type": "object"}).read(b'{"a":1}') == {"a": 1}
    with pytest.raises(EncodingError, match="'go' does not fit"):
        Question("go", schema=Answer).read(b"1")


def test_a_question_has_bounds():
    Question("go", ask="x" * (ASK_BYTES_MAX - 2))
    with pytest.raises(TooLarge, match="ask= of signal 'go' has 16385 bytes"):
        Question("go", ask="x" * (ASK_BYTES_MAX - 1))
    with pytest.raises(TooLarge, match="schema= of signal 'go'"):
        Question("go", schema={"description": "x" * SCHEMA_BYTES_MAX})
    with pytest.raises(EncodingError, match="ask= of signal 'go'"):
        Question("go", ask=object())
    with pytest.raises(DeclarationError, match="schema= of signal 'go'"):
        Question("go", schema=object)
