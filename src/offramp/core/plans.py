"""What is looked at in a value before it is written: made once of an annotation, None where nothing needs a look.

A plan refuses what would change in silence, says what of the value is in a journal key, and compares what was read
with what was written. A key leaves out fields that have their default, so that code may add one.
"""

from __future__ import annotations

import collections.abc
import contextvars
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import math
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from offramp.core import models, shapes
from offramp.errors import DeclarationError

CLASSES_MAX = 1_000
"""Classes whose plans are kept for values that no annotation describes."""
_SCALARS = frozenset({str, int, float, bool, type(None)})
_LEAVES = (str, int, float, bytes, bytearray, memoryview, dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal)
_KEYS = (str, int, float, dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal, enum.Enum)
_LISTS = frozenset(
    {
        *(list, set, frozenset, collections.abc.Iterable, collections.abc.Collection, collections.abc.Sequence),
        *(collections.abc.MutableSequence, collections.abc.Set, collections.abc.MutableSet),
    }
)
_TRANSPARENT = (Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)


class Refusal(ValueError):
    """A value that cannot be passed, with its own cure."""


class Misfit(Refusal):
    """One that is refused for a part of it: where that is, as `$.scores[3]`, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"at {path}: {why}")


class Plan:
    """Of an annotation that needs no look; the base of those that do."""

    exact = False
    """Whether what is read has to be compared with what was written."""

    def check(self, value: Any, path: str) -> None:
        """Raise `Misfit` for what would change in silence."""

    def key(self, value: Any) -> Any:
        """What of the value is part of a journal key, for msgspec to write."""
        return open_key(value)

    def same(self, live: Any, again: Any, path: str) -> None:
        """Raise `Misfit` unless what was read is what was written."""
        if not _alike(live, again):
            raise Misfit(path, _changed(live, again))


class Plain(Plan):
    """What msgspec and JSON carry without loss."""

    def key(self, value: Any) -> Any:
        """Itself."""
        return value


PLAIN = Plain()


class Open(Plan):
    """`Any`: its objects come back as builtins, the first time as in a replay."""

    def same(self, live: Any, again: Any, path: str) -> None:
        """Not compared: nothing says what it should be."""


class OpenField(Open):
    """`Any` inside a pydantic model, which writes it without asking us."""

    def check(self, value: Any, path: str) -> None:
        """Look at the objects in it."""
        kind = type(value)
        if kind in _SCALARS:
            return
        if models.is_secret(kind):
            raise Misfit(path, _secret(kind))
        if isinstance(value, Mapping):
            for name, item in value.items():
                self.check(item, f"{path}.{name}")
        elif isinstance(value, (list, tuple, set, frozenset)):
            for place, item in enumerate(value):
                self.check(item, f"{path}[{place}]")
        elif is_record(kind):
            record_plan(kind).check(value, path)


class Items(Plan):
    """A list, set or tuple of any length."""

    def __init__(self, inner: Plan) -> None:
        self._inner = inner
        self.exact = inner.exact

    def check(self, value: Any, path: str) -> None:
        """Each item."""
        if isinstance(value, collections.abc.Collection) and not isinstance(value, (str, bytes, Mapping)):
            for place, item in enumerate(value):
                self._inner.check(item, f"{path}[{place}]")

    def key(self, value: Any) -> Any:
        """Each item's; those of a set in an order of their own."""
        if not isinstance(value, (list, tuple, set, frozenset)):
            return open_key(value)
        made = [self._inner.key(item) for item in value]
        return made if isinstance(value, (list, tuple)) else sorted(made, key=key_bytes)

    def same(self, live: Any, again: Any, path: str) -> None:
        """Each item, in order; sets as they are."""
        if isinstance(live, (list, tuple)) and isinstance(again, (list, tuple)) and len(live) == len(again):
            for place, (one, other) in enumerate(zip(live, again, strict=True)):
                self._inner.same(one, other, f"{path}[{place}]")
        else:
            super().same(live, again, path)


