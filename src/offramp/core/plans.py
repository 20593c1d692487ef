"""How a value is checked before it is written; `PLAIN` if no part needs a check.

A plan refuses values that would change silently, selects the part that enters a journal key, and compares the value
read with the value written. A key leaves out fields equal to their defaults, so that code may add a field.
"""

from __future__ import annotations

import collections.abc
import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from offramp.core import models
from offramp.core.written import Misfit, alike, changed, is_record, key_bytes, other_class, secret, shown

_SCALARS = frozenset({str, int, float, bool, type(None)})


class Plan:
    """The plan of an annotation that needs no check, and the base of all others."""

    exact = False
    """Whether what is read has to be compared with what was written."""

    def check(self, value: Any, path: str) -> None:
        """Raise `Misfit` for a value that would change silently."""

    def key(self, value: Any) -> Any:
        """What of the value is part of a journal key, for msgspec to write: itself."""
        return value

    def same(self, live: Any, again: Any, path: str) -> None:
        """Raise `Misfit` unless what was read is what was written."""
        if not alike(live, again):
            raise Misfit(path, changed(live, again))


class Plain(Plan):
    """What msgspec and JSON carry without loss."""


PLAIN = Plain()


class Open(Plan):
    """`Any`: its objects come back as builtins, the first time as in a replay.

    Args:
        planned: gives the plan of a class that no annotation describes.
    """

    def __init__(self, planned: Callable[[Any], Record]) -> None:
        self._planned = planned

    def key(self, value: Any) -> Any:
        """The value, and of objects their class too, as no annotation says it."""
        kind: Any = type(value)
        if kind in _SCALARS:
            return value
        if kind is list or kind is tuple:
            return [self.key(item) for item in value]
        if kind is dict:
            return {name: self.key(item) for name, item in value.items()}
        if kind is set or kind is frozenset:
            return sorted(map(self.key, value), key=key_bytes)
        if is_record(kind):
            return self._planned(kind).key(value, named=True)
        return value

    def same(self, live: Any, again: Any, path: str) -> None:
        """Not compared: nothing says what it should be."""


class OpenField(Open):
    """`Any` inside a pydantic model, which writes it without asking us."""

    def check(self, value: Any, path: str) -> None:
        """Look at the objects in it."""
        kind: Any = type(value)
        if kind in _SCALARS:
            return
        if models.is_secret(kind):
            raise Misfit(path, secret(kind))
        if isinstance(value, Mapping):
            for name, item in value.items():
                self.check(item, f"{path}.{name}")
        elif isinstance(value, (list, tuple, set, frozenset)):
            for place, item in enumerate(value):
                self.check(item, f"{path}[{place}]")
        elif is_record(kind):
            self._planned(kind).check(value, path)


class Items(Plan):
    """A list, set or tuple of any length; `otherwise` is for values that are none of these."""

    def __init__(self, inner: Plan, otherwise: Plan) -> None:
        self._inner = inner
        self._otherwise = otherwise
        self.exact = inner.exact

    def check(self, value: Any, path: str) -> None:
        """Each item."""
        if isinstance(value, collections.abc.Collection) and not isinstance(value, (str, bytes, Mapping)):
            for place, item in enumerate(value):
                self._inner.check(item, f"{path}[{place}]")

    def key(self, value: Any) -> Any:
        """Each item's; those of a set in an order of their own."""
        if not isinstance(value, (list, tuple, set, frozenset)):
            return self._otherwise.key(value)
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
    """A tuple with a type for each place; `defaults` of the last ones are of a NamedTuple.

    `otherwise` is for values of another form.
    """

    def __init__(
        self, inner: Sequence[Plan], otherwise: Plan, names: Sequence[str] = (), defaults: Sequence[Any] = ()
    ) -> None:
        self._inner = inner
        self._otherwise = otherwise
        self._names = names
        keys = [key_bytes(otherwise.key(each)) for each in defaults]
        self._defaults = [None] * (len(inner) - len(defaults)) + keys
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
            return self._otherwise.key(value)
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
    """A dict; `otherwise` is for values that are none."""

    def __init__(self, inner: Plan, otherwise: Plan) -> None:
        self._inner = inner
        self._otherwise = otherwise
        self.exact = inner.exact

    def check(self, value: Any, path: str) -> None:
        """Each value."""
        if isinstance(value, Mapping):
            for name, item in value.items():
                self._inner.check(item, f"{path}.{shown(name)}")

    def key(self, value: Any) -> Any:
        """Each value's."""
        if not isinstance(value, Mapping):
            return self._otherwise.key(value)
        return {name: self._inner.key(item) for name, item in value.items()}

    def same(self, live: Any, again: Any, path: str) -> None:
        """Each value."""
        if isinstance(live, Mapping) and isinstance(again, Mapping) and live.keys() == again.keys():
            for name, item in live.items():
                self._inner.same(item, again[name], f"{path}.{shown(name)}")
        else:
            super().same(live, again, path)


