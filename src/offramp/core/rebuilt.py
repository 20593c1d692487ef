"""Rebuilds exceptions from recorded failures: in their own class with everything recorded, or as a stand-in.

Only classes of modules that are already imported are used: journaled data never imports code. No user-defined
`__init__` or `__new__` runs.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import Any

import msgspec

from offramp.core.exact import loaded, unpack
from offramp.core.pydantic_errors import is_validation_error, made_of
from offramp.core.recorded import RECORDED, Failure, attributes_of, mark, mark_traceback, member, recorded_text
from offramp.errors import StepFailed

ALWAYS_THERE = {"builtins", "offramp.errors"}
"""Modules whose classes every process has."""
_HEAP_TYPE = 1 << 9
"""Of a class's `__flags__`: it was made at run time, as by a `class` statement."""


class StandIn(StepFailed):
    """Has the name of an exception's class, its loaded ancestors as bases, and its text."""

    def __str__(self) -> str:
        return recorded_text(attributes_of(self)[RECORDED])

    def __repr__(self) -> str:
        return BaseException.__repr__(self)


def exception_of(failure: Failure) -> Exception:
    """The exception a failure was made of, where it can be as it was; else what stands in for it, a `StepFailed`."""
    error = None if failure.stands_in else rebuilt(failure)
    if not isinstance(error, Exception):
        error = _stand_in(failure)
    if failure.step is not None:
        mark(error, failure.step, failure.attempt)
    return error


def rebuilt(failure: Failure) -> BaseException | None:
    """The exception again, of its own class; None where that cannot be made here."""
    if failure.causes and failure.args is None:  # as earlier versions recorded it
        return ExceptionGroup(failure.message, [exception_of(cause) for cause in failure.causes])
    kind = loaded(failure.type or "")
    if failure.args is None or not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return None
    try:
        return _made(kind, failure, failure.args)
    except Exception:  # noqa: BLE001 - a user's own class may raise anything
        return None


def _made(kind: type[BaseException], failure: Failure, packed: bytes) -> BaseException:
    args = msgspec.json.decode(packed)
    if issubclass(kind, BaseExceptionGroup):
        error = _group(kind, failure, args)
    elif is_validation_error(kind):
        error = made_of(kind, unpack(args, _nested))
    else:
        error = _blank(kind, tuple(unpack(args, _nested)))
    for name, value in _attributes(failure).items():
        _set(error, name, unpack(value, _nested))
    _furnish(error, failure)
    return error


def _nested(packed: Any) -> BaseException:
    failure = packed if isinstance(packed, Failure) else msgspec.convert(packed, Failure)
    again = None if failure.stands_in else rebuilt(failure)
    if again is None:
        return exception_of(failure)
    if failure.step is not None:
        mark(again, failure.step, failure.attempt)
    return again


def _group(kind: type[BaseException], failure: Failure, packed: list[Any]) -> BaseException:
    assert issubclass(kind, BaseExceptionGroup)  # noqa: S101 - so that types are known
    members = [_nested(cause) for cause in failure.causes]
    error = BaseExceptionGroup.__new__(kind, unpack(packed[0], _nested), members)
    for own in packed[1:]:  # arguments of a constructor of its own, with members by place

        def placed(each: Any) -> BaseException:
            return members[each] if isinstance(each, int) else _nested(each)

        vars(BaseException)["args"].__set__(error, tuple(unpack(own, placed)))
    return error


def _blank(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception whose class's own code has not run."""
    builtin: Any = kind
    while builtin.__flags__ & _HEAP_TYPE:
        builtin = builtin.__base__
    error: BaseException = builtin.__new__(kind)
    vars(BaseException)["args"].__set__(error, args)
    return error


def _attributes(failure: Failure) -> dict[str, Any]:
    found: dict[str, Any] = {} if failure.attributes is None else msgspec.json.decode(failure.attributes)
    return found


def _set(error: BaseException, name: str, value: Any) -> None:
    descriptor = member(type(error), name)
    if descriptor is None:
        attributes_of(error)[name] = value
        return
    with contextlib.suppress(AttributeError):  # what is read-only follows from the rest
        descriptor.__set__(error, value)


def _furnish(error: BaseException, failure: Failure) -> None:
    if failure.notes:
        attributes_of(error)["__notes__"] = list(failure.notes)
    if failure.cause is not None:
        error.__cause__ = _nested(failure.cause)
    mark_traceback(error, failure.traceback)


def _stand_in(failure: Failure) -> Exception:
    if _is_of_earlier_version(failure):
        return StepFailed(failure.message)
    text = recorded_text(failure)
    args: tuple[Any, ...] = (text,)
    ancestors = [loaded(place) for place in (failure.type or "", *failure.bases)]
    fit = [kind for kind in ancestors if isinstance(kind, type) and issubclass(kind, Exception)]
    if failure.args is not None and not failure.causes and not any(map(is_validation_error, fit)):
        with contextlib.suppress(Exception):
            args = tuple(unpack(msgspec.json.decode(failure.args), _nested))
    tried = (tuple(_nearest(fit)), *((kind,) for kind in fit), ())
    error = next(made for bases in tried if (made := _standing(failure, bases, args)) is not None)
    for name, value in _attributes(failure).items():
        with contextlib.suppress(Exception):
            _set(error, name, unpack(value, _nested))
    attributes_of(error)[RECORDED] = failure
    _furnish(error, failure)
    return error


def _nearest(kinds: list[type[Exception]]) -> list[type[Exception]]:
    """The classes without those that are ancestors of others among them."""
    return [kind for kind in kinds if not any(other is not kind and issubclass(other, kind) for other in kinds)]


def _standing(failure: Failure, bases: tuple[type[Exception], ...], args: tuple[Any, ...]) -> Exception | None:
    try:
        kind = _class_of(failure.type or "", bases)
        if issubclass(kind, BaseExceptionGroup):
            made = _group(kind, failure, [""] if failure.args is None else msgspec.json.decode(failure.args))
        else:
            made = _blank(kind, args)
    except Exception:  # noqa: BLE001 - a class may refuse to be derived from in any way
        return None
    return made if isinstance(made, Exception) else None


@lru_cache(maxsize=256)
def _class_of(place: str, bases: tuple[type[Exception], ...]) -> type[BaseException]:
    module, _, qualname = place.partition(":")
    members = {"__module__": module, "__qualname__": qualname}
    return type(qualname.rpartition(".")[2], (StandIn, *bases), members)


def _is_of_earlier_version(failure: Failure) -> bool:
    if failure.stands_in or failure.bases:
        return False
    return failure.args is None or (failure.type or "").partition(":")[0] not in ALWAYS_THERE
