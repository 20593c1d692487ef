"""Checks JSON values against a JSON Schema: a documented part of it, in bounded time.

A signal is checked by the process that receives it, which may lack the type that the pipeline waits for: it has the
type's JSON Schema alone. No library in the core checks one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, DecimalException
from itertools import islice
from typing import Any, cast

import msgspec

from offramp.core import models
from offramp.errors import DeclarationError, MissingExtra

LOOKS_MAX = 10_000
"""The most comparisons of a part of a value with a part of a schema in one check; a large part counts as several."""
LOOK_BYTES, LOOK_NAMES = 1_024, 32
"""What counts as one comparison: bytes that are encoded, matched or copied, and names that are looked up."""
DEPTH_MAX = 250
"""The deepest nesting of them: of value and schema together."""
PROBLEMS_MAX = 10
"""The most problems that one check reports."""
MESSAGE_LENGTH_MAX = 300
ALTERNATIVES_SHOWN_MAX = 150
"""The most alternatives that a message names: more would not fit into it."""

Problem = tuple[str, str]
"""A JSON pointer (RFC 6901) into the value, and what is wrong there."""
Schema = dict[str, Any] | bool

_encode = msgspec.json.Encoder(order="sorted").encode


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_UNCHECKED = frozenset(
    {
        *("additionalItems", "contains", "dependencies", "dependentRequired", "dependentSchemas", "else", "if"),
        *("maxContains", "minContains", "patternProperties", "then", "unevaluatedItems", "unevaluatedProperties"),
        *("$dynamicRef", "$recursiveRef"),
    }
)
"""Keywords that demand something which is not checked, so a schema with one is refused."""


def problems_of(schema: Schema, value: Any) -> list[Problem]:
    """What of the value does not fit the schema, at most `PROBLEMS_MAX`; empty if it fits."""
    try:
        return _Check(schema).look(schema, value, "", 0)[:PROBLEMS_MAX]
    except _TooMuch:
        return [("", f"takes more than {LOOKS_MAX:,} comparisons to check, or is nested too deep")]


def require_checkable(schema: Schema, what: str) -> None:
    """Check that `problems_of` checks everything that this schema demands.

    Raises:
        DeclarationError: it does not, or the schema is none.
        MissingExtra: it has a pattern, which needs the extra `pydantic`.
    """
    for place, problem in _faults(schema, schema, "", 0):
        raise DeclarationError(f"{what}: the schema {f'at {place}' if place else 'itself'} {problem}")
    try:
        _Check(schema).look(schema, None, "", 0)
    except _TooMuch:
        raise DeclarationError(f"{what}: the schema refers to itself without end") from None


class _TooMuch(Exception):
    """A check has reached one of its bounds."""


class _Check:
    """One check; `look` does all the work."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._looks = 0
        self._patterns: dict[str, Callable[[str], bool] | None] = {}
        self._enums: dict[int, tuple[frozenset[Any], str]] = {}
        """The alternatives of each `enum`, and what is wrong with others, by the identity of its list."""

    def _count(self, looks: int) -> None:
        self._looks += looks
        if self._looks > LOOKS_MAX:
            raise _TooMuch

    def _encoded(self, value: Any) -> bytes:
        encoded = _encode(value)
        self._count(len(encoded) // LOOK_BYTES)
        return encoded

    def _comparable(self, value: Any) -> Any:
        """What is equal, and has an equal hash, for equal JSON values alone."""
        if isinstance(value, bool):
            return bool, value
        return self._encoded(value) if isinstance(value, (dict, list)) else value

    def look(self, schema: Schema, value: Any, at: str, depth: int) -> list[Problem]:
        """The problems of a part of the value, which is at this pointer."""
        if depth > DEPTH_MAX:
            raise _TooMuch
        self._count(1 + len(at) // LOOK_BYTES)
        if isinstance(schema, bool):
            return [] if schema else [(at, "not allowed here")]
        self._count(len(schema) // LOOK_NAMES)
        found: list[Problem] = []
        for keyword, argument in schema.items():
            check = _KEYWORDS.get(keyword)
            if check is not None:
                found += check(self, argument, value, at, depth, schema)
            if len(found) >= PROBLEMS_MAX:
                break
        return found

    def _type(self, names: str | list[str], value: Any, at: str, *_: Any) -> list[Problem]:
        names = [names] if isinstance(names, str) else names
        if any(_TYPES[name](value) for name in names if name in _TYPES):
            return []
        return [(at, f"expected {' or '.join(map(_with_article, names))}, got {_with_article(_type_of(value))}")]

    def _enum(self, allowed: list[Any], value: Any, at: str, *_: Any) -> list[Problem]:
        prepared = self._enums.get(id(allowed))
        if prepared is None:
            shown = ", ".join(self._encoded(each).decode() for each in allowed[:ALTERNATIVES_SHOWN_MAX])
            prepared = frozenset(map(self._comparable, allowed)), _cut(f"expected one of {shown}")
            self._enums[id(allowed)] = prepared
        fitting, problem = prepared
        return [] if self._comparable(value) in fitting else [(at, problem)]

    def _const(self, wanted: Any, value: Any, at: str, *_: Any) -> list[Problem]:
        if self._comparable(value) == self._comparable(wanted):
            return []
        return [(at, _cut(f"expected {self._encoded(wanted).decode()}"))]

    def _properties(self, wanted: dict[str, Schema], value: Any, at: str, depth: int, _: Any) -> list[Problem]:
        if not isinstance(value, dict):
            return []
        self._count(len(wanted) // LOOK_NAMES)
        parts = ((name, part) for name, part in wanted.items() if name in value)
        return self._all((part, value[name], at + _step(name)) for name, part in parts)(depth)

    def _all(self, parts: Iterator[tuple[Schema, Any, str]]) -> Callable[[int], list[Problem]]:
        def look(depth: int) -> list[Problem]:
            found: list[Problem] = []
            for schema, value, at in parts:
                found += self.look(schema, value, at, depth + 1)
                if len(found) >= PROBLEMS_MAX:
                    break
            return found

        return look

    def _required(self, names: list[str], value: Any, at: str, *_: Any) -> list[Problem]:
        if not isinstance(value, dict):
            return []
        self._count(len(names) // LOOK_NAMES)
        return [(at, _cut(f"misses the field {name!r}")) for name in names if name not in value]

    def _others(self, schema: Schema, value: Any, at: str, depth: int, beside: dict[str, Any]) -> list[Problem]:
        if not isinstance(value, dict):
            return []
        self._count(len(value) // LOOK_NAMES)
        known = beside.get("properties", {})
        others = [name for name in value if name not in known]
        if schema is False:
            return [(at + _step(name), "unknown field") for name in others[:PROBLEMS_MAX]]
        return self._all((schema, value[name], at + _step(name)) for name in others)(depth)

    def _names(self, schema: Schema, value: Any, at: str, depth: int, _: Any) -> list[Problem]:
        return self._all((schema, name, at + _step(name)) for name in (value if isinstance(value, dict) else ()))(depth)

    def _items(self, schema: Schema, value: Any, at: str, depth: int, beside: dict[str, Any]) -> list[Problem]:
        first = len(beside.get("prefixItems", ()))
        rest = enumerate(islice(value, first, None), first) if isinstance(value, list) else ()
        return self._all((schema, item, f"{at}/{place}") for place, item in rest)(depth)

    def _prefix(self, schemas: list[Schema], value: Any, at: str, depth: int, _: Any) -> list[Problem]:
        pairs = zip(schemas, value, strict=False) if isinstance(value, list) else ()
        return self._all((schema, item, f"{at}/{place}") for place, (schema, item) in enumerate(pairs))(depth)

    def _unique(self, wanted: bool, value: Any, at: str, *_: Any) -> list[Problem]:  # noqa: FBT001 - a schema's
        if not wanted or not isinstance(value, list) or self._are_unique(value):
            return []
        return [(at, "has an item twice")]

    def _are_unique(self, items: list[Any]) -> bool:
        self._count(len(items) // LOOK_NAMES)
        return len({self._comparable(item) for item in items}) == len(items)

    def _pattern(self, pattern: str, value: Any, at: str, *_: Any) -> list[Problem]:
        if not isinstance(value, str):
            return []
        self._count(len(value) // LOOK_BYTES)
        if pattern not in self._patterns:
            try:
                self._patterns[pattern] = models.pattern(pattern)
            except (ImportError, ValueError):
                self._patterns[pattern] = None  # the run checks it by the type
        fits = self._patterns[pattern]
        return [] if fits is None or fits(value) else [(at, _cut(f"does not match the pattern {pattern}"))]

    def _every(self, schemas: list[Schema], value: Any, at: str, depth: int, _: Any) -> list[Problem]:
        return self._all((schema, value, at) for schema in schemas)(depth)

    def _any(self, schemas: list[Schema], value: Any, at: str, depth: int, _: Any) -> list[Problem]:
        misfits = []
        for schema in schemas:
            found = self.look(schema, value, at, depth + 1)
            if not found:
                return []
            misfits.append(found)
        # The alternative whose problems are deepest is the one that was meant.
        nearest = max(misfits, key=lambda problems: min(pointer.count("/") for pointer, _ in problems))
        if any(pointer != at for pointer, _ in nearest):
            return nearest
        return [(at, _cut(" or ".join(dict.fromkeys(found[0][1] for found in misfits))))]

    def _one(self, schemas: list[Schema], value: Any, at: str, depth: int, beside: dict[str, Any]) -> list[Problem]:
        fitting = sum(1 for schema in schemas if not self.look(schema, value, at, depth + 1))
        if fitting == 1:
            return []
        return [(at, "fits more than one alternative")] if fitting else self._any(schemas, value, at, depth, beside)

    def _none(self, schema: Schema, value: Any, at: str, depth: int, _: Any) -> list[Problem]:
        return [] if self.look(schema, value, at, depth + 1) else [(at, "fits what is excluded")]

    def _reference(self, reference: str, value: Any, at: str, depth: int, _: Any) -> list[Problem]:
        found = _referred(self._root, reference)
        return [] if found is None else self.look(found, value, at, depth + 1)


def _bound(fits: Callable[[Any, Any], bool], applies: Callable[[Any], bool], says: str) -> Callable[..., list[Problem]]:
    def check(_: _Check, bound: Any, value: Any, at: str, *__: Any) -> list[Problem]:
        return [] if not applies(value) or fits(value, bound) else [(at, f"expected {says.format(bound)}")]

    return check


def _is_multiple(value: float, of: float) -> bool:
    try:
        return Decimal(repr(value)) % Decimal(repr(of)) == 0
    except DecimalException:  # too far apart
        return math.fmod(value, of) == 0


_KEYWORDS: dict[str, Callable[..., list[Problem]]] = {
    "type": _Check._type,  # noqa: SLF001 - a table of its methods
    "enum": _Check._enum,  # noqa: SLF001
    "const": _Check._const,  # noqa: SLF001
    "required": _Check._required,  # noqa: SLF001
    "properties": _Check._properties,  # noqa: SLF001
    "additionalProperties": _Check._others,  # noqa: SLF001
    "propertyNames": _Check._names,  # noqa: SLF001
    "minProperties": _bound(lambda value, least: len(value) >= least, _is_object, "at least {} fields"),
    "maxProperties": _bound(lambda value, most: len(value) <= most, _is_object, "at most {} fields"),
    "items": _Check._items,  # noqa: SLF001
    "prefixItems": _Check._prefix,  # noqa: SLF001
    "minItems": _bound(lambda value, least: len(value) >= least, _is_list, "at least {} items"),
    "maxItems": _bound(lambda value, most: len(value) <= most, _is_list, "at most {} items"),
    "uniqueItems": _Check._unique,  # noqa: SLF001
    "minLength": _bound(lambda value, least: len(value) >= least, _is_text, "at least {} characters"),
    "maxLength": _bound(lambda value, most: len(value) <= most, _is_text, "at most {} characters"),
    "pattern": _Check._pattern,  # noqa: SLF001
    "minimum": _bound(lambda value, least: value >= least, _is_number, "at least {}"),
    "maximum": _bound(lambda value, most: value <= most, _is_number, "at most {}"),
    "exclusiveMinimum": _bound(lambda value, least: value > least, _is_number, "more than {}"),
    "exclusiveMaximum": _bound(lambda value, most: value < most, _is_number, "less than {}"),
    "multipleOf": _bound(_is_multiple, _is_number, "a multiple of {}"),
    "allOf": _Check._every,  # noqa: SLF001
    "anyOf": _Check._any,  # noqa: SLF001
    "oneOf": _Check._one,  # noqa: SLF001
    "not": _Check._none,  # noqa: SLF001
    "$ref": _Check._reference,  # noqa: SLF001
}

_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
_PARTS = ("additionalProperties", "propertyNames", "items", "not")
_COUNTS = ("minProperties", "maxProperties", "minItems", "maxItems", "minLength", "maxLength")
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _faults(schema: Any, root: Schema, at: str, depth: int) -> Iterator[tuple[str, str]]:
    """Why a schema cannot be checked, with the place of each reason in it."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield at, f"is an object or a boolean, got {_with_article(_type_of(schema))}"
        return
    if depth > DEPTH_MAX:
        yield at, "is nested too deep"
        return
    for keyword, argument in schema.items():
        place = at + _step(keyword)
        if keyword in _UNCHECKED:
            yield place, f"uses {keyword}, which is not checked: use other keywords, or a type"
        elif (problem := _misused(keyword, argument, root)) is not None:
            yield place, problem
        elif keyword in _MAPS:
            for name, part in argument.items():
                yield from _faults(part, root, place + _step(name), depth + 1)
        elif keyword in _LISTS:
            for number, part in enumerate(argument):
                yield from _faults(part, root, f"{place}/{number}", depth + 1)
        elif keyword in _PARTS:
            yield from _faults(argument, root, place, depth + 1)


def _misused(keyword: str, argument: Any, root: Schema) -> str | None:
    """What is wrong with the argument of a keyword, beside the schemas in it."""
    wanted = ""
    if keyword == "type":
        names = [argument] if isinstance(argument, str) else argument
        known = isinstance(names, list) and names and all(isinstance(name, str) and name in _TYPES for name in names)
        wanted = "" if known else f"is one or more of {', '.join(_TYPES)}"
    elif keyword == "pattern":
        wanted = _pattern_fault(argument)
    elif keyword == "$ref":
        found = isinstance(argument, str) and _referred(root, argument) is not None
        wanted = "" if found else "refers to a part of the same schema, such as #/$defs/Name"
    elif keyword == "required":
        wanted = "" if isinstance(argument, list) and all(map(_is_text, argument)) else "is a list of names"
    elif keyword in _MAPS:
        wanted = "" if isinstance(argument, dict) else "is an object of schemas"
    elif keyword in _LISTS or keyword == "enum":
        wanted = "" if isinstance(argument, list) and argument else "is a list, and not empty"
    elif keyword in _COUNTS:
        fits = isinstance(argument, int) and not isinstance(argument, bool) and argument >= 0
        wanted = "" if fits else "is a whole number from 0"
    elif keyword in _LIMITS:
        wanted = "" if _is_number(argument) else "is a number"
    elif keyword == "multipleOf":
        wanted = "" if _is_number(argument) and argument > 0 else "is a number above 0"
    elif keyword == "uniqueItems":
        wanted = "" if isinstance(argument, bool) else "is true or false"
    return wanted or None


def _pattern_fault(pattern: Any) -> str:
    if not isinstance(pattern, str):
        return "is text"
    try:
        models.pattern(pattern)
    except ImportError as error:
        raise MissingExtra(
            f"the pattern {pattern!r:.100} in a signal's schema is checked in linear time by pydantic: "
            "install Offramp's extra 'pydantic', or use enum or maxLength"
        ) from error
    except ValueError:
        return "is no regular expression without look-around and back-references, which take more than linear time"
    return ""


def _referred(root: Schema, reference: str) -> Schema | None:
    """The part of the schema that a reference names; None if there is none."""
    if not reference.startswith("#") or (reference != "#" and not reference.startswith("#/")):
        return None
    node: Any = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isascii() and name.isdigit() and len(name) <= 4 and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict) and name in node:
            node = node[name]
        else:
            return None
    return cast("Schema", node) if isinstance(node, (dict, bool)) else None


def _type_of(value: Any) -> str:
    if isinstance(value, float):
        return "number"
    return next((name for name, fits in _TYPES.items() if fits(value)), type(value).__name__)


def _with_article(name: str) -> str:
    if name == "null":
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _step(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_LENGTH_MAX else text[: MESSAGE_LENGTH_MAX - 1] + "…"


def summary(problems: Sequence[Problem]) -> str:
    """The problems as one line."""
    return "; ".join(f"{pointer or 'the value'}: {message}" for pointer, message in problems)