class Places(Plan):
    """A tuple with a type for each place; `defaults` of the last ones are of a NamedTuple."""

    def __init__(self, made: Any, inner: Sequence[Plan], names: Sequence[str] = (), defaults: Sequence[Any] = ()) -> None:
        self._made = made
        self._inner = inner
        self._names = names
        self._defaults = [None] * (len(inner) - len(defaults)) + [key_bytes(open_key(each)) for each in defaults]
        self.exact = any(plan.exact for plan in inner)

    def _path(self, path: str, place: int) -> str:
        return f"{path}.{self._names[place]}" if self._names else f"{path}[{place}]"

    def check(self, value: Any, path: str) -> None:
        """Each place."""
        if isinstance(value, (list, tuple)):
            for place, (plan, item) in enumerate(zip(self._inner, value, strict=False)):
                plan.check(item, self._path(path, place))

    def key(self, value: Any) -> Any:
        """Each place's, without defaults at the end."""
        if not isinstance(value, (list, tuple)) or len(value) != len(self._inner):
            return open_key(value)
        made = [plan.key(item) for plan, item in zip(self._inner, value, strict=True)]
        while made and self._defaults[len(made) - 1] == key_bytes(made[-1]):
            made.pop()
        return made

    def same(self, live: Any, again: Any, path: str) -> None:
        """Each place."""
        if isinstance(live, (list, tuple)) and isinstance(again, (list, tuple)) and len(live) == len(again):
            for place, (plan, one, other) in enumerate(zip(self._inner, live, again, strict=False)):
                plan.same(one, other, self._path(path, place))
        else:
            super().same(live, again, path)


class Table(Plan):
    """A dict."""

    def __init__(self, inner: Plan) -> None:
        self._inner = inner
        self.exact = inner.exact

    def check(self, value: Any, path: str) -> None:
        """Each value."""
        if isinstance(value, Mapping):
            for name, item in value.items():
                self._inner.check(item, f"{path}.{_shown(name)}")

    def key(self, value: Any) -> Any:
        """Each value's."""
        if not isinstance(value, Mapping):
            return open_key(value)
        return {name: self._inner.key(item) for name, item in value.items()}

    def same(self, live: Any, again: Any, path: str) -> None:
        """Each value."""
        if isinstance(live, Mapping) and isinstance(again, Mapping) and live.keys() == again.keys():
            for name, item in live.items():
                self._inner.same(item, again[name], f"{path}.{_shown(name)}")
        else:
            super().same(live, again, path)


class Named(Plan):
    """A TypedDict."""

    def __init__(self, fields: Mapping[str, Plan]) -> None:
        self._fields = fields
        self.exact = any(plan.exact for plan in fields.values())

    def check(self, value: Any, path: str) -> None:
        """Each field that is there."""
        if isinstance(value, Mapping):
            for name, plan in self._fields.items():
                if name in value:
                    plan.check(value[name], f"{path}.{name}")

    def key(self, value: Any) -> Any:
        """Each field's."""
        if not isinstance(value, Mapping):
            return open_key(value)
        return {name: self._fields.get(name, PLAIN).key(item) for name, item in value.items()}


class Record(Plan):
    """A dataclass, Struct or pydantic model; its fields are added once it is known, as it may hold itself."""

    def __init__(self, made: Any, *, model: bool) -> None:
        self.made = made
        self.model = model
        self.exact = model
        self._plans: dict[str, Plan] = {}
        self._looked: list[tuple[str, Plan]] = []
        self._defaults: dict[str, tuple[Any, bytes]] = {}

    def add(self, name: str, plan: Plan, default: Callable[[], Any] | None) -> None:
        """A field; `default` makes what it is when it is not given."""
        self._plans[name] = plan
        if plan is not PLAIN:
            self._looked.append((name, plan))
            self.exact = self.exact or plan.exact
        if default is not None:
            found = _constant(default, plan)
            if found is not models.NO_DEFAULT:
                self._defaults[name] = found

    def check(self, value: Any, path: str) -> None:
        """Its class, and each field."""
        kind = type(value)
        if kind is not self.made:
            if is_record(kind) and not _is_origin(kind, self.made):
                raise Misfit(path, _other_class(kind, self.made))
            if models.is_secret(kind):
                raise Misfit(path, _secret(kind))
            return
        for name, plan in self._looked:
            plan.check(getattr(value, name, None), f"{path}.{name}")
        if self.model and value.__pydantic_extra__:
            OPEN_FIELD.check(value.__pydantic_extra__, path)

    def key(self, value: Any, *, named: bool = False) -> Any:
        """Its fields without those that have their default; `named` where another class could stand there."""
        if type(value) is not self.made:
            return open_key(value)
        found: dict[str, Any] = {"": self.made.__qualname__} if named else {}
        for name, plan in self._plans.items():
            live = getattr(value, name, None)
            default = self._defaults.get(name)
            if default is None:
                found[name] = plan.key(live)
            elif type(live) not in _SCALARS:
                made = plan.key(live)
                if key_bytes(made) != default[1]:
                    found[name] = made
            elif type(live) is not type(default[0]) or live != default[0]:
                found[name] = live
        if self.model and value.__pydantic_extra__:
            found |= open_key(value.__pydantic_extra__)
        return found

    def same(self, live: Any, again: Any, path: str) -> None:
        """Each field."""
        if type(live) is not self.made:
            return
        if type(again) is not self.made:
            raise Misfit(path, _changed(live, again))
        for name, plan in self._plans.items():
            plan.same(getattr(live, name, None), getattr(again, name, None), f"{path}.{name}")


