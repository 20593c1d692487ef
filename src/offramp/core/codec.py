"""Values to JSON and back by annotation: msgspec's types, dataclasses, Structs and pydantic models.

Owns the one encoding of arguments, results and inputs; pydantic is recognised by its methods, never imported.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from offramp.errors import DeclarationError, EncodingError, InputError, TooLarge


def _to_builtin(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    raise NotImplementedError(f"{type(value).__name__} is not JSON-encodable")


def _from_builtin(wanted: type, value: Any) -> Any:
    validate = getattr(wanted, "model_validate", None)
    if validate is None:
        raise NotImplementedError(f"{wanted!r} cannot be made from JSON")
    return validate(value)


def _schema_of(wanted: type) -> dict[str, Any]:
    schema = getattr(wanted, "model_json_schema", None)
    if schema is None:
        raise NotImplementedError(f"{wanted!r} has no JSON Schema")
    made: dict[str, Any] = schema()
    return made


_encode = msgspec.json.Encoder(enc_hook=_to_builtin).encode
_encode_sorted = msgspec.json.Encoder(enc_hook=_to_builtin, order="deterministic").encode


def encode(value: Any, what: str) -> bytes:
    """`value` as one line of JSON; `what` names it in the error.

    Raises:
        EncodingError: it cannot be encoded.
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError, NotImplementedError) as error:
        raise EncodingError(
            f"{what} is not JSON-encodable: {error}. Return builtins, a dataclass, a msgspec Struct or a "
            "pydantic model",
        ) from error


_WRAPPER = "_offramp_input"
"""Name of the type made of a function's parameters; its schema shows the parameters themselves."""


class Signature:
    """The parameters and the result of a pipeline or step, ready to encode and decode.

    Args:
        function: a plain or async function with every parameter annotated.
        what: how errors name it, for example `step 'search'`.

    Raises:
        DeclarationError: a parameter is not annotated, variadic, or of a type that JSON cannot carry.
    """

    def __init__(self, function: Callable[..., Any], what: str) -> None:
        self.what = what
        self._signature = inspect.signature(function)
        hints = _hints(function, what)
        fields: list[tuple[str, Any, Any]] = []
        for parameter in self._signature.parameters.values():
            _require_plain(parameter, hints, what)
            fields.append((parameter.name, hints[parameter.name], _default(parameter)))
        self.names = [name for name, _, _ in fields]
        self._positional = sum(p.kind is not p.KEYWORD_ONLY for p in self._signature.parameters.values())
        self.returns = hints.get("return", Any)
        # Values that JSON gives back as they are, for this annotation: they need not be decoded to be safe.
        self._same = (str, bool, int) if self.returns is Any else tuple({self.returns} & {str, bool, int})
        required_first = sorted(fields, key=lambda field: field[2] is not msgspec.NODEFAULT)
        self._input = msgspec.defstruct(_WRAPPER, required_first, forbid_unknown_fields=True, kw_only=True, rename=None)
        self.input_schema = _schema(self._input, f"the arguments of {what}")
        self.runs_user_code = any(_has_code(hints[name]) for name in self.names)
        """Whether decoding an input may call validators or `__post_init__` of the user's types."""
        self.result_schema = _schema(self.returns, f"the result of {what}")
        self._call = msgspec.defstruct("Call", [(n, t) for n, t, _ in fields], array_like=True)
        self._decode_input = msgspec.json.Decoder(self._input, dec_hook=_from_builtin).decode
        self._decode_call = msgspec.json.Decoder(self._call, dec_hook=_from_builtin).decode
        self._decode_result = msgspec.json.Decoder(self.returns, dec_hook=_from_builtin).decode

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], bytes]:
        """All arguments in order, defaults applied: as they are, and as a JSON list with sorted object keys.

        Raises:
            TypeError: the arguments do not fit the function, as a plain call would say.
            EncodingError: an argument cannot be encoded.
        """
        if kwargs or len(args) != len(self.names):
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args = tuple(bound.arguments[name] for name in self.names)
        try:
            return args, _encode_sorted(args)
        except (TypeError, ValueError, RecursionError, NotImplementedError) as error:
            raise EncodingError(
                f"an argument of {self.what} is not JSON-encodable: {error}. A step's arguments are part of its "
                "journal key: pass data, and take clients and connections from module level",
            ) from error

    def decode_call(self, encoded: bytes) -> list[Any]:
        """What `encode_call` wrote, as typed positional arguments."""
        call = self._decode_call(encoded)
        return [getattr(call, name) for name in self.names]

    def call(self, function: Callable[..., Any], values: Sequence[Any]) -> Any:
        """Call with every argument in order, those that are keyword-only by name."""
        if self._positional == len(self.names):
            return function(*values)
        named = zip(self.names[self._positional :], values[self._positional :], strict=True)
        return function(*values[: self._positional], **dict(named))

    def decode_input(self, encoded: bytes) -> dict[str, Any]:
        """A JSON object as typed keyword arguments.

        Raises:
            InputError: it does not fit; the pointer names the field below `/input`.
        """
        try:
            given = self._decode_input(encoded)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise validation_error(error, "/input") from error
        return {name: getattr(given, name) for name in self.names}

    def encode_input(self, values: Mapping[str, Any]) -> bytes:
        """Keyword arguments as the JSON object that `decode_input` takes; checked by decoding it again."""
        encoded = encode(dict(values), f"the input of {self.what}")
        self.decode_input(encoded)
        return encoded

    def encode_result(self, value: Any) -> bytes:
        """A returned value as JSON."""
        return encode(value, f"the result of {self.what}")

    def bounded(self, encoded: bytes, bytes_max: int) -> bytes:
        """An encoded result, if it is not too large.

        Raises:
            TooLarge: it is.
        """
        if len(encoded) > bytes_max:
            raise TooLarge(
                f"the result of {self.what} has {len(encoded)} bytes as JSON, at most {bytes_max} "
                "(OFFRAMP_MAX_RESULT_BYTES): keep the data elsewhere and return where it is; on Temporal, more than "
                "256 KiB need --objects (OFFRAMP_OBJECTS)"
            )
        return encoded

    def decode_result(self, encoded: bytes, live: Any = None) -> Any:
        """The typed result; `live`, the value it was encoded from, serves where a replay's copy could not differ."""
        if type(live) in self._same:
            return live
        try:
            return self._decode_result(encoded)
        except msgspec.ValidationError as error:
            raise EncodingError(f"the result of {self.what} does not fit its annotation: {error}") from error


