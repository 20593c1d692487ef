"""How an attempt of a step ended, as a value."""

from __future__ import annotations

from typing import Any, final

import msgspec


@final
class Completed(msgspec.Struct):
    """The code has returned, and its result could be written.

    Attributes:
        result: what the body is given.
        encoded: the same as JSON.
    """

    result: Any
    encoded: bytes


class Failed(msgspec.Struct):
    """The step has failed for good; `error` is what the body is given."""

    error: Exception


class RetryLater(msgspec.Struct):
    """The attempt failed with `error`, and another one is due after `delay_s`; the log says so."""

    error: Exception
    delay_s: float


class Interrupted(msgspec.Struct):
    """The attempt was stopped from outside and says nothing about the step; `by` is what its task is to raise."""

    by: BaseException


class Postponed(msgspec.Struct):
    """The attempt has not begun, and is to be made at `until`, in epoch seconds."""

    until: float


AttemptOutcome = Completed | Failed | RetryLater | Postponed | Interrupted


class FailedAttempt(msgspec.Struct, frozen=True):
    """A failed attempt: its number, the code and message of its error, and, from an event, when and where it failed.

    In a failover also the target that failed.
    """

    number: int
    code: str
    message: str
    at: str = ""
    where: dict[str, Any] | None = None
    target: str | None = None

    def public(self) -> dict[str, Any]:
        """`{code, message, attempt, at, where}`, and `target` in a failover."""
        shown = {
            "code": self.code,
            "message": self.message,
            "attempt": self.number,
            "at": self.at,
            "where": self.where,
        }
        return shown if self.target is None else {**shown, "target": self.target}
