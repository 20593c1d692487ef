"""Makes plans from annotations, and refuses at declaration whatever could not be passed."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

import msgspec.inspect

from offramp.core import models, shapes
from offramp.core.plans import PLAIN, Choice, Items, Named, Open, OpenField, Places, Plan, Record, Table
from offramp.core.written import is_record, secret
from offramp.errors import DeclarationError

CLASSES_MAX = 1_000
"""Classes whose plans are kept for values that no annotation describes."""
_KEYS = (
    *(msgspec.inspect.StrType, msgspec.inspect.IntType, msgspec.inspect.FloatType, msgspec.inspect.DecimalType),
    *(msgspec.inspect.DateTimeType, msgspec.inspect.DateType, msgspec.inspect.TimeType, msgspec.inspect.TimeDeltaType),
    *(msgspec.inspect.UUIDType, msgspec.inspect.EnumType, msgspec.inspect.LiteralType),
)
_LISTS = frozenset(
    {
        *(list, set, frozenset, collections.abc.Iterable, collections.abc.Collection, collections.abc.Sequence),
        *(collections.abc.MutableSequence, collections.abc.Set, collections.abc.MutableSet),
    }
)
_TRANSPARENT = (Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)


class Planner:
    """Makes plans of annotations.

    Args:
        what: the step or pipeline, for errors.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._records: dict[Any, Record] = {}
        self._inside_model = 0

    def plan(  # noqa: PLR0911 - one line for each kind of annotation
        self, annotation: Any, place: str, names: Mapping[Any, Any] | None = None
    ) -> Plan:
        """The plan of an annotation.

        Args:
            annotation: any that a step may have.
            place: for example `parameter 'query'`.
            names: what type variables stand for.

        Raises:
            DeclarationError: values of it could not be passed, or a type that it names is not there.
        """
        names = names or {}
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if isinstance(annotation, TypeVar):
            return self.plan(names.get(annotation, Any), place)
        if annotation is Any:
            return OPEN_FIELD if self._inside_model else OPEN
        if hasattr(annotation, "__supertype__"):
            return self.plan(annotation.__supertype__, place, names)
        if hasattr(annotation, "__value__"):
            return self.plan(annotation.__value__, place, names)
        if origin in _TRANSPARENT:
            return self.plan(args[0], place, names)
        if origin is Literal or annotation is None:
            return PLAIN
        if shapes.is_union(annotation):
            return self._union(annotation, args, place, names)
        if origin is not None and isinstance(origin, type):
            return self._generic(origin, args, place, names)
        if isinstance(annotation, type):
            return self._class(annotation, {}, place)
        raise DeclarationError(f"{self._what}: {place}: annotation {annotation!r} is no type that JSON can carry")

    def _union(self, annotation: Any, args: Sequence[Any], place: str, names: Mapping[Any, Any]) -> Plan:
        members = [self.plan(member, place, names) for member in args if member is not type(None)]
        if len(members) == 1:
            return members[0]
        exact = not self._inside_model and not shapes.told_apart(annotation)
        if not exact and all(plan is PLAIN for plan in members):
            return PLAIN
        return Choice(members, OPEN, exact=exact)

    def _generic(self, origin: type, args: Sequence[Any], place: str, names: Mapping[Any, Any]) -> Plan:
        if issubclass(origin, tuple):
            if len(args) == 2 and args[1] is ...:
                inner = self.plan(args[0], place, names)
                return PLAIN if inner is PLAIN else Items(inner, OPEN)
            each = [self.plan(arg, place, names) for arg in args if arg != ()]
            return PLAIN if all(plan is PLAIN for plan in each) else Places(each, OPEN)
        if issubclass(origin, Mapping):
            self._require_key(args[0], place)
            inner = self.plan(args[1], place, names)
            return PLAIN if inner is PLAIN else Table(inner, OPEN)
        if origin in _LISTS:
            inner = self.plan(args[0], place, names)
            return PLAIN if inner is PLAIN else Items(inner, OPEN)
        parameters = getattr(origin, "__parameters__", ())
        given = {name: names.get(arg, arg) for name, arg in zip(parameters, args, strict=False)}
        return self._class(origin, given, place)

    def _require_key(self, key: Any, place: str) -> None:
        if self._inside_model or isinstance(key, TypeVar) or isinstance(_native(key), _KEYS):
            return
        raise DeclarationError(
            f"{self._what}: {place}: a dict's keys are text in JSON, and {key} cannot be read from that. Use str, "
            " int, float, an Enum, a date or time, UUID or Decimal as keys, or a list of pairs"
        )

    def _class(self, kind: type, names: Mapping[Any, Any], place: str) -> Plan:
        if models.is_secret(kind):
            raise DeclarationError(f"{self._what}: {place}: {secret(kind)}")
        if is_record(kind):
            return self._record(kind, names, place)
        if typing.is_typeddict(kind):
            hints = self._hints(kind, place)
            return Named({name: self.plan(hint, f"{place}, field {name!r}") for name, hint in hints.items()}, OPEN)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            hints = self._hints(kind, place)
            fields: Any = kind
            plans = [self.plan(hints.get(name, Any), f"{place}, field {name!r}") for name in fields._fields]
            return Places(plans, OPEN, fields._fields, list(fields._field_defaults.values()))
        if kind in {list, dict, set, frozenset, tuple} or kind in {collections.abc.Mapping, collections.abc.Sequence}:
            return OPEN_FIELD if self._inside_model else OPEN
        if issubclass(kind, PurePath) or _native(kind) is not None:
            return PLAIN
        if models.is_pydantic(kind) or hasattr(kind, "__attrs_attrs__"):
            return _LEAF
        if self._inside_model:  # pydantic took it: how it is written and read is in its annotation
            return _LEAF
        part = "result" if place.startswith("the result") else "arguments"
        raise DeclarationError(
            f"the {part} of {self._what} cannot be carried as JSON: {place} is a {kind.__module__}.{kind.__qualname__}"
            ". Keep clients and connections at module level (async ones with offramp.per_loop) and pass data; make a "
            "class of data a dataclass, a msgspec Struct or a pydantic model"
        )

    def _hints(self, kind: Any, place: str) -> dict[str, Any]:
        try:
            return typing.get_type_hints(kind, include_extras=True)
        except NameError as error:
            raise DeclarationError(
                f"{self._what}: {place}: {kind.__name__} names a type that is not defined yet ({error}). Define or "
                "import that type at module level, outside 'if TYPE_CHECKING', before the step is declared"
            ) from error

    def _record(self, kind: Any, names: Mapping[Any, Any], place: str) -> Record:
        mark = (kind, tuple(names.items()))
        if mark in self._records:
            return self._records[mark]
        model = models.is_model(kind)
        made = self._records[mark] = Record(kind, OPEN_FIELD, model=model)
        self._inside_model += model
        try:
            if model:
                for field in models.fields_of(kind, f"{self._what}: {place}"):
                    where = f"{place}, field {field.name!r} of {kind.__name__}"
                    made.add(field.name, self.plan(field.annotation, where), field.default)
                return made
            hints = self._hints(kind, place)
            if any(
                type(field.default).__name__ == "FieldInfo"
                for field in getattr(kind, "__dataclass_fields__", {}).values()
            ):
                raise DeclarationError(
                    f"{self._what}: {place}: dataclass {kind.__name__} has a pydantic Field(), which only pydantic "
                    "reads; make it a pydantic model, or use dataclasses.field()"
                )
            for name, default in _defaults_of(kind):
                where = f"{place}, field {name!r} of {kind.__name__}"
                made.add(name, self.plan(hints[name], where, names), default)
        finally:
            self._inside_model -= model
        return made


