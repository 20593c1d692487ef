"""What runs are compared by: the sizes, kinds and values in their input, the user's own figures, and their session.

A feature is a short string, `kind:field:value`, so that it is stored with a run and counts as the key of a cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple

FEATURES_MAX = 16
"""Features of one run; further fields of its input are not compared."""
FIELDS_READ = 64
"""Fields of an input from which its features are taken, those of objects in it among them."""
OWN_MAX = 8
"""Features that a user's function may return; further ones are left out."""
TEXT_READ = 4_096
"""Characters of a text whose words and lines are counted; its length counts in full."""
CATEGORY_CHARS = 40
"""A text without spaces and up to this long is compared as a value, not by its size."""
NAME_CHARS = 40
DIGEST_BYTES = 6
SHOWN = "="
"""Begins the part of a feature that only sentences show."""
DOUBLINGS_MAX = 100
"""Larger numbers, and their inverses, count as this many doublings."""
LAST_RUNS = 3
"""The latest runs of a session whose usual duration, their geometric mean, is one feature."""
_UNSAFE = re.compile(r"[^\w.@/+-]+")

Features = tuple[str, ...]


class Session(NamedTuple):
    """What is known of a run's session when the run is accepted.

    Args:
        turns: runs of the session that were accepted before.
        last_s: seconds that its last runs took, the latest first.
    """

    turns: int
    last_s: tuple[float, ...] = ()


def features(
    input: Mapping[str, Any],
    own: Mapping[str, float | str] | None = None,
    session: Session | None = None,
    tenant: str | None = None,
) -> Features:
    """What a run is compared by: at most `FEATURES_MAX`, the most telling kinds first.

    Args:
        input: the run's input.
        own: what the pipeline's own function says of it.
        session: None for a run without one.
        tenant: the owner of the run: values are compared with those of its own runs alone, and kept as digests; None
            compares, and keeps, them as they are.
    """
    found: list[str] = []
    if session is not None:
        found += _of_session(session)
    for name, figure in islice((own or {}).items(), OWN_MAX):
        found += _of_value(f"own.{name}", figure)
    for name, value in sorted(islice(_flat(input), FIELDS_READ), key=_rank):
        if len(found) >= FEATURES_MAX:
            break
        found += _of_value(name, value)
    kept = found[:FEATURES_MAX]
    return tuple(kept if tenant is None else [_hidden(feature, tenant) for feature in kept])


def _hidden(feature: str, tenant: str) -> str:
    """A value as the digest by which it is counted, and itself for sentences."""
    if feature[0] != "c":
        return feature
    name, _, value = feature.rpartition(":")
    digest = blake2b(f"{tenant}\0{value}".encode(), digest_size=DIGEST_BYTES).hexdigest()
    return f"{name}:{digest}{SHOWN}{value}"


def counted(feature: str) -> str:
    """The feature as it is counted: without what only sentences show."""
    return feature.partition(SHOWN)[0]


def _of_session(session: Session) -> Iterator[str]:
    yield f"n:session turns:{_magnitude(session.turns)}"
    last_s = [seconds for seconds in session.last_s[:LAST_RUNS] if seconds > 0 and math.isfinite(seconds)]
    if last_s:
        yield f"d:the last runs of the session:{_magnitude(math.exp(sum(map(math.log, last_s)) / len(last_s)))}"


def _flat(input: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The fields, and those of fields that are objects."""
    for name, value in input.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", one) for inner, one in value.items())
        else:
            yield name, value


def _rank(field: tuple[str, object]) -> int:
    """Values say most, then numbers, then sizes."""
    value = field[1]
    if isinstance(value, bool) or (isinstance(value, str) and _is_category(value)):
        return 0
    return 1 if isinstance(value, int | float) else 2


def _of_value(name: str, value: object) -> Iterator[str]:
    name = _safe(name, NAME_CHARS)
    if value is None:
        yield f"c:{name}:none"
    elif isinstance(value, bool):
        yield f"c:{name}:{str(value).lower()}"
    elif isinstance(value, int | float):
        yield f"n:{name}:{_magnitude(value)}"
    elif isinstance(value, str):
        yield from [f"c:{name}:{_safe(value, CATEGORY_CHARS)}"] if _is_category(value) else _of_text(name, value)
    elif isinstance(value, list | tuple | Mapping):
        yield f"l:{name}:{_magnitude(len(value))}"


def _is_category(value: str) -> bool:
    return len(value) <= CATEGORY_CHARS and value.split() == [value]


def _of_text(name: str, text: str) -> Iterator[str]:
    """Its length, and its form: a question, several lines, several sentences."""
    yield f"t:{name}:{_magnitude(len(text))}"
    head = text[:TEXT_READ]
    sentences, lines = head.count(". ") + head.count("? ") + 1, head.count("\n") + 1
    yield f"f:{name}:{'q' if '?' in head else 's'}{min(sentences.bit_length(), 4)}{min(lines.bit_length(), 4)}"


def _magnitude(value: float) -> str:
    """The doubling that it lies in, by its upper end: "2^3" for 4 to 8."""
    if value == 0:
        return "0"
    if isinstance(value, int):
        number = abs(value).bit_length()
    else:
        number = math.frexp(value)[1] if math.isfinite(value) else DOUBLINGS_MAX
    number = min(max(number, -DOUBLINGS_MAX), DOUBLINGS_MAX)
    return f"{'-' if value < 0 else ''}2^{number}"


def _safe(text: str, most: int) -> str:
    text = text[:most]
    is_safe = text.isascii() and text.isidentifier()  # nearly every name: cheaper to see than to search
    return text if is_safe else _UNSAFE.sub("_", text)


def in_words(feature: str) -> str:
    """The feature in words: "16 to 32 thousand input tokens"."""
    kind, rest = feature[0], feature[2:]
    name, _, value = rest.rpartition(":")
    name = name.removeprefix("own.").replace("_", " ")
    if value == "*":
        return f"{name} with a value that is not counted by itself"
    if kind == "c":
        return f"{name} {value.rpartition(SHOWN)[2]}"
    if kind == "f":
        sentences, lines = (f"{_extent(f'2^{digit}')}{' or more' if digit == '4' else ''}" for digit in value[1:])
        return f"{name} with {'a' if value[0] == 'q' else 'no'} question, {sentences} sentences, {lines} lines"
    extent = _extent(value)
    if kind == "l":
        return f"{extent} {name}"
    if kind == "t":
        return f"{name} of {extent} characters"
    if kind == "d":
        return f"{name} took {extent} s on average"
    return f"{extent} {name}"


def _extent(magnitude: str) -> str:
    """The values of one doubling."""
    sign, _, exponent = magnitude.partition("2^")
    if not exponent:
        return "0"
    number = int(exponent)
    if number == 1:
        return f"{sign}1"
    low, high = math.ldexp(1, number - 1), math.ldexp(1, number)
    for unit, word in ((2**20, " million"), (2**10, " thousand")):
        if low >= unit:
            return f"{sign}{low / unit:g} to {high / unit:g}{word}"
    return f"{sign}{low:g} to {high:g}"