class Choice(Plan):
    """A union; the member is chosen by the value's own class."""

    def __init__(self, members: Sequence[Plan], *, exact: bool) -> None:
        self._records = {plan.made: plan for plan in members if isinstance(plan, Record)}
        self._others = [plan for plan in members if not isinstance(plan, (Record, Plain))]
        self.exact = exact or any(plan.exact for plan in members)
        self._compared = exact

    def _member(self, value: Any) -> Plan | None:
        found = self._records.get(type(value))
        if found is not None or is_record(type(value)):
            return found
        wanted = Table if isinstance(value, Mapping) else (Items, Places)
        return next((plan for plan in self._others if isinstance(plan, (wanted, Open))), None)

    def check(self, value: Any, path: str) -> None:
        """As the member that it is of."""
        member = self._member(value)
        if member is not None:
            member.check(value, path)
        elif is_record(type(value)) and self._records and not any(_is_origin(type(value), each) for each in self._records):
            raise Misfit(path, _other_class(type(value), *self._records))

    def key(self, value: Any) -> Any:
        """As the member that it is of, with its class: another may have the same fields."""
        member = self._member(value)
        if isinstance(member, Record):
            return member.key(value, named=True)
        return open_key(value) if member is None else member.key(value)

    def same(self, live: Any, again: Any, path: str) -> None:
        """As the member that it is of, and of the same class."""
        member = self._member(live)
        if member is not None:
            member.same(live, again, path)
        elif self._compared and (type(live) is not type(again) or live != again):
            raise Misfit(path, _changed(live, again))


OPEN = Open()
OPEN_FIELD = OpenField()


def is_record(kind: Any) -> bool:
    """Whether values of this class are written as objects with fields."""
    return hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__struct_fields__") or models.is_model(kind)


@functools.lru_cache(CLASSES_MAX)
def record_plan(kind: Any) -> Record:
    """The plan of a class, for values that no annotation describes."""
    made = Planner("a value").plan(kind, f"{kind.__name__}")
    assert isinstance(made, Record)  # noqa: S101 - what `is_record` says
    return made


def open_key(value: Any) -> Any:
    """What of a value is part of a key where no annotation describes it: objects with their class."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list or kind is tuple:
        return [open_key(item) for item in value]
    if kind is dict:
        return {name: open_key(item) for name, item in value.items()}
    if kind is set or kind is frozenset:
        return sorted(map(open_key, value), key=key_bytes)
    if is_record(kind):
        return record_plan(kind).key(value, named=True)
    return value


_key_encode = msgspec.json.Encoder(enc_hook=shapes.write, order="deterministic").encode


def key_bytes(value: Any) -> bytes:
    """JSON with the keys of objects and the items of sets in order."""
    try:
        return _key_encode(value)
    except TypeError:  # keys that are no text, or a set of values that cannot be compared
        return _key_encode(_sortable(value))


def _sortable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_shown(name): _sortable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sortable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_sortable(item) for item in value), key=key_bytes)
    return value


def _shown(name: Any) -> str:
    """A dict's key as JSON has it."""
    if isinstance(name, str) and not isinstance(name, enum.Enum):
        return name
    return next(iter(msgspec.to_builtins({name: None}, str_keys=True)))


