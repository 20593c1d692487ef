"""Values of an exception as JSON: each comes back with the same type and the same text, or is refused.

JSON stands for itself; anything else is an object with one key, `offramp:<kind>`. A value that names code imports none.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import fractions
import math
import pathlib
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

TAG = "offramp:"
DEPTH_MAX = 20
"""The deepest nesting of containers and errors."""
_INTEGER_MAX = 2**63

_AS_TEXT: tuple[type, ...] = (
    *(decimal.Decimal, fractions.Fraction, complex),
    *(pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath),
)
"""Types whose text makes the value again."""
_AS_TEXT_TOO = {"uuid:UUID", "ipaddress:IPv4Address", "ipaddress:IPv6Address"}
_AS_ISO: tuple[type, ...] = (dt.datetime, dt.date, dt.time)


_SECOND_FOLD = " again"
"""Marks the second of two equal times of day, when clocks are set back."""


class Inexact(Exception):
    """A value that cannot come back as it was."""


def place_of(kind: type) -> str:
    """`module:qualname`, under the name that a module has where it is not a process lane's main one."""
    module = kind.__module__
    return f"{'__main__' if module == '__mp_main__' else module}:{kind.__qualname__}"


def loaded(place: str) -> Any:
    """The object at `module:qualname`; None if the module is not loaded: a name in a journal imports nothing."""
    module, _, qualname = place.partition(":")
    found: Any = sys.modules.get(module)
    if module == "__main__":  # a process lane has the application's under another name
        found = sys.modules.get("__mp_main__", found)
    try:
        for part in qualname.split("."):
            found = vars(found)[part]  # past a module's or a class's own __getattr__, which may import or raise
    except (KeyError, TypeError):
        return None
    return found


class Packer:
    """Packs values; `stable` turns False at one whose text another process may write otherwise, such as a set.

    Args:
        error: packs an exception.
        bytes_max: what the JSON of one value may have at most; a value with more parts than that is refused early.
        shown: whether a value that cannot come back is replaced by what shows the same, instead of being refused.
    """

    def __init__(self, error: Callable[[BaseException], Any], bytes_max: int, *, shown: bool = False) -> None:
        self.stable = True
        self._error = error
        self._bytes_max = self._left = bytes_max
        self._shown = shown

    def pack(self, value: Any, depth: int = 0) -> Any:
        """The value as `msgspec.json` encodes it.

        Raises:
            Inexact: it would not come back as it was.
        """
        kind = type(value)
        self._left = (self._left if depth else self._bytes_max) - (len(value) if kind in {str, bytes, bytearray} else 1)
        if depth > DEPTH_MAX or self._left < 0:
            raise Inexact
        if value is None or kind is bool:
            return value
        packed = _SCALARS.get(kind)
        if packed is not None:
            return packed(value)
        is_set = kind in {set, frozenset} and len(value) > 1
        if kind in {list, tuple, dict} or (kind in {set, frozenset} and not (is_set and self._shown)):
            self.stable &= not is_set
            return self._container(kind, value, depth + 1)
        try:
            return self._other(kind, value, depth + 1)
        except Inexact:
            if not self._shown:
                raise
        try:
            return {f"{TAG}shown": [kind.__module__, kind.__qualname__, _whole(repr(value))]}
        except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
            raise Inexact from None

    def _container(self, kind: type, value: Any, depth: int) -> Any:
        if kind is list:
            return [self.pack(each, depth) for each in value]
        if kind is dict:
            if all(type(key) is str and not key.startswith(TAG) for key in value):
                return {_whole(key): self.pack(each, depth) for key, each in value.items()}
            return {f"{TAG}dict": [[self.pack(key, depth), self.pack(each, depth)] for key, each in value.items()]}
        return {f"{TAG}{kind.__name__}": [self.pack(each, depth) for each in value]}

    def _other(self, kind: type, value: Any, depth: int) -> Any:
        if isinstance(value, Enum):
            return {f"{TAG}enum": [_known(kind), self._member(kind, value, depth)]}
        if isinstance(value, BaseException):
            packed = self._error(value)
            self.stable &= not (isinstance(packed, dict) and packed.get("stands_in", False))
            return {f"{TAG}error": packed}
        if isinstance(value, type):
            if loaded(place_of(value)) is not value:
                raise Inexact
            return {f"{TAG}type": place_of(value)}
        if kind in _AS_TEXT or place_of(kind) in _AS_TEXT_TOO:
            return {f"{TAG}text": [place_of(kind), _same(value, str(value), kind)]}
        if kind in _AS_ISO:
            text = value.isoformat() + (_SECOND_FOLD if getattr(value, "fold", 0) else "")
            return {f"{TAG}{kind.__name__}": _same(value, text, lambda text: _moment(kind, text))}
        if kind is dt.timedelta:
            return {f"{TAG}timedelta": [value.days, value.seconds, value.microseconds]}
        raise Inexact

    def _member(self, kind: type[Enum], value: Enum, depth: int) -> Any:
        if kind.__members__.get(value.name or "") is value:
            return value.name
        made = kind(value.value)  # several flags at once have no name of their own
        if made is not value:
            raise Inexact
        return [self.pack(value.value, depth)]