def validation_error(error: Exception, below: str) -> InputError:
    """msgspec's error as an `InputError` with JSON pointers (RFC 6901); pydantic's own are below it."""
    message, _, where = str(error).rpartition(" - at `$") if " - at `$" in str(error) else (str(error), "", "")
    places: list[str] = []
    for name, index in re.findall(r"\.([^.\[`]+)|\[([^\]]*)(?:\]|\Z)", where):
        if index == "...":  # msgspec does not say which value of an object
            break
        places.append(name or index)
    problems = [(below + _pointer(places), message)]
    details = getattr(error.__cause__, "errors", None)
    if callable(details):
        problems = [(below + _pointer([*places, *each["loc"]]), str(each["msg"])) for each in details()]
    return InputError("; ".join(f"{pointer}: {text}" for pointer, text in problems), problems)


def _pointer(places: Sequence[object]) -> str:
    return "".join("/" + str(place).replace("~", "~0").replace("/", "~1") for place in places)


def _hints(function: Callable[..., Any], what: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{what}: an annotation cannot be resolved ({error}). Define or import the type at module level, "
            "above the function",
        ) from error


def _require_plain(parameter: inspect.Parameter, hints: dict[str, Any], what: str) -> None:
    if parameter.kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise DeclarationError(f"{what}: parameter {parameter} is variadic; name each argument")
    if parameter.name not in hints:
        hint = " (steps and pipelines are functions, not methods)" if parameter.name in {"self", "cls"} else ""
        raise DeclarationError(f"{what}: annotate parameter {parameter.name!r} with its type{hint}")


def _default(parameter: inspect.Parameter) -> Any:
    if parameter.default is inspect.Parameter.empty:
        return msgspec.NODEFAULT
    if isinstance(parameter.default, (str, int, float, bool, type(None))):
        return parameter.default
    return msgspec.field(default_factory=lambda: parameter.default)


def _has_code(annotation: Any) -> bool:
    """Whether the annotation mentions any class that is not a builtin or of the standard library's simple types."""
    parts = typing.get_args(annotation)
    own = isinstance(annotation, type) and annotation.__module__ not in {"builtins", "datetime", "decimal", "uuid"}
    return own or any(_has_code(part) for part in parts)


def _schema(wanted: Any, what: str) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = msgspec.json.schema(wanted, schema_hook=_schema_of)
        msgspec.json.Decoder(wanted, dec_hook=_from_builtin)
    except (TypeError, NotImplementedError) as error:
        raise DeclarationError(
            f"{what} cannot be carried as JSON: {error}. Use builtins, dataclasses, msgspec Structs or pydantic models",
        ) from error
    hoist = _Hoist()
    schema = hoist.hoisted(schema, {})
    if schema.get("$ref") == f"#/$defs/{_WRAPPER}":
        schema = hoist.definitions.pop(_WRAPPER) | {"title": "Input"}
    return schema | {"$defs": hoist.definitions} if hoist.definitions else schema


class _Hoist:
    """Moves every `$defs` to the root, where `#/$defs/…` looks for it (pydantic nests its own)."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._originals: dict[str, Any] = {}

    def hoisted(self, node: Any, names: dict[str, str]) -> Any:
        """The node without its definitions; `names` says what those in scope are called at the root."""
        if isinstance(node, list):
            return [self.hoisted(item, names) for item in node]
        if not isinstance(node, dict):
            return node
        own = node.get("$defs", {})
        if own:
            names = names | self._names(own)
            self._originals |= {names[name]: definition for name, definition in own.items()}
            for name, definition in own.items():
                self.definitions[names[name]] = self.hoisted(definition, names)
        made = {key: self.hoisted(value, names) for key, value in node.items() if key != "$defs"}
        reference = node.get("$ref")
        if isinstance(reference, str):
            prefix, _, name = reference.rpartition("/")
            made["$ref"] = f"{prefix}/{names.get(name, name)}"
        return made

    def _names(self, own: dict[str, Any]) -> dict[str, str]:
        """Names at the root for a set of definitions: new ones if another set uses one of them for something else."""
        number = 1
        while True:
            names = {name: name if number == 1 else f"{name}{number}" for name in own}
            if all(self._originals.get(names[name], definition) == definition for name, definition in own.items()):
                return names
            number += 1
