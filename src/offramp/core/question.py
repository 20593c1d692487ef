"""The question of one call of `offramp.signal`, and whether a signal answers it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from offramp.core.codec import encode, json_schema, validation_error
from offramp.core.fitting import Problem, Schema, problems_of, require_checkable, summary
from offramp.core.names import require_name
from offramp.core.parameters import decoder
from offramp.core.waits import ASK_BYTES_MAX, SCHEMA_BYTES_MAX
from offramp.errors import EncodingError, TooLarge

TYPES_MAX = 256
"""Types whose schema and decoder are kept."""


class Question:
    """One call of `offramp.signal`.

    Args:
        name: of the signal.
        ask: any JSON value, for the one that answers.
        schema: a type, or a JSON Schema as a dict; None for any value.

    Raises:
        DeclarationError: the name or the schema cannot be used.
        EncodingError: `ask` is not JSON.
        TooLarge: either has more bytes than it may.
        MissingExtra: the schema has a pattern, and pydantic is not installed.
    """

    __slots__ = ("_checked", "_decode", "ask", "name", "schema")

    def __init__(self, name: str, ask: Any = None, schema: Any = None) -> None:
        self.name = require_name("signal", name)
        self.ask = _bounded(encode(ask, f"ask= of signal {name!r}"), ASK_BYTES_MAX, f"ask= of signal {name!r}")
        self.schema = b"null"
        self._decode: Callable[[bytes], Any] = msgspec.json.decode
        self._checked: Schema | None = None
        if schema is None:
            return
        what = f"schema= of signal {name!r}"
        if isinstance(schema, dict):
            self.schema = _bounded(encode(schema, what), SCHEMA_BYTES_MAX, what)
            self._checked = msgspec.json.decode(self.schema)
            require_checkable(self._checked, what)
        else:
            self._checked, self.schema, self._decode = _of_type(schema, what)

    def problems(self, value: bytes) -> list[Problem]:
        """Why this value is no answer; empty if it is one."""
        if self._checked is None:
            return []
        found = problems_of(self._checked, msgspec.json.decode(value))
        if not found:
            try:
                self._decode(value)
            except msgspec.ValidationError as error:
                found = validation_error(error, "").errors
        return found

    def read(self, value: bytes) -> Any:
        """The value, of the type that was asked for.

        Raises:
            EncodingError: it was recorded for another type.
        """
        try:
            return self._decode(value)
        except msgspec.ValidationError as error:
            raise EncodingError(f"the recorded value of signal {self.name!r} does not fit schema=: {error}") from error


def misfit(name: str, problems: list[Problem]) -> str:
    """The sentence that a refused signal is answered with."""
    return f"the value does not fit what the run asks for with signal {name!r}: {summary(problems)}"


def _of_type(wanted: Any, what: str) -> tuple[Schema, bytes, Callable[[bytes], Any]]:
    try:
        return _read_as(wanted, what)
    except TypeError:  # unhashable
        return _read_as.__wrapped__(wanted, what)


@functools.lru_cache(TYPES_MAX)
def _read_as(wanted: Any, what: str) -> tuple[Schema, bytes, Callable[[bytes], Any]]:
    decode = decoder(wanted, what)
    schema = _inlined(json_schema(wanted, what))
    return schema, _bounded(msgspec.json.encode(schema), SCHEMA_BYTES_MAX, f"the JSON Schema of {what}"), decode


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the one definition that it refers to in its place, if nothing else refers to that."""
    reference = schema.get("$ref", "")
    name, definitions = reference.removeprefix("#/$defs/"), dict(schema.get("$defs", {}))
    if name not in definitions or msgspec.json.encode(schema).count(msgspec.json.encode(reference)) > 1:
        return schema
    root: dict[str, Any] = definitions.pop(name)
    return root | {"$defs": definitions} if definitions else root


def _bounded(encoded: bytes, bytes_max: int, what: str) -> bytes:
    if len(encoded) > bytes_max:
        raise TooLarge(
            f"{what} has {len(encoded)} bytes as JSON, at most {bytes_max}: say where to find the rest, for example "
            "by a URL"
        )
    return encoded
