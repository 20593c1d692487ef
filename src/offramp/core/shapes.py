"""How JSON becomes a value of an annotation, and its schema: msgspec, and the types that msgspec refuses.

Owns unions that JSON alone cannot distinguish, paths and pydantic's types; checks before writing are elsewhere.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Union

import msgspec

from offramp.core import models
from offramp.errors import DeclarationError

UNREADABLE = (TypeError, ValueError, NotImplementedError, NameError, RecursionError, RuntimeError)
"""The errors of msgspec and pydantic for annotations that they cannot read; a union inside itself recurses."""


def write(value: Any) -> Any:
    """The value for msgspec to write in place of one whose type it does not know.

    Raises:
        TypeError: it has no JSON form.
    """
    if isinstance(value, PurePath):
        return str(value)
    if models.is_pydantic(type(value)):
        return msgspec.Raw(models.dumped(value))
    raise TypeError(f"{type(value).__name__} is not JSON-encodable")


_encode = msgspec.json.Encoder(enc_hook=write).encode


def read(wanted: Any, value: Any) -> Any:
    """A value of a type that msgspec does not know, from what JSON holds."""
    if not isinstance(wanted, type):
        raise NotImplementedError(f"{wanted!r} cannot be made from JSON")
    if issubclass(wanted, PurePath):
        if not isinstance(value, str):
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        return wanted(value)
    if issubclass(wanted, _Own):
        return wanted.read(value)
    return models.loaded(wanted, msgspec.json.encode(value))


def schema_of(wanted: Any) -> dict[str, Any]:
    """The JSON Schema of a type that msgspec does not know."""
    if issubclass(wanted, PurePath):
        return {"type": "string", "format": "path"}
    if issubclass(wanted, _Own):
        own: type[_Own] = wanted
        return own.schema()
    return models.schema_of(wanted)


def decoder(annotation: Any) -> Callable[[bytes], Any]:
    """A function that reads JSON as a value of this annotation.

    Raises:
        TypeError: none can.
    """
    shape = readable(annotation)
    if models.is_pydantic(shape):  # without the way over msgspec
        return _reading(shape)
    return msgspec.json.Decoder(shape, dec_hook=read).decode


def _reading(wanted: Any) -> Callable[[bytes], Any]:
    def decode(encoded: bytes) -> Any:
        try:
            return models.loaded(wanted, encoded)
        except ValueError as error:
            raise msgspec.ValidationError(str(error)) from error

    return decode


def told_apart(annotation: Any) -> bool:
    """Whether msgspec reads this annotation as it is."""
    try:
        msgspec.json.Decoder(annotation, dec_hook=read)
    except TypeError:
        return False
    return True


def is_union(annotation: Any) -> bool:
    """Whether it is `A | B`."""
    return typing.get_origin(annotation) in {Union, types.UnionType}


def readable(annotation: Any) -> Any:  # noqa: PLR0911 - one line for each kind of annotation
    """The annotation with every union that msgspec refuses in a form that `read` knows.

    Raises:
        TypeError: there is none.
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is collections.abc.Iterable:
        return list[readable(args[0])]  # type: ignore[misc]
    if told_apart(annotation):
        return annotation
    if origin is Annotated:
        if is_union(args[0]) and _discriminator(annotation):
            return _choice(annotation, args[0])
        return readable(args[0])
    if hasattr(annotation, "__value__"):  # type X = ...
        return readable(annotation.__value__)
    if is_union(annotation):
        members = [readable(member) for member in args]
        plain = functools.reduce(operator.or_, members) if all(map(_joins, members)) else Union[tuple(members)]  # noqa: UP007
        if told_apart(plain):
            return plain
        if type(None) in args:
            return _choice(annotation, annotation) | None
        return _choice(annotation, annotation)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _record(annotation)
    if origin is not None and args:
        return origin[tuple(arg if arg is ... else readable(arg) for arg in args)]
    msgspec.json.Decoder(annotation, dec_hook=read)  # says why not
    return annotation


def _joins(member: Any) -> bool:
    return isinstance(member, type)


def _discriminator(annotation: Any) -> bool:
    return any(getattr(mark, "discriminator", None) is not None for mark in annotation.__metadata__)


