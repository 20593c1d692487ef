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
    Traceback,
    annotate,
    attributes_of,
    encodable,
    live_of,
    mark,
    mark_traceback,
    members_of,
    message_of,
    recorded_text,
    step_of,
    text_of,
)
from offramp.core.tracebacks import FRAMES_BYTES_MAX, brief, cause_of, context_of, declared_at, frames_of, size_of
from offramp.errors import Divergence, OfframpError

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


def failure_of(
    error: BaseException, step: str | None = None, attempt: int | None = None, function: Any = None
) -> Failure:
    """Describe an exception; one that a step already failed with keeps that step's name and attempt.

    `function` is the user's whose failure it is. The place of its declaration stands for that of the exception if no
    frame of the user's is known: of a timeout in a thread, for example.
    """
    return _placed(error, step, attempt, function)[0]


def _placed(error: BaseException, step: str | None, attempt: int | None, function: Any) -> tuple[Failure, bool]:
    failure, exact = described(error, step, attempt)
    if function is None or not _is_of_user(error) or _has_user_frame(failure):
        return failure, exact
    where = failure.where  # of an exception behind it
    mark_traceback(error, declared_at(function) if where is None else Traceback([where]))
    return described(error, step, attempt)


def _has_user_frame(failure: Failure) -> bool:
    return failure.traceback is not None and any(frame.is_user for frame in failure.traceback.frames)


def _is_of_user(error: BaseException) -> bool:
    """Whether the user's code is to blame: not for a divergence, which no line of it raises."""
    return not isinstance(error, OfframpError) or (error.fault == "pipeline" and not isinstance(error, Divergence))


def described(error: BaseException, step: str | None = None, attempt: int | None = None) -> tuple[Failure, bool]:
    """The same, and whether all that the exception shows is in it: its traceback and `__context__` do not count."""
    description = _Description()
    try:
        return description.of(error, step, attempt, 0), description.exact
    except Exception:  # noqa: BLE001 - a class that defeats even that hides no failure
        kind = type(error)
        code = "pipeline-failed" if step is None else "step-failed"
        message = message_of(kind.__name__, text_of(error))
        return Failure(code, message, step, attempt, place_of(kind), stands_in=True, bases=_bases(kind)), False


def replayable(error: Exception, function: Any = None) -> tuple[Failure, Exception]:
    """The failure to record for an exception, as `failure_of` describes it, and the exception that the body gets.

    That is the exception itself if a replay gets all that it shows, else the one that a replay gets.
    """
    failure, exact = _placed(error, None, None, function)
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
        self._left_for_frames = FRAMES_BYTES_MAX

    def of(self, error: BaseException, step: str | None, attempt: int | None, depth: int) -> Failure:
        """Describe an exception at this depth of causes."""
        traceback = self._traceback(error, depth)  # before its causes, which get the room that is left
        failure = self._of(error, step, attempt, depth)
        return failure if traceback is None else msgspec.structs.replace(failure, traceback=traceback)

    def _traceback(self, error: BaseException, depth: int) -> Traceback | None:
        found = frames_of(error, self._left_for_frames)
        for frame in () if found is None else found.frames:
            self._left_for_frames -= size_of(frame)
        if found is None or found.context is None:
            context = self._behind(context_of(error), depth + 1)
            if context is not None:
                return msgspec.structs.replace(found or Traceback(), context=context)
        return found

    def _behind(self, error: BaseException | None, depth: int) -> Failure | None:
        """What a traceback shows of an exception that no replay sees, and of those behind it."""
        if error is None or depth > CAUSES_MAX or self._left_for_frames <= 0:
            return None
        made = brief(error)
        self._left_for_frames -= len(made.message)
        traceback = self._traceback(error, depth)
        return msgspec.structs.replace(made, traceback=traceback, cause=self._behind(cause_of(error), depth + 1))

    def _of(self, error: BaseException, step: str | None, attempt: int | None, depth: int) -> Failure:
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
        return msgspec.to_builtins(self._of(error, None, None, depth + 1))

    def _cause(self, error: BaseException, depth: int) -> Failure | None:
        cause = cause_of(error)
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
