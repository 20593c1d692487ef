"""Values to JSON and back by annotation: msgspec's types, dataclasses, Structs, paths, pydantic models and unions.

Owns the one encoding of arguments, results and inputs, and the part of a call's arguments that makes its journal key.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from offramp.core import shapes
from offramp.core.encoding import ARGUMENT_CURE, CURE, FAILURES, SURE, encode_planned, refused, written
from offramp.core.features import declared_in
from offramp.core.parameters import (
    Parameter,
    hints_of,
    is_fixed,
    key_of,
    parameter_of,
    readable,
    signature_of,
    stored_copy,
    stored_default,
)
from offramp.core.planner import Planner
from offramp.core.plans import PLAIN
from offramp.core.schemas import closed
from offramp.core.written import Misfit, require_finite
from offramp.errors import DeclarationError, EncodingError, InputError, TooLarge

_NUMBERS = re.compile(rb"nan|inf", re.IGNORECASE)
"""What text may become a number that is none."""


def encode(value: Any, what: str) -> bytes:
    """`value` as one line of JSON; `what` names it in the error.

    Raises:
        EncodingError: it cannot be encoded.
    """
    try:
        return encode_planned(value, PLAIN, "$")
    except (*FAILURES, DeclarationError) as error:
        raise refused(what, error, CURE) from error


class Arguments(msgspec.Struct, gc=False):
    """The arguments of a call.

    Attributes:
        values: in the order of the parameters, defaults applied, not copied.
        encoded: all of them as a JSON object.
        key: the same without arguments equal to their defaults, for the digest in the journal key.
        signature: what was called.
    """

    values: tuple[Any, ...]
    encoded: bytes
    key: bytes
    signature: Signature

    def earlier(self) -> Iterable[bytes]:
        """The forms in which other code may have recorded the key."""
        return self.signature.earlier_keys(self.values, self.encoded)


_WRAPPER = "_offramp_input"
"""Name of the type made from a function's parameters; its schema shows the parameters themselves."""


