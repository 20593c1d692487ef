"""Exceptions as failures: every part of an exception that can come back, and whether that is all of it.

Handles exceptions of any class, which may be hostile: an error raised while one is described never hides the failure.
"""

from __future__ import annotations

import types
from typing import Any

import msgspec

from offramp.core.exact import Inexact, Packer, loaded, place_of
from offramp.core.pydantic_errors import is_validation_error, parts_of
from offramp.core.rebuilt import ALWAYS_THERE, StandIn, exception_of, rebuilt
from offramp.core.recorded import (
    ARGUMENTS_BYTES_MAX,
    CAUSES_MAX,
    FAILURE_BYTES_MAX,
    LIVE,
    MESSAGE_LENGTH_MAX,
    RECORDED,
    STEP,
    Failure,
    annotate,
    attributes_of,
    encodable,
    live_of,
    mark,
    members_of,
    message_of,
    recorded_text,
    step_of,
    text_of,
)
from offramp.errors import OfframpError

__all__ = [
    "ARGUMENTS_BYTES_MAX",
    "CAUSES_MAX",
    "FAILURE_BYTES_MAX",
    "MESSAGE_LENGTH_MAX",
    "Failure",
    "annotate",
    "described",
    "exception_of",
    "failure_of",
    "live_of",
    "mark",
    "replayable",
    "step_of",
]


def failure_of(error: BaseException, step: str | None = None, attempt: int | None = None) -> Failure:
    """Describe an exception; one that a step already failed with keeps that step's name and attempt."""
    return described(error, step, attempt)[0]


def described(error: BaseException, step: str | None = None, attempt: int | None = None) -> tuple[Failure, bool]:
    """The same, and whether all that the exception shows is in it: its traceback and `__context__` never are."""
    description = _Description()
    try:
        return description.of(error, step, attempt, 0), description.exact
    except Exception:  # noqa: BLE001 - a class that defeats even that hides no failure
        kind = type(error)
        code = "pipeline-failed" if step is None else "step-failed"
        message = message_of(kind.__name__, text_of(error))
        return Failure(code, message, step, attempt, place_of(kind), stands_in=True, bases=_bases(kind)), False


def replayable(error: Exception) -> tuple[Failure, Exception]:
    """The failure to record for an exception, and the exception that the body gets.

    That is the exception itself if a replay gets all that it shows, else the one that a replay gets.
    """
    failure, exact = described(error)
    if exact:
        return failure, error
    given = exception_of(failure).with_traceback(error.__traceback__)
    attributes_of(given)[LIVE] = error
    return failure, given


