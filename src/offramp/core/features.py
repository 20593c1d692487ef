"""What runs are compared by: the sizes, kinds and values in their input, the user's own figures, and their session.

A feature is a short string, `kind:field:value`, that counts as the key of a cell. It holds no text of an input and no
key of a free-form object, but their digests. In words it names the field alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
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
ENTRY = ".#"
"""Between the name of a free-form object and the digest of one of its keys; no name has it."""
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
    declared: Collection[str] = (),
) -> Features:
    """What a run is compared by: at most `FEATURES_MAX`, the most telling kinds first.

    Args:
        input: the run's input.
        own: what the pipeline's own function says of it.
        session: None for a run without one.
        tenant: the owner of the run: its texts, and keys that are not declared, are compared with those of its own runs
            alone, and kept as digests; None compares, and keeps, them as they are.
        declared: the declared fields of objects in the input, as `declared_in` gives them.
    """
    found: list[str] = []
    if session is not None:
        found += _of_session(session)
    for name, figure in islice((own or {}).items(), OWN_MAX):
        found += _of_value(_safe(f"own.{name}", NAME_CHARS), figure)
    for name, key, value in sorted(islice(_flat(input), FIELDS_READ), key=_rank):
        if len(found) >= FEATURES_MAX:
            break
        found += _of_value(_named(name, key, tenant, declared), value)
    kept = found[:FEATURES_MAX]
    return tuple(kept if tenant is None else [_hidden(feature, tenant) for feature in kept])


def _hidden(feature: str, tenant: str) -> str:
    """A value as the digest by which it is counted."""
    if feature[0] != "c":
        return feature
    name, _, value = feature.rpartition(":")
    return f"{name}:{_digest(tenant, value)}"


def _digest(tenant: str, text: str) -> str:
    return blake2b(f"{tenant}\0{text}".encode("utf-8", "replace"), digest_size=DIGEST_BYTES).hexdigest()


def declared_in(schema: Mapping[str, Any]) -> frozenset[str]:
    """The declared fields of objects in an input, as `object.field`, from its JSON Schema."""
    found: set[str] = set()
    for name, given in schema.get("properties", {}).items():
        open_, seen = [given], set[str]()
        while open_:
            part = open_.pop()
            found |= {f"{name}.{key}" for key in part.get("properties", {})}
            open_ += [*part.get("anyOf", ()), *part.get("oneOf", ()), *part.get("allOf", ())]
            ref = part.get("$ref", "").rpartition("/")[2]
            if ref and ref not in seen:
                seen.add(ref)
                open_.append(schema.get("$defs", {}).get(ref, {}))
    return frozenset(found)


def _named(name: str, key: str | None, tenant: str | None, declared: Collection[str]) -> str:
    """The name of a field, or of one of an object in it."""
    if key is None:
        return _safe(name, NAME_CHARS)
    whole = f"{name}.{key}"
    if tenant is None or whole in declared:
        return _safe(whole, NAME_CHARS)
    return f"{_safe(name, NAME_CHARS)}{ENTRY}{_digest(tenant, key)}"


def _of_session(session: Session) -> Iterator[str]:
    yield f"n:session turns:{_magnitude(session.turns)}"
    last_s = [seconds for seconds in session.last_s[:LAST_RUNS] if seconds > 0 and math.isfinite(seconds)]
    if last_s:
        yield f"d:the last runs of the session:{_magnitude(math.exp(sum(map(math.log, last_s)) / len(last_s)))}"


def _flat(input: Mapping[str, Any]) -> Iterator[tuple[str, str | None, object]]:
    """The fields, and those of fields that are objects, by their keys."""
    for name, value in input.items():
        if isinstance(value, Mapping):
            yield from ((name, key, one) for key, one in value.items())
        else:
            yield name, None, value


def _rank(field: tuple[str, str | None, object]) -> int:
    """Values say most, then numbers, then sizes."""
    value = field[2]
    if isinstance(value, bool) or (isinstance(value, str) and _is_category(value)):
        return 0
    return 1 if isinstance(value, int | float) else 2


def _of_value(name: str, value: object) -> Iterator[str]:
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
    """The feature in words, without a text of the input: "16 to 32 thousand input tokens", "with the same `model`"."""
    kind, rest = feature[0], feature[2:]
    name, _, value = rest.rpartition(":")
    name, is_entry, _ = name.removeprefix("own.").partition(ENTRY)
    quoted = f"entry of `{name}`" if is_entry else f"`{name}`"
    if value == "*":
        return f"with a less common {quoted}"
    if kind == "c":
        return f"with the same {quoted}"
    shown = f"an {quoted}" if is_entry else name.replace("_", " ")
    if kind == "f":
        sentences, lines = (_form(digit, word) for digit, word in zip(value[1:], ("sentence", "line"), strict=True))
        return f"{shown} with {'a' if value[0] == 'q' else 'no'} question, {sentences}, {lines}"
    extent = _extent(value)
    if kind == "t":
        return f"{shown} of {extent} characters"
    if kind == "d":
        return f"{shown} took {extent} s on average"
    if is_entry:
        items = "" if kind == "n" else " item" if extent == "1" else " items"
        return f"{extent}{items} in {shown}"
    return f"{extent} {shown}"


def _form(digit: str, word: str) -> str:
    if digit == "1":
        return f"1 {word}"
    return f"8 or more {word}s" if digit == "4" else f"{_extent(f'2^{digit}')} {word}s"


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
