"""Which values may be written, whatever their annotation: refusals, numbers, and JSON in canonical order."""

from __future__ import annotations

import decimal
import enum
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from offramp.core import models, shapes


class Refusal(ValueError):
    """A value that cannot be passed, with its own cure."""


class Misfit(Refusal):
    """One that is refused for a part of it: where that is, as `$.scores[3]`, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"at {path}: {why}")


def is_record(kind: Any) -> bool:
    """Whether values of this class are written as objects with fields."""
    return hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__struct_fields__") or models.is_model(kind)


_key_encode = msgspec.json.Encoder(enc_hook=shapes.write, order="deterministic").encode


def key_bytes(value: Any) -> bytes:
    """JSON with the keys of objects and the items of sets in order."""
    try:
        return _key_encode(value)
    except TypeError:  # keys that are no text, or a set of values that cannot be compared
        return _key_encode(_sortable(value))


def _sortable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {shown(name): _sortable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sortable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_sortable(item) for item in value), key=key_bytes)
    return value


def shown(name: Any) -> str:
    """A dict's key as JSON has it."""
    if isinstance(name, str) and not isinstance(name, enum.Enum):
        return name
    return str(next(iter(msgspec.to_builtins({name: None}, str_keys=True))))


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
        require_finite(getattr(value, "__pydantic_extra__", None), path)


def _field_names(kind: Any) -> Iterable[str]:
    if models.is_model(kind):
        return list(kind.model_fields)
    return list(kind.__struct_fields__ if hasattr(kind, "__struct_fields__") else kind.__dataclass_fields__)


def alike(live: Any, again: Any) -> bool:
    try:
        if isinstance(live, (list, tuple)) and isinstance(again, (list, tuple)):
            return len(live) == len(again) and all(map(alike, live, again))
        return bool(live == again) or (type(live) is type(again) and "__eq__" not in vars(type(live)))
    except Exception:  # noqa: BLE001 - a user's __eq__
        return True


def changed(live: Any, again: Any) -> str:
    return (
        f"{live!r:.60} ({type(live).__name__}) would come back as {again!r:.60} ({type(again).__name__}). Where JSON "
        "cannot tell the types of a union apart, wrap them in Structs of their own with tag=True or models with a "
        "Literal field; a serializer has to write what its field reads"
    )


def other_class(kind: Any, *wanted: Any) -> str:
    names = " | ".join(each.__qualname__ for each in wanted)
    return (
        f"it is a {kind.__qualname__} where {names} is declared, and would come back without what {kind.__qualname__} "
        f"adds. Declare {kind.__qualname__}, or a union of both with a field that tells them apart"
    )


def secret(kind: Any) -> str:
    return (
        f"{kind.__name__} is written as asterisks, and would not come back. Pass the secret's name and read it in the "
        "step, or pass a plain str, which is then in the journal"
    )


def forgotten(value: Any) -> str | None:
    """The message for a value that should have been awaited; None for any other."""
    if not inspect.isawaitable(value):
        return None
    if inspect.iscoroutine(value):
        return f"a coroutine of {value.__qualname__!r}: did you forget await?"
    return f"a {type(value).__name__}: did you forget await?"