class _Leaf(Plan):
    """A type that is written and read by code of its own."""

    exact = True


_LEAF = _Leaf()


@functools.lru_cache(CLASSES_MAX)
def record_plan(kind: Any) -> Record:
    """The plan of a class, for values that no annotation describes."""
    made = Planner("a value").plan(kind, f"{kind.__name__}")
    assert isinstance(made, Record)  # noqa: S101 - what `is_record` says
    return made


OPEN = Open(record_plan)
OPEN_FIELD = OpenField(record_plan)
"""`Any` inside a pydantic model."""


def _defaults_of(kind: Any) -> Iterable[tuple[str, Callable[[], Any] | None]]:
    if hasattr(kind, "__struct_fields__"):
        fields: Any = msgspec.structs.fields(kind)
        nothing: Any = msgspec.NODEFAULT
    else:
        fields, nothing = dataclasses.fields(kind), dataclasses.MISSING
    for field in fields:
        if field.default_factory is not nothing:
            yield field.name, field.default_factory
        elif field.default is not nothing:
            yield field.name, functools.partial(_itself, field.default)
        else:
            yield field.name, None


def _native(annotation: Any) -> msgspec.inspect.Type | None:
    """msgspec's description of a type; None if it has none."""
    try:
        known = msgspec.inspect.type_info(annotation)
    except TypeError:
        return None
    return None if isinstance(known, msgspec.inspect.CustomType) else known


def _itself(value: Any) -> Any:
    return value
