"""Failures as data: what is journaled of an exception, shown of it, and made of it again on replay."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import msgspec

from offramp.errors import OfframpError, StepFailed

MESSAGE_LENGTH_MAX = 2_000
ARGUMENTS_BYTES_MAX = 8_000
"""Of an exception's arguments as JSON, and of its attributes; more of them are not kept."""
CAUSES_MAX = 20


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of a step or a run.

    `type` is the exception's `module:qualname`, `args` its JSON-encoded arguments where they can be encoded, and
    `attributes` those of its attributes that JSON gives back as they were: enough to raise it again on replay. `causes`
    are the members of an exception group.
    """

    code: str
    message: str
    step: str | None = None
    attempt: int | None = None
    type: str | None = None
    args: bytes | None = None
    causes: list[Failure] = []
    attributes: bytes | None = None

    def public(self) -> dict[str, Any]:
        """`{code, message, step, attempt}`, and `causes` where there are several."""
        shown: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "step": self.step,
            "attempt": self.attempt,
        }
        if self.causes:
            shown["causes"] = [cause.public() for cause in self.causes]
        return shown


def failure_of(error: BaseException, step: str | None = None, attempt: int | None = None) -> Failure:
    """Describe an exception; one that a step already failed with keeps that step's name and attempt."""
    step, attempt = getattr(error, "__offramp_step__", (step, attempt))
    code = "step-failed" if step is not None else "pipeline-failed"
    if isinstance(error, OfframpError):
        code = error.code
    causes: list[Failure] = []
    message = _message(error)
    if isinstance(error, BaseExceptionGroup):
        causes = [failure_of(cause, step, attempt) for cause in error.exceptions[:CAUSES_MAX]]
        message = "; ".join([message, *(cause.message for cause in causes)])[:MESSAGE_LENGTH_MAX]
    kind = f"{type(error).__module__}:{type(error).__qualname__}"
    return Failure(code, message, step, attempt, kind, _encoded_args(error), causes, _encoded_attributes(error))


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything, and must not hide the failure
        text = "<the exception's own __str__ failed>"
    name = type(error).__name__
    said = (f"{name}: {text}" if text else name)[:MESSAGE_LENGTH_MAX]
    # What came from undecodable bytes may hold halves of surrogate pairs, which no encoding can carry.
    return said.encode("utf-8", "replace").decode()


def _encoded_args(error: BaseException) -> bytes | None:
    if isinstance(error, BaseExceptionGroup):
        return None
    try:
        encoded = msgspec.json.encode(error.args)
    except (TypeError, ValueError, RecursionError):
        return None
    return encoded if len(encoded) <= ARGUMENTS_BYTES_MAX else None


def _encoded_attributes(error: BaseException) -> bytes | None:
    kept = {name: value for name, value in vars(error).items() if not name.startswith("__") and _survives_json(value)}
    encoded = msgspec.json.encode(kept)
    return encoded if kept and len(encoded) <= ARGUMENTS_BYTES_MAX else None


def _survives_json(value: Any) -> bool:
    """Whether JSON gives the same value back; tuples, dates and objects of one's own come back as something else."""
    try:
        again = msgspec.json.decode(msgspec.json.encode(value))
        return type(again) is type(value) and bool(again == value)
    except Exception:  # noqa: BLE001 - a user's own class may raise anything when it is encoded or compared
        return False


def exception_of(failure: Failure) -> Exception:
    """The exception a failure was made of, as far as its class is loaded here; else `StepFailed`.

    Only classes in modules that are already imported are used: journaled data never imports code. The class's
    `__init__` is not run again; `args` are restored, and of the attributes those that are plain JSON values.
    """
    error = _rebuilt(failure) or StepFailed(failure.message)
    if failure.step is not None:
        mark(error, failure.step, failure.attempt)
    return error


def mark(error: BaseException, step: str, attempt: int | None) -> None:
    """Note on an exception which step raised it, whatever its class thinks of new attributes."""
    object.__setattr__(error, "__offramp_step__", (step, attempt))


def annotate(error: BaseException, note: str) -> None:
    """`add_note`, unless the exception's class refuses it, as a frozen dataclass does."""
    with contextlib.suppress(Exception):
        error.add_note(note)


def _rebuilt(failure: Failure) -> Exception | None:
    if failure.causes:
        return ExceptionGroup(failure.message, [exception_of(cause) for cause in failure.causes])
    if failure.type is None or failure.args is None:
        return None
    module, _, qualname = failure.type.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return None
    try:
        args = tuple(msgspec.json.decode(failure.args))
        try:
            error = found.__new__(found, *args)  # where OSError keeps its errno
        except TypeError:
            error = found.__new__(found)
        error.args = args
        if failure.attributes is not None:
            vars(error).update(msgspec.json.decode(failure.attributes))
    except Exception:  # noqa: BLE001 - a class with a demanding __new__ falls back to StepFailed
        return None
    return error
