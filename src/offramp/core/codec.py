"""Values to JSON and back by annotation: msgspec's types, dataclasses, Structs and pydantic models.

Owns the one encoding of arguments, results and inputs; pydantic is recognised by its methods, never imported.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from offramp.errors import DeclarationError, EncodingError, InputError


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
_IMMUTABLE = (str, int, float, bool, type(None))


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
        self.returns = hints.get("return", Any)
        required_first = sorted(fields, key=lambda field: field[2] is not msgspec.NODEFAULT)
        self._input = msgspec.defstruct("Input", required_first, forbid_unknown_fields=True, kw_only=True, rename=None)
        self.input_schema = _schema(self._input, f"the arguments of {what}")
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

    def decode_input(self, encoded: bytes) -> dict[str, Any]:
        """A JSON object as typed keyword arguments.

        Raises:
            InputError: it does not fit; the pointer names the field below `/input`.
        """
        try:
            given = self._decode_input(encoded)
        except msgspec.ValidationError as error:
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

    def decode_result(self, encoded: bytes, live: Any = None) -> Any:
        """The typed result; `live`, the value it was encoded from, serves where a copy could not differ."""
        if type(live) in _IMMUTABLE and live is not None:
            return live
        try:
            return self._decode_result(encoded)
        except msgspec.ValidationError as error:
            raise EncodingError(f"the result of {self.what} does not fit its annotation: {error}") from error


def validation_error(error: msgspec.ValidationError, below: str) -> InputError:
    """msgspec's error as an `InputError` with a JSON pointer (RFC 6901)."""
    message, _, where = str(error).partition(" - at `$")
    pointer = below + "".join(
        "/" + (name or index).replace("~", "~0").replace("/", "~1")
        for name, index in re.findall(r"\.([^.\[`]+)|\[([^\]]*)\]", where)
    )
    return InputError(f"{pointer}: {message}", [(pointer, message)])


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


def _schema(wanted: Any, what: str) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = msgspec.json.schema(wanted, schema_hook=_schema_of)
        msgspec.json.Decoder(wanted, dec_hook=_from_builtin)
    except (TypeError, NotImplementedError) as error:
        raise DeclarationError(
            f"{what} cannot be carried as JSON: {error}. Use builtins, dataclasses, msgspec Structs or pydantic models",
        ) from error
    definitions: dict[str, Any] = {}
    schema = _hoisted(schema, definitions)
    return schema | {"$defs": definitions} if definitions else schema


def _hoisted(node: Any, definitions: dict[str, Any]) -> Any:
    """Move every `$defs` to the root, where `#/$defs/…` looks for it (pydantic nests its own)."""
    if isinstance(node, list):
        return [_hoisted(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    for name, definition in node.get("$defs", {}).items():
        definitions[name] = _hoisted(definition, definitions)
    return {key: _hoisted(value, definitions) for key, value in node.items() if key != "$defs"}
