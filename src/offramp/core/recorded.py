"""Failures as data: what the journal records of an exception, what is shown, and what Offramp notes on exceptions."""

from __future__ import annotations

import contextlib
import types
from typing import Any, NamedTuple

import msgspec

MESSAGE_LENGTH_MAX = 2_000
ARGUMENTS_BYTES_MAX = 8_000
"""The limit of an exception's arguments as JSON, of its attributes, and of its notes; the rest is dropped."""
CAUSES_MAX = 20
"""The limit of a group's members, and of nested exceptions."""
FAILURE_BYTES_MAX = 64_000
"""The approximate limit of one failure with its causes."""

STEP, LIVE, RECORDED = "__offramp_step__", "__offramp_live__", "__offramp_failure__"
TRACEBACK = "__offramp_traceback__"
"""The attributes that Offramp sets on exceptions: step and attempt, the exception it stands for, its failure, and the
frames that are recorded of it."""
_MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_READ_ONLY = {"message", "exceptions"}


class Frame(NamedTuple):
    """One frame: its file, below the folder that its module is imported from; `is_user` if the code is the user's."""

    file: str
    line: int
    function: str
    is_user: bool = False

    def public(self) -> dict[str, Any]:
        """`{file, line, function}`."""
        return {"file": self.file, "line": self.line, "function": self.function}


class Traceback(msgspec.Struct, frozen=True, omit_defaults=True):
    """The frames of an exception, outermost first, and the exception during whose handling it was raised."""

    frames: list[Frame] = []
    left_out: int = 0
    context: Failure | None = None


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of a step or a run.

    Attributes:
        code: for programs.
        message: the class's name and what the exception says.
        step: the step that failed, None in a body.
        attempt: which try of it.
        type: the exception's `module:qualname`.
        args: its arguments as `core/exact.py` packs them, a group's message, or what pydantic makes its own of; None
            where they cannot come back.
        causes: the members of an exception group.
        attributes: its attributes, packed.
        stands_in: whether an exception of its own class would not be as this one was.
        bases: its class's ancestors, nearest first, where they need not be loaded everywhere.
        text: what the exception says, where a stand-in could not take it from `message`.
        notes: what `add_note` was given.
        cause: what it was raised from.
        traceback: its frames, for people; no replay sees them.
    """

    code: str
    message: str
    step: str | None = None
    attempt: int | None = None
    type: str | None = None
    args: bytes | None = None
    causes: list[Failure] = []
    attributes: bytes | None = None
    stands_in: bool = False
    bases: list[str] = []
    text: str | None = None
    notes: list[str] = []
    cause: Failure | None = None
    traceback: Traceback | None = None

    @property
    def where(self) -> Frame | None:
        """The innermost frame of the user's code, of this exception or else of one behind it."""
        trace = self.traceback or Traceback()
        own = next((frame for frame in reversed(trace.frames) if frame.is_user), None)
        behind = (self.cause, trace.context, *self.causes)
        return own or next((found for each in behind if each is not None and (found := each.where)), None)

    def public(self) -> dict[str, Any]:
        """`{code, message, step, attempt, where}`, and `causes` where there are several."""
        where = self.where
        shown: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "step": self.step,
            "attempt": self.attempt,
            "where": None if where is None else where.public(),
        }
        if self.causes:
            shown["causes"] = [cause.public() for cause in self.causes]
        return shown


def text_of(error: BaseException) -> str:
    """The text of the exception, if its `__str__` works."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - a user's __str__ may raise anything, and must not hide the failure
        return "<the exception's own __str__ failed>"


def message_of(name: str, text: str) -> str:
    """The message of a failure."""
    return encodable((f"{name}: {text}" if text else name)[:MESSAGE_LENGTH_MAX])


def recorded_text(failure: Failure) -> str:
    """The text of the exception, as far as it is recorded."""
    if failure.text is not None:
        return failure.text
    name = (failure.type or "").rpartition(":")[2].rpartition(".")[2]
    return "" if failure.message == name else failure.message.removeprefix(f"{name}: ")


def encodable(text: str) -> str:
    # What came from undecodable bytes may hold halves of surrogate pairs, which no encoding can carry.
    return text.encode("utf-8", "replace").decode()


def attributes_of(error: BaseException) -> dict[str, Any]:
    """Its own attributes, read past any override of its class."""
    found: dict[str, Any] = object.__getattribute__(error, "__dict__")
    return found


def member(kind: type, name: str) -> Any:
    """The descriptor of an attribute that an exception keeps outside `__dict__`: OSError.errno, or one of slots."""
    for each in kind.__mro__:
        if each is BaseException:
            return None
        if name in vars(each):
            found = vars(each)[name]
            return found if isinstance(found, _MEMBERS) else None
    return None


def members_of(error: BaseException) -> dict[str, Any]:
    """What an exception keeps outside `__dict__`."""
    found: dict[str, Any] = {}
    for each in type(error).__mro__:
        if each is BaseException:
            break
        for name, kind in vars(each).items():
            if isinstance(kind, _MEMBERS) and not name.startswith("__") and name not in found:
                with contextlib.suppress(AttributeError):
                    value = kind.__get__(error)
                    if value is not None:
                        found[name] = value
    if isinstance(error, BaseExceptionGroup):
        return {name: value for name, value in found.items() if name not in _READ_ONLY}
    return found


def step_of(error: BaseException) -> tuple[str | None, int | None]:
    """The step that raised it, and which attempt; `(None, 1)` where no step did."""
    found: tuple[str | None, int | None] = attributes_of(error).get(STEP, (None, 1))
    return found


def live_of(error: BaseException) -> BaseException | None:
    """The exception that a step raised, where this one stands for it."""
    found: BaseException | None = attributes_of(error).get(LIVE)
    return found


def mark(error: BaseException, step: str, attempt: int | None) -> None:
    """Note on an exception which step raised it, even if its class refuses new attributes."""
    attributes_of(error)[STEP] = (step, attempt)


def mark_traceback(error: BaseException, traceback: Traceback | None) -> None:
    """Note the frames that are recorded of an exception, if any, where it is described again."""
    if traceback is not None:
        attributes_of(error)[TRACEBACK] = traceback


def annotate(error: BaseException, note: str) -> None:
    """`add_note`, unless the exception's class refuses it, as a frozen dataclass does."""
    with contextlib.suppress(Exception):
        error.add_note(note)