class _AnyInstance(type):
    """A metaclass for types that msgspec checks by `isinstance` after reading."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True


class _Own(metaclass=_AnyInstance):
    """A type that stands in an annotation for what msgspec refuses there."""

    @classmethod
    def read(cls, value: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def schema(cls) -> dict[str, Any]:
        raise NotImplementedError


class _Choice(_Own):
    """A union, its members in the order in which they are tried."""

    members: ClassVar[list[tuple[Any, Callable[[bytes], Any]]]]
    name: ClassVar[str]
    whole: ClassVar[Any] = None
    """The annotation, where pydantic chooses among its models."""
    discriminated: ClassVar[bool] = False

    @classmethod
    def read(cls, value: Any) -> Any:
        encoded = msgspec.json.encode(value)
        if cls.discriminated:
            return models.loaded(cls.whole, encoded)
        found = []
        for _, decode in cls.members:
            try:
                made = decode(encoded)
            except (ValueError, TypeError):
                continue
            # An object that another class wrote may fit as well: the one that writes the same again is meant.
            if not isinstance(value, dict) or msgspec.json.decode(_encode(made)) == value:
                return made
            found.append(made)
        if found and cls.whole is not None:
            return models.loaded(cls.whole, encoded)
        if found:
            return found[0]
        raise ValueError(f"Fits none of {cls.name}")

    @classmethod
    def schema(cls) -> dict[str, Any]:
        if cls.whole is not None:
            return models.schema_of(cls.whole)
        each = [msgspec.json.schema(member, schema_hook=schema_of) for member, _ in cls.members]
        return {"anyOf": each}


def _choice(annotation: Any, union: Any) -> Any:
    args = [arg for arg in typing.get_args(union) if arg is not type(None)]
    ordered = sorted(args, key=_vagueness)
    discriminated = annotation is not union
    attributes = {
        "members": [] if discriminated else [(readable(arg), decoder(arg)) for arg in ordered],
        "name": str(union),
        "whole": annotation if discriminated or all(map(models.is_model, args)) else None,
        "discriminated": discriminated,
    }
    return type("Choice", (_Choice,), attributes)


def _vagueness(member: Any) -> int:
    """Sort types that accept any value last."""
    if member is str:
        return 1
    if isinstance(member, type) and issubclass(member, PurePath):
        return 2
    return 3 if member in {dict, list, Any} or typing.get_origin(member) in {dict, list} else 0


class _Record(_Own):
    """A dataclass with a field that msgspec cannot read; it is made as its own code would make it."""

    made: ClassVar[Any]
    decode: ClassVar[Callable[[bytes], Any]]
    shape: ClassVar[Any]

    @classmethod
    def read(cls, value: Any) -> Any:
        fields = cls.decode(msgspec.json.encode(value))
        return cls.made(**{name: getattr(fields, name) for name in fields.__struct_fields__})

    @classmethod
    def schema(cls) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.json.schema(cls.shape, schema_hook=schema_of)
        return made


def _record(wanted: Any) -> Any:
    hints = typing.get_type_hints(wanted, include_extras=True)
    fields: list[Any] = []
    for field in dataclasses.fields(wanted):
        if not field.init:
            raise TypeError(f"field {field.name!r} of {wanted.__name__} has init=False beside a union")
        fields.append((field.name, readable(hints[field.name]), _default(field)))
    shape = msgspec.defstruct(wanted.__name__, fields, kw_only=True, module=wanted.__module__)
    decode = staticmethod(msgspec.json.Decoder(shape, dec_hook=read).decode)
    return type("Record", (_Record,), {"made": wanted, "decode": decode, "shape": shape})


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return msgspec.field(default_factory=field.default_factory)
    if field.default is dataclasses.MISSING:
        return msgspec.NODEFAULT
    return msgspec.field(default_factory=lambda: field.default)


def refusal(annotation: Any, what: str, error: Exception) -> DeclarationError:
    """The error for an annotation that nothing reads."""
    why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return DeclarationError(
        f"{what} cannot be carried as JSON: {why}. Use builtins, dataclasses, msgspec Structs or pydantic models; "
        "wrap the members of a union that JSON cannot tell apart in Structs of their own with tag=True, or in pydantic "
        f"models with a Literal field (annotation {annotation})"
    )