class Named(Plan):
    """A TypedDict; `otherwise` is for values that are no dicts."""

    def __init__(self, fields: Mapping[str, Plan], otherwise: Plan) -> None:
        self._fields = fields
        self._otherwise = otherwise
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
            return self._otherwise.key(value)
        return {name: self._fields.get(name, PLAIN).key(item) for name, item in value.items()}


class Record(Plan):
    """A dataclass, Struct or pydantic model; its fields are added once it is known, as it may hold itself.

    `otherwise` is for values of other classes, and for what a model holds beyond its fields.
    """

    def __init__(self, made: Any, otherwise: Plan, *, model: bool) -> None:
        self.made = made
        self.model = model
        self._otherwise = otherwise
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
        kind: Any = type(value)
        if kind is not self.made:
            if is_record(kind) and not _is_origin(kind, self.made):
                raise Misfit(path, other_class(kind, self.made))
            if models.is_secret(kind):
                raise Misfit(path, secret(kind))
            return
        for name, plan in self._looked:
            plan.check(getattr(value, name, None), f"{path}.{name}")
        if self.model and value.__pydantic_extra__:
            self._otherwise.check(value.__pydantic_extra__, path)

    def key(self, value: Any, *, named: bool = False) -> Any:
        """Its fields without those that have their default; `named` where another class could stand there."""
        if type(value) is not self.made:
            return self._otherwise.key(value)
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
            found |= self._otherwise.key(value.__pydantic_extra__)
        return found

    def same(self, live: Any, again: Any, path: str) -> None:
        """Each field."""
        if type(live) is not self.made:
            return
        if type(again) is not self.made:
            raise Misfit(path, changed(live, again))
        for name, plan in self._plans.items():
            plan.same(getattr(live, name, None), getattr(again, name, None), f"{path}.{name}")


class Choice(Plan):
    """A union; the member is chosen by the value's own class, `otherwise` is for values of none."""

    def __init__(self, members: Sequence[Plan], otherwise: Plan, *, exact: bool) -> None:
        self._otherwise = otherwise
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
        elif (
            is_record(type(value))
            and self._records
            and not any(_is_origin(type(value), each) for each in self._records)
        ):
            raise Misfit(path, other_class(type(value), *self._records))

    def key(self, value: Any) -> Any:
        """As the member that it is of, with its class: another may have the same fields."""
        member = self._member(value)
        if isinstance(member, Record):
            return member.key(value, named=True)
        return self._otherwise.key(value) if member is None else member.key(value)

    def same(self, live: Any, again: Any, path: str) -> None:
        """As the member that it is of, and of the same class."""
        member = self._member(live)
        if member is not None:
            member.same(live, again, path)
        elif self._compared and (type(live) is not type(again) or live != again):
            raise Misfit(path, changed(live, again))


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
    return metadata is not None and metadata["origin"] is kind