def require_finite(value: Any, path: str) -> None:
    """Raise `Misfit` for a NaN or an infinity in a value, at its path."""
    kind = type(value)
    if kind in {str, int, bool, type(None)}:
        return
    if isinstance(value, (float, decimal.Decimal)):
        if not (value.is_finite() if isinstance(value, decimal.Decimal) else math.isfinite(value)):
            raise Misfit(path, f"{value} is no JSON number. Use None or text for what is not a number")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            require_finite(item, f"{path}.{name}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for place, item in enumerate(value):
            require_finite(item, f"{path}[{place}]")
    elif is_record(kind):
        for name in _field_names(kind):
            require_finite(getattr(value, name, None), f"{path}.{name}")


def _field_names(kind: Any) -> Iterable[str]:
    if models.is_model(kind):
        return list(kind.model_fields)
    return list(kind.__struct_fields__ if hasattr(kind, "__struct_fields__") else kind.__dataclass_fields__)


def _constant(default: Callable[[], Any], plan: Plan) -> Any:
    """A default and its key, if it is the same each time.

    Made in a context of its own: a factory of the user's may ask for the run, and a key may not count as a call.
    """
    try:
        first, second = (contextvars.Context().run(default) for _ in range(2))
        if models.NO_DEFAULT in (first, second):
            return models.NO_DEFAULT
        key = key_bytes(plan.key(first))
        return (first, key) if key == key_bytes(plan.key(second)) else models.NO_DEFAULT
    except Exception:  # noqa: BLE001 - a factory of the user's; its field is then always part of the key
        return models.NO_DEFAULT


def _is_origin(kind: Any, wanted: Any) -> bool:
    """Whether a model is the generic one that the wanted one was made of."""
    metadata = getattr(wanted, "__pydantic_generic_metadata__", None)
    return bool(metadata) and metadata["origin"] is kind


def _alike(live: Any, again: Any) -> bool:
    try:
        if isinstance(live, (list, tuple)) and isinstance(again, (list, tuple)):
            return len(live) == len(again) and all(map(_alike, live, again))
        return bool(live == again) or (type(live) is type(again) and type(live).__eq__ is object.__eq__)
    except Exception:  # noqa: BLE001 - a user's __eq__
        return True


def _changed(live: Any, again: Any) -> str:
    return (
        f"{live!r:.60} ({type(live).__name__}) would come back as {again!r:.60} ({type(again).__name__}). Where JSON "
        "cannot tell the types of a union apart, wrap them in Structs of their own with tag=True or models with a "
        "Literal field; a serializer has to write what its field reads"
    )


def _other_class(kind: Any, *wanted: Any) -> str:
    names = " | ".join(each.__qualname__ for each in wanted)
    return (
        f"it is a {kind.__qualname__} where {names} is declared, and would come back without what {kind.__qualname__} "
        f"adds. Declare {kind.__qualname__}, or a union of both with a field that tells them apart"
    )


def _secret(kind: Any) -> str:
    return (
        f"{kind.__name__} is written as asterisks, and would not come back. Pass the secret's name and read it in the "
        "step, or pass a plain str, which is then in the journal"
    )


class Planner:
    """Makes plans of annotations.

    Args:
        what: the step or pipeline, for errors.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._records: dict[Any, Record] = {}
        self._inside_model = 0

    def plan(self, annotation: Any, place: str, names: Mapping[Any, Any] | None = None) -> Plan:
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
        return Choice(members, exact=exact) if exact or any(plan is not PLAIN for plan in members) else PLAIN

    def _generic(self, origin: type, args: Sequence[Any], place: str, names: Mapping[Any, Any]) -> Plan:
        if issubclass(origin, tuple):
            if len(args) == 2 and args[1] is ...:
                inner = self.plan(args[0], place, names)
                return PLAIN if inner is PLAIN else Items(inner)
            each = [self.plan(arg, place, names) for arg in args if arg != ()]
            return PLAIN if all(plan is PLAIN for plan in each) else Places(tuple, each)
        if issubclass(origin, Mapping):
            self._require_key(args[0], place)
            inner = self.plan(args[1], place, names)
            return PLAIN if inner is PLAIN else Table(inner)
        if origin in _LISTS:
            inner = self.plan(args[0], place, names)
            return PLAIN if inner is PLAIN else Items(inner)
        parameters = getattr(origin, "__parameters__", ())
        given = {name: names.get(arg, arg) for name, arg in zip(parameters, args, strict=False)}
        return self._class(origin, given, place)

    def _require_key(self, key: Any, place: str) -> None:
        plain = typing.get_origin(key) or getattr(key, "__supertype__", key)
        if self._inside_model or not isinstance(plain, type) or issubclass(plain, _KEYS):
            return
        raise DeclarationError(
            f"{self._what}: {place}: a dict's keys are text in JSON, and {plain.__name__} cannot be read from it. Use "
            "str, int, float, an Enum, a date or time, UUID or Decimal as keys, or a list of pairs"
        )

    def _class(self, kind: type, names: Mapping[Any, Any], place: str) -> Plan:
        if models.is_secret(kind):
            raise DeclarationError(f"{self._what}: {place}: {_secret(kind)}")
        if is_record(kind):
            return self._record(kind, names, place)
        if typing.is_typeddict(kind):
            hints = self._hints(kind, place)
            return Named({name: self.plan(hint, f"{place}, field {name!r}") for name, hint in hints.items()})
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            hints = self._hints(kind, place)
            fields: Any = kind
            plans = [self.plan(hints.get(name, Any), f"{place}, field {name!r}") for name in fields._fields]
            return Places(kind, plans, fields._fields, list(fields._field_defaults.values()))
        if kind in {list, dict, set, frozenset, tuple} or kind in {collections.abc.Mapping, collections.abc.Sequence}:
            return OPEN_FIELD if self._inside_model else OPEN
        if issubclass(kind, (*_LEAVES, enum.Enum, PurePath)) or kind in {type(None), msgspec.Raw, msgspec.UnsetType}:
            return PLAIN
        if models.is_pydantic(kind) or hasattr(kind, "__attrs_attrs__"):
            return _LEAF
        if self._inside_model:  # pydantic took it: how it is written and read is in its annotation
            return _LEAF
        raise DeclarationError(
            f"{self._what}: {place} is a {kind.__module__}.{kind.__qualname__}, which has no JSON form. Keep clients "
            "and connections at module level (async ones with offramp.per_loop) and pass data; make a class of data a "
            "dataclass, a msgspec Struct or a pydantic model"
        )

    def _hints(self, kind: Any, place: str) -> dict[str, Any]:
        try:
            return typing.get_type_hints(kind, include_extras=True)
        except NameError as error:
            raise DeclarationError(
                f"{self._what}: {place}: {kind.__name__} names a type that is not there yet ({error}). Define or import "
                "that type at module level, outside 'if TYPE_CHECKING', before the step is declared"
            ) from error

    def _record(self, kind: Any, names: Mapping[Any, Any], place: str) -> Record:
        mark = (kind, tuple(names.items()))
        if mark in self._records:
            return self._records[mark]
        model = models.is_model(kind)
        made = self._records[mark] = Record(kind, model=model)
        self._inside_model += model
        try:
            if model:
                for field in models.fields_of(kind, f"{self._what}: {place}"):
                    where = f"{place}, field {field.name!r} of {kind.__name__}"
                    made.add(field.name, self.plan(field.annotation, where), field.default)
                return made
            hints = self._hints(kind, place)
            for name, default in _defaults_of(kind):
                where = f"{place}, field {name!r} of {kind.__name__}"
                made.add(name, self.plan(hints[name], where, names), default)
        finally:
            self._inside_model -= model
        return made


class _Leaf(Plan):
    """A type that is written and read by code of its own."""

    exact = True

    def key(self, value: Any) -> Any:
        """Itself."""
        return value


_LEAF = _Leaf()


def _defaults_of(kind: Any) -> Iterable[tuple[str, Callable[[], Any] | None]]:
    if hasattr(kind, "__struct_fields__"):
        fields: Any = msgspec.structs.fields(kind)
        nothing = msgspec.NODEFAULT
    else:
        fields, nothing = dataclasses.fields(kind), dataclasses.MISSING
    for field in fields:
        if field.default_factory is not nothing:
            yield field.name, field.default_factory
        elif field.default is not nothing:
            yield field.name, functools.partial(_itself, field.default)
        else:
            yield field.name, None


def _itself(value: Any) -> Any:
    return value


def forgotten(value: Any) -> str | None:
    """What is to be said of a value that was to be awaited; None for any other."""
    if not inspect.isawaitable(value):
        return None
    if inspect.iscoroutine(value):
        return f"a coroutine of {value.__qualname__!r}: did you forget await?"
    return f"a {type(value).__name__}: did you forget await?"