class _Description:
    """One description under way: how many bytes are left for it, and whether it is still exact."""

    def __init__(self) -> None:
        self.exact = True
        self._left = FAILURE_BYTES_MAX

    def of(self, error: BaseException, step: str | None, attempt: int | None, depth: int) -> Failure:
        """Describe an exception at this depth of causes."""
        shown = attributes_of(error)
        step, attempt = shown.get(STEP, (step, attempt))
        code = "step-failed" if step is not None else "pipeline-failed"
        if isinstance(error, OfframpError) and not isinstance(error, StandIn):
            code = type(error).code
        notes = self._notes(shown)
        if RECORDED in shown:  # a stand-in: what it stands for is known
            recorded: Failure = shown[RECORDED]
            return msgspec.structs.replace(recorded, code=code, step=step, attempt=attempt, notes=notes)
        kind, text = type(error), text_of(error)
        message = message_of(kind.__name__, text)
        self._left -= len(message)
        causes: list[Failure] = []
        if isinstance(error, BaseExceptionGroup):
            among = error.exceptions[:CAUSES_MAX]
            causes = [self.of(each, step, attempt, depth + 1) for each in among if self._has_room(depth)]
            message = "; ".join([message, *(cause.message for cause in causes)])[:MESSAGE_LENGTH_MAX]
        packer = Packer(lambda each: self._nested(each, depth), ARGUMENTS_BYTES_MAX)
        args = self._args(error, depth, packer)
        failure = Failure(code, message, step, attempt, place_of(kind), args, causes)
        failure = msgspec.structs.replace(
            failure,
            attributes=self._attributes(error, shown, packer),
            bases=_bases(kind),
            notes=notes,
            cause=self._cause(error, depth),
        )
        if args is None or not packer.stable or loaded(place_of(kind)) is not kind or not _says(failure, text):
            self.exact = False
            args = args if packer.stable or causes else None  # else they are shown in another order elsewhere
            text_kept = self._text(failure, text, depth)
            failure = msgspec.structs.replace(failure, args=args, stands_in=True, text=text_kept)
        return failure

    def _has_room(self, depth: int) -> bool:
        has = self._left > 0 and depth < CAUSES_MAX
        self.exact &= has
        return has

    def _nested(self, error: BaseException, depth: int) -> Any:
        if not self._has_room(depth):
            raise Inexact
        return msgspec.to_builtins(self.of(error, None, None, depth + 1))

    def _cause(self, error: BaseException, depth: int) -> Failure | None:
        cause: BaseException | None = vars(BaseException)["__cause__"].__get__(error)
        return None if cause is None or not self._has_room(depth) else self.of(cause, None, None, depth + 1)

    def _args(self, error: BaseException, depth: int, packer: Packer) -> bytes | None:
        try:
            if isinstance(error, BaseExceptionGroup):
                return self._fitting([packer.pack(error.message), *self._args_of_group(error, depth)])
            if is_validation_error(type(error)):
                self.exact &= not error.args
                shown = Packer(lambda each: self._nested(each, depth), ARGUMENTS_BYTES_MAX, shown=True)
                return self._fitting(shown.pack(parts_of(error)))
            return self._fitting([packer.pack(each) for each in vars(BaseException)["args"].__get__(error)])
        except Exception:  # noqa: BLE001 - a user's own class may raise anything when it is taken apart
            return None

    def _args_of_group(self, error: BaseExceptionGroup[BaseException], depth: int) -> list[Any]:
        """Where they are not message and members, as in a class whose constructor takes others: members by place."""
        args = vars(BaseException)["args"].__get__(error)
        if len(args) == len(("message", "members")) and args[0] == error.message and type(args[1]) is list:
            return []
        places = {id(each): place for place, each in enumerate(error.exceptions[:CAUSES_MAX])}

        def placed(each: BaseException) -> Any:
            return places[id(each)] if id(each) in places else self._nested(each, depth)

        try:
            packer = Packer(placed, ARGUMENTS_BYTES_MAX)
            return [[packer.pack(each) for each in args]]
        except Exception:  # noqa: BLE001 - a user's own class may raise anything when it is taken apart
            self.exact = False
            return []

    def _fitting(self, packed: Any) -> bytes:
        encoded = msgspec.json.encode(packed)
        if len(encoded) > min(ARGUMENTS_BYTES_MAX, self._left):
            raise Inexact
        self._left -= len(encoded)
        return encoded

    def _attributes(self, error: BaseException, shown: dict[str, Any], packer: Packer) -> bytes | None:
        kept: dict[str, Any] = {}
        size = len("{}")
        values = {name: value for name, value in shown.items() if not name.startswith("__")}
        for name, value in (members_of(error) | values).items():
            stable = packer.stable
            try:
                packed = packer.pack(value)
                more = len(msgspec.json.encode({name: packed})) - len("{}" if not kept else "{")
                if size + more > min(ARGUMENTS_BYTES_MAX, self._left):
                    raise Inexact
            except Exception:  # noqa: BLE001 - a user's own class may raise anything when it is taken apart
                self.exact = False
            else:
                kept[name] = packed
                size += more
            packer.stable = stable and (packer.stable or not _speaks(type(error)))
        if not kept:
            return None
        self._left -= size
        return msgspec.json.encode(kept)

    def _notes(self, shown: dict[str, Any]) -> list[str]:
        given = shown.get("__notes__", [])
        kept: list[str] = []
        for note in given if isinstance(given, list) else []:
            room = min(ARGUMENTS_BYTES_MAX - sum(map(len, kept)), self._left)
            if type(note) is str and encodable(note) == note and len(note) <= room:
                kept.append(note)
        self._left -= sum(map(len, kept))
        self.exact &= kept == given
        return kept

    def _text(self, failure: Failure, text: str, depth: int) -> str | None:
        text = encodable(text)[: MESSAGE_LENGTH_MAX if depth else ARGUMENTS_BYTES_MAX]
        if (depth and not failure.causes) or text == recorded_text(failure):  # of a cause, its message says enough
            return None
        self._left -= len(text)
        return text


def _speaks(kind: type) -> bool:
    """Whether the class has its own code for the text of its exceptions, which may show any attribute."""
    return any(isinstance(each, types.FunctionType) for each in (kind.__str__, kind.__repr__))


def _says(failure: Failure, text: str) -> bool:
    """Whether the rebuilt exception has the same text."""
    again = rebuilt(failure)
    return again is not None and text_of(again) == text


def _bases(kind: type) -> list[str]:
    if kind.__module__ in ALWAYS_THERE and "<locals>" not in kind.__qualname__:
        return []
    ancestors = [each for each in kind.__mro__[1:] if issubclass(each, Exception) and each is not Exception]
    return [place_of(each) for each in ancestors[:CAUSES_MAX] or kind.__mro__[1:2]]