class Signature:
    """The parameters and the result of a pipeline or step, ready to encode and decode.

    Args:
        function: a plain or async function with every parameter annotated, or a `functools.partial` of one; what the
            partial binds by name is no parameter.
        what: how errors name it, for example `step 'search'`.

    Raises:
        DeclarationError: a parameter is not annotated, variadic, or of a type that JSON cannot carry without loss.
    """

    def __init__(self, function: Callable[..., Any], what: str) -> None:
        self.what = what
        self._signature = signature_of(function)
        hints = hints_of(function, what)
        planner = Planner(what)
        parameters = list(self._signature.parameters.values())
        self._parameters = [parameter_of(each, hints, planner, what) for each in parameters]
        self.names = [each.name for each in self._parameters]
        self._positional = sum(p.kind is not p.KEYWORD_ONLY for p in parameters)
        self._by_name = sorted(range(len(parameters)), key=lambda place: self.names[place])
        self._in_order = self.names == sorted(self.names)
        self._plain = all(each.plan is PLAIN for each in self._parameters)
        self._row = msgspec.defstruct("Arguments", sorted(self.names), gc=False)
        self._defaults = {each.name: each.default for each in self._parameters if each.default_key is not None}
        self._mutable = [each for each in self._parameters if not is_fixed(each)]
        self._uncopied = tuple(each.same for each in self._parameters)
        self.returns = hints.get("return", Any)
        self._result_plan = planner.plan(self.returns, "the result")
        # Values that JSON gives back as they are, for this annotation: they need not be decoded to be safe.
        self._same = (str, bool, int) if self.returns is Any else tuple({self.returns} & {str, bool, int})
        self.runs_user_code = any(_has_code(each.annotation) for each in self._parameters)
        """Whether decoding an input may call validators or `__post_init__` of the user's types."""
        self._input, self.input_schema = self._inputs()
        self._decode_input = msgspec.json.Decoder(self._input, dec_hook=shapes.read).decode
        result = f"the result of {what}"
        self.result_schema = json_schema(self.returns, result)
        self._decode_result = shapes.decoder(self.returns)

    def difference(self, other: Signature) -> str | None:
        """Why a function of this signature cannot be called instead of one of the other; None if it can."""
        if self.names != other.names:
            return f"it takes ({', '.join(self.names)}), not ({', '.join(other.names)})"
        for own, its in zip(self._parameters, other._parameters, strict=True):
            if own.annotation != its.annotation:
                return f"its parameter {own.name!r} is {own.annotation!r}, not {its.annotation!r}"
        return None if self.returns == other.returns else f"it returns {self.returns!r}, not {other.returns!r}"

    @functools.cached_property
    def declared(self) -> frozenset[str]:
        """The declared fields of objects in an input, as `parameter.field`."""
        return declared_in(self.input_schema)

    def _inputs(self) -> tuple[Any, dict[str, Any]]:
        what = f"the arguments of {self.what}"
        fields: list[tuple[str, Any, Any]] = []
        for each in self._parameters:
            shape = readable(each.annotation, f"parameter {each.name!r} of {self.what}")
            fields.append((each.name, shape, stored_default(each)))
        made = msgspec.defstruct(_WRAPPER, fields, forbid_unknown_fields=True, kw_only=True, rename=None)
        return made, json_schema(made, what)

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """All arguments of a call, defaults applied.

        Raises:
            TypeError: the arguments do not fit the function, as a plain call would say.
            EncodingError: an argument cannot be encoded, or would not come back as it is.
        """
        if kwargs or len(args) != len(self.names):
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args = tuple(bound.arguments[name] for name in self.names)
        if self._plain and SURE.issuperset(map(type, args)):
            if self._in_order and not self._defaults:
                try:
                    encoded = written(self._row(*args))
                except FAILURES as error:  # text that is no Unicode
                    raise refused(f"an argument of {self.what}", error, ARGUMENT_CURE) from error
                return Arguments(args, encoded, encoded, self)
            return self._plain_call(args)
        whole, asked = [], []
        for place in self._by_name:
            parameter, value = self._parameters[place], args[place]
            encoded, key = self._argument(parameter, value)
            whole.append(parameter.label + encoded)
            if key != parameter.default_key:
                asked.append(parameter.label + key)
        encoded = b"{" + b",".join(whole) + b"}"
        return Arguments(args, encoded, b"{" + b",".join(asked) + b"}", self)

    def _plain_call(self, args: tuple[Any, ...]) -> Arguments:
        """The same for text, integers and booleans, the arguments of most steps."""
        row = self._row(*(args if self._in_order else [args[place] for place in self._by_name]))
        try:
            encoded = key = written(row)
            if self._defaults:
                whole = msgspec.structs.asdict(row)
                key = written({name: value for name, value in whole.items() if not self._is_default(name, value)})
        except FAILURES as error:  # text that is no Unicode
            raise refused(f"an argument of {self.what}", error, ARGUMENT_CURE) from error
        return Arguments(args, encoded, key, self)

    def _is_default(self, name: str, value: Any) -> bool:
        default = self._defaults.get(name, self)
        return type(default) is type(value) and bool(default == value)

    def _argument(self, parameter: Parameter, value: Any) -> tuple[bytes, bytes]:
        """A value as JSON, and what of it is in the key."""
        plan = parameter.plan
        try:
            encoded = encode_planned(value, plan, f"$.{parameter.name}")
            if plan.exact and value is not None:
                with contextlib.suppress(msgspec.ValidationError):  # the step fails with that
                    plan.same(value, parameter.decode(encoded), f"$.{parameter.name}")
            return encoded, key_of(parameter, value, encoded)
        except (*FAILURES, DeclarationError) as error:
            raise refused(f"an argument of {self.what}", error, ARGUMENT_CURE, f"{parameter.name!r}: ") from error

    def earlier_keys(self, args: Sequence[Any], encoded: bytes) -> Iterable[bytes]:
        """The forms that other code may have made the key of a call from.

        All arguments by name: a default has become what the call says. All by place, with and without defaults at the
        end: versions of Offramp before keys left defaults out.
        """
        yield encoded
        given = list(args)
        while True:
            try:
                yield _encode_as_before(given)
            except FAILURES:  # it could not be passed then
                return
            last = self._parameters[len(given) - 1] if given else None
            if last is None or last.default_key is None or key_of(last, given[-1], b"") != last.default_key:
                return
            given.pop()

    def copies(self, values: tuple[Any, ...] | None, encoded: bytes) -> Sequence[Any]:
        """A step's own copy of its arguments: changes to them reach neither the body nor another attempt.

        Args:
            values: as given, where the call was made in this process.
            encoded: the same as JSON.

        Raises:
            EncodingError: they do not fit the annotations.
        """
        if values is not None and tuple(map(type, values)) == self._uncopied:
            return values
        return self.decode_call(encoded)

    def decode_call(self, encoded: bytes) -> list[Any]:
        """What `encode_call` wrote, as typed positional arguments.

        Raises:
            EncodingError: it does not fit the annotations.
        """
        try:
            if encoded.startswith(b"["):  # by place, as earlier versions wrote it
                by_place = msgspec.json.decode(encoded, type=list[msgspec.Raw])
                if len(by_place) > len(self.names):
                    raise msgspec.ValidationError(f"{len(by_place)} arguments for {len(self.names)} parameters")
                encoded = msgspec.json.encode(dict(zip(self.names, by_place, strict=False)))
            given = self._decode_input(encoded)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EncodingError(
                f"an argument of {self.what} does not fit its annotation: {error}. It was called by other code, or "
                "with another type: pass what the annotation says"
            ) from error
        return [getattr(given, name) for name in self.names]

    def with_defaults(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments of a plain call, with a copy of each default that is left out and could be changed."""
        if not self._mutable:
            return kwargs
        given = {*self.names[: len(args)], *kwargs}
        return kwargs | {each.name: stored_copy(each) for each in self._mutable if each.name not in given}

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
        made = {name: getattr(given, name) for name in self.names}
        if _NUMBERS.search(encoded):
            _require_finite_input(made)
        return made

    def encode_input(self, values: Mapping[str, Any]) -> bytes:
        """Keyword arguments as the JSON object that `decode_input` takes; checked by decoding it again."""
        what = f"the input of {self.what}"
        known = {each.name: each for each in self._parameters}
        pieces = []
        for name, value in values.items():
            parameter = known.get(name)
            try:
                encoded = encode_planned(value, PLAIN if parameter is None else parameter.plan, f"$.{name}")
                if parameter is not None and parameter.plan.exact and value is not None:
                    parameter.plan.same(value, parameter.decode(encoded), f"$.{name}")
            except msgspec.ValidationError:  # said with its pointer below
                pass
            except (*FAILURES, DeclarationError) as error:
                raise refused(what, error, CURE) from error
            pieces.append(written(name) + b":" + encoded)
        whole = b"{" + b",".join(pieces) + b"}"
        self.decode_input(whole)
        return whole

    def encode_result(self, value: Any) -> bytes:
        """A returned value as JSON.

        Raises:
            EncodingError: it cannot be encoded, or would not come back as it is.
        """
        plan = self._result_plan
        try:
            if type(value) in SURE and not plan.exact:  # most results, without a further call
                return written(value)
            encoded = encode_planned(value, plan, "$")
            if plan.exact and value is not None:
                plan.same(value, self._decode_result(encoded), "$")
        except msgspec.ValidationError as error:
            raise self._misfit(error) from error
        except (*FAILURES, DeclarationError) as error:
            if inspect.iscoroutine(value):
                value.close()  # nothing else has it
            raise refused(f"the result of {self.what}", error, CURE) from error
        return encoded

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
            raise self._misfit(error) from error

    def _misfit(self, error: Exception) -> EncodingError:
        return EncodingError(f"the result of {self.what} does not fit its annotation: {error}")


def _as_before(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    raise NotImplementedError(f"{type(value).__name__} is not JSON-encodable")


_encode_as_before = msgspec.json.Encoder(enc_hook=_as_before, order="deterministic").encode


def _require_finite_input(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        try:
            require_finite(value, f"$.{name}")
        except Misfit as error:
            raise InputError(f"/input/{name}: {error}", [(f"/input/{name}", str(error))]) from error


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
    return InputError("; ".join(f"{pointer or 'the body'}: {text}" for pointer, text in problems), problems)


def _pointer(places: Sequence[object]) -> str:
    return "".join("/" + str(place).replace("~", "~0").replace("/", "~1") for place in places)


def _has_code(annotation: Any) -> bool:
    """Whether the annotation mentions any class that is not a builtin or of the standard library's simple types."""
    parts = typing.get_args(annotation)
    own = isinstance(annotation, type) and annotation.__module__ not in {"builtins", "datetime", "decimal", "uuid"}
    return own or any(_has_code(part) for part in parts)


def json_schema(wanted: Any, what: str) -> dict[str, Any]:
    """The JSON Schema of the values that are read as this annotation.

    Raises:
        DeclarationError: nothing reads it.
    """
    wanted = readable(wanted, what)
    try:
        schema: dict[str, Any] = msgspec.json.schema(wanted, schema_hook=shapes.schema_of)
    except shapes.UNREADABLE as error:
        raise shapes.refusal(wanted, what, error) from error
    return closed(schema, _WRAPPER)