def unpack(packed: Any, error: Callable[[Any], BaseException]) -> Any:
    """The value that was packed.

    Raises:
        Exception: it cannot be made in this process, for example as its class is not loaded here.
    """
    if isinstance(packed, list):
        return [unpack(each, error) for each in packed]
    if not isinstance(packed, dict):
        return packed
    kind = next(iter(packed), "")
    if len(packed) != 1 or not kind.startswith(TAG):
        return {key: unpack(each, error) for key, each in packed.items()}
    value = packed[kind]
    if kind == f"{TAG}error":
        return error(value)
    return _UNPACKED[kind.removeprefix(TAG)](value, error)


def _unpacked_dict(pairs: Any, error: Any) -> Any:
    return {unpack(key, error): unpack(each, error) for key, each in pairs}


def _unpacked_enum(value: Any, error: Any) -> Any:
    place, member = value
    kind = loaded(place)
    return kind[member] if isinstance(member, str) else kind(unpack(member[0], error))


def _unpacked_text(value: Any, _error: Any) -> Any:
    place, text = value
    made = next((kind for kind in _AS_TEXT if place_of(kind) == place), None)
    return (made or loaded(place))(text)


def _unpacked_type(place: Any, _error: Any) -> Any:
    found = loaded(place)
    if not isinstance(found, type):
        raise Inexact
    return found


def _unpacked_shown(value: Any, _error: Any) -> Any:
    module, qualname, text = value
    members = {"__module__": module, "__qualname__": qualname, "__repr__": lambda _self: text}
    return type(qualname.rpartition(".")[2], (), members)()


_UNPACKED: dict[str, Callable[[Any, Any], Any]] = {
    "tuple": lambda value, error: tuple(unpack(value, error)),
    "set": lambda value, error: set(unpack(value, error)),
    "frozenset": lambda value, error: frozenset(unpack(value, error)),
    "dict": _unpacked_dict,
    "enum": _unpacked_enum,
    "type": _unpacked_type,
    "text": _unpacked_text,
    "shown": _unpacked_shown,
    "bytes": lambda value, _error: base64.b64decode(value),
    "bytearray": lambda value, _error: bytearray(base64.b64decode(value)),
    "str": lambda value, _error: base64.b64decode(value).decode("utf-8", "surrogatepass"),
    "int": lambda value, _error: int(value, 16),
    "float": lambda value, _error: float(value),
    "timedelta": lambda value, _error: dt.timedelta(*value),
    "datetime": lambda value, _error: _moment(dt.datetime, value),
    "date": lambda value, _error: _moment(dt.date, value),
    "time": lambda value, _error: _moment(dt.time, value),
}


def _text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {f"{TAG}str": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}
    return value


def _whole(text: str) -> str:
    """Text that JSON can carry as it is."""
    if not isinstance(_text(text), str):
        raise Inexact
    return text


_SCALARS: dict[type, Callable[[Any], Any]] = {
    str: _text,
    int: lambda value: value if -_INTEGER_MAX <= value < _INTEGER_MAX else {f"{TAG}int": hex(value)},
    float: lambda value: value if math.isfinite(value) else {f"{TAG}float": str(value)},
    bytes: lambda value: {f"{TAG}bytes": base64.b64encode(value).decode()},
    bytearray: lambda value: {f"{TAG}bytearray": base64.b64encode(value).decode()},
}


def _moment(kind: Any, text: str) -> Any:
    made = kind.fromisoformat(text.removesuffix(_SECOND_FOLD))
    return made.replace(fold=1) if text.endswith(_SECOND_FOLD) else made


def _known(kind: type) -> str:
    place = place_of(kind)
    if loaded(place) is not kind:
        raise Inexact
    return place


def _same(value: Any, text: str, make: Callable[[str], Any]) -> str:
    if repr(make(text)) != repr(value):
        raise Inexact
    return text
