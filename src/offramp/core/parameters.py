"""The parameters of a step or pipeline: their types, plans and defaults, as its declaration says."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from offramp.core import shapes
from offramp.core.encoding import ARGUMENT_CURE, FAILURES, encode_planned, refused, written
from offramp.core.planner import Planner
from offramp.core.plans import Plan
from offramp.core.written import key_bytes
from offramp.errors import DeclarationError


class Parameter(NamedTuple):
    name: str
    annotation: Any
    plan: Plan
    default: Any
    default_encoded: bytes | None
    default_key: bytes | None
    decode: Callable[[bytes], Any]
    label: bytes
    same: type | None
    """The type whose values need not be copied."""
    ordered: bool
    """Whether its JSON has one order only: no set or dict is in it."""


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The parameters that a caller may pass: not those that a partial binds by name."""
    found = inspect.signature(function)
    bound: set[str] = set()
    while isinstance(function, functools.partial):
        bound |= set(function.keywords)
        function = function.func
    kept = [parameter for name, parameter in found.parameters.items() if name not in bound]
    return found.replace(parameters=kept)


def hints_of(function: Callable[..., Any], what: str) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        where = next(
            (f"parameter {name!r}" if name != "return" else "the result" for name in _unresolved(function, error)),
            "an annotation",
        )
        raise DeclarationError(
            f"{what}: the type of {where} cannot be resolved ({error}). Define or import the type at module level, "
            "outside 'if TYPE_CHECKING', above the function"
        ) from error


def _unresolved(function: Callable[..., Any], error: NameError) -> Iterable[str]:
    annotations: dict[str, Any] = getattr(function, "__annotations__", {})
    for name, annotation in annotations.items():
        if error.name and re.search(rf"\b{re.escape(error.name)}\b", str(annotation)):
            yield name


def parameter_of(parameter: inspect.Parameter, hints: dict[str, Any], planner: Planner, what: str) -> Parameter:
    _require_plain(parameter, hints, what)
    name, annotation, default = parameter.name, hints[parameter.name], parameter.default
    plan = planner.plan(annotation, f"parameter {name!r}")
    decode = decoder(annotation, f"parameter {name!r} of {what}")
    encoded = None
    if default is not inspect.Parameter.empty:
        try:
            encoded = encode_planned(default, plan, f"$.{name}")
            decode(encoded)
        except msgspec.ValidationError as error:
            if default is not None:
                raise DeclarationError(
                    f"{what}: the default {default!r:.60} of parameter {name!r} does not fit its annotation: {error}"
                ) from error
            annotation = annotation | None  # what 'names: list[str] = None' means
            decode = decoder(annotation, f"parameter {name!r} of {what}")
        except FAILURES as error:
            raise DeclarationError(
                str(refused(f"{what}: the default of parameter {name!r}", error, ARGUMENT_CURE))
            ) from error
    same = annotation if annotation in {str, int, bool} else None
    made = Parameter(
        name, annotation, plan, default, encoded, None, decode, written(name) + b":", same, _is_ordered(annotation)
    )
    return made if encoded is None else made._replace(default_key=key_of(made, default, encoded))


def key_of(parameter: Parameter, value: Any, encoded: bytes) -> bytes:
    """What of a value, which is `encoded` as a whole, is part of a journal key."""
    if parameter.ordered and encoded and isinstance(value, (str, int, float, list, tuple)):
        return encoded
    try:
        return key_bytes(parameter.plan.key(value))
    except FAILURES:  # a type that only a pydantic model can write
        return encoded


def _is_ordered(annotation: Any) -> bool:
    if annotation in {str, int, float, bool}:
        return True
    return typing.get_origin(annotation) in {list, tuple} and all(map(_is_ordered, typing.get_args(annotation)))


def _require_plain(parameter: inspect.Parameter, hints: dict[str, Any], what: str) -> None:
    if parameter.kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise DeclarationError(f"{what}: parameter {parameter} is variadic; name each argument")
    if parameter.name not in hints:
        hint = " (steps and pipelines are functions, not methods)" if parameter.name in {"self", "cls"} else ""
        raise DeclarationError(f"{what}: annotate parameter {parameter.name!r} with its type{hint}")


def is_fixed(parameter: Parameter) -> bool:
    """Whether nothing can change its default, or it has none."""
    scalar = isinstance(parameter.default, (str, int, float, bool, type(None)))
    return parameter.default_encoded is None or scalar


def stored_copy(parameter: Parameter) -> Any:
    """Its default as a call of its own is given it."""
    return parameter.decode(parameter.default_encoded or b"null")


def stored_default(parameter: Parameter) -> Any:
    if parameter.default_encoded is None:
        return msgspec.NODEFAULT
    if is_fixed(parameter):
        return parameter.default
    # Decoded for each call, so that none sees what another did to it.
    return msgspec.field(default_factory=functools.partial(stored_copy, parameter))


def readable(annotation: Any, what: str) -> Any:
    try:
        return shapes.readable(annotation)
    except shapes.UNREADABLE as error:
        raise shapes.refusal(annotation, what, error) from error


def decoder(annotation: Any, what: str) -> Callable[[bytes], Any]:
    try:
        return shapes.decoder(annotation)
    except shapes.UNREADABLE as error:
        raise shapes.refusal(annotation, what, error) from error
