"""When a failed attempt of a step is tried again, and after how long. Pure: randomness is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from offramp.errors import DeclarationError

RETRY_ATTEMPTS_MAX = 100
Kinds = type[Exception] | tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Retries of a step: exponential backoff with full jitter.

    The delay after attempt n is uniform in `[0, min(cap, base * factor ** (n - 1))]` seconds ("full jitter",
    Marc Brooker, AWS Architecture Blog, 2015), but never less than what the failing server asked for with
    `Retry-After`, as far as `retry_after_max` goes.

    Args:
        attempts: tries in all, the first included; 1 to 100.
        base: seconds, the ceiling of the first delay.
        factor: growth of the ceiling per attempt.
        cap: seconds, the highest ceiling.
        on: exception classes worth another try, as a tuple or one alone. An exception counts as one of them if it is,
            or if one that it was raised `from` is; a group also if all its members do.
        never: exception classes that end the step at once, even when `on` covers them. Looked for alike, but a single
            member of a group is enough.
        retry_after_max: seconds; a server that asks for a longer wait makes the step fail instead.

    Raises:
        DeclarationError: a value is out of range.
    """

    attempts: int = 3
    base: float = 0.5
    factor: float = 2.0
    cap: float = 30.0
    on: type[Exception] | tuple[type[Exception], ...] = (Exception,)
    never: type[Exception] | tuple[type[Exception], ...] = ()
    retry_after_max: float = 300.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not (isinstance(self.attempts, int) and 1 <= self.attempts <= RETRY_ATTEMPTS_MAX):
            raise DeclarationError(f"Retry(attempts=) is from 1 to {RETRY_ATTEMPTS_MAX}, got {self.attempts!r}")
        for name, low in (("base", 0), ("factor", 1), ("cap", 0), ("retry_after_max", 0)):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= low):
                raise DeclarationError(f"Retry({name}=) is a number, {low} or more, got {value!r}")
        for name in ("on", "never"):
            given = getattr(self, name)
            for kind in given if isinstance(given, tuple) else (given,):
                if not (isinstance(kind, type) and issubclass(kind, Exception)):
                    raise DeclarationError(f"Retry({name}=) takes exception classes, one or a tuple, got {given!r}")


ONCE = Retry(attempts=1)
"""The policy of a step without `retry=`: one attempt."""


CHAIN_MAX = 100
"""The deepest nesting of causes and groups that is searched."""


def covers(error: BaseException, kinds: Kinds, members: Callable[[Iterable[bool]], bool], depth: int = 0) -> bool:
    """Whether an exception counts as one of these classes.

    Args:
        error: the exception.
        kinds: one class, or a tuple.
        members: `any` or `all`: how many members of a group have to count.
        depth: how many exceptions are around it.
    """
    if isinstance(error, kinds):
        return True
    if depth >= CHAIN_MAX:
        return False
    within = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    if within and members(covers(each, kinds, members, depth + 1) for each in within):
        return True
    cause = error.__cause__
    return cause is not None and covers(cause, kinds, members, depth + 1)


def delay_s(retry: Retry, attempt: int, error: Exception, jitter: float, retry_after: float | None) -> float | None:
    """Seconds to wait before the next attempt, or None when the step has failed for good.

    Args:
        retry: the step's policy.
        attempt: the attempt that just failed, counted from 1.
        error: what it raised.
        jitter: a number in [0, 1).
        retry_after: what the failing server asked for, in seconds.
    """
    if attempt >= retry.attempts or not covers(error, retry.on, all) or covers(error, retry.never, any):
        return None
    if retry_after is not None and retry_after > retry.retry_after_max:
        return None
    try:
        ceiling = min(retry.cap, retry.base * retry.factor ** (attempt - 1))
    except OverflowError:
        ceiling = retry.cap if retry.base else 0.0
    return max(jitter * ceiling, retry_after or 0.0)


def retry_after_s(error: BaseException, now: float) -> float | None:
    """The `Retry-After` a failed call carries, in seconds; None when there is none or it cannot be read.

    Looks for a `retry_after` attribute, then for `response.headers`, where httpx, requests and the OpenAI SDK
    keep it: seconds or an HTTP date (RFC 9110, section 10.2.3). Then at the members of a group, of which the longest
    wait counts, and at what the error was raised from.
    """
    return _retry_after_s(error, now, 0)


def _retry_after_s(error: BaseException, now: float, depth: int) -> float | None:
    try:
        asked = parse_retry_after(_asked(error), now)
    except Exception:  # noqa: BLE001 - a property of a class of the user's own may raise anything
        asked = None
    if asked is not None or depth >= CHAIN_MAX:
        return asked
    if isinstance(error, BaseExceptionGroup):
        of_members = [_retry_after_s(each, now, depth + 1) for each in error.exceptions]
        asked = max((each for each in of_members if each is not None), default=None)
    if asked is None and error.__cause__ is not None:
        return _retry_after_s(error.__cause__, now, depth + 1)
    return asked


def _asked(error: BaseException) -> object:
    value = getattr(error, "retry_after", None)
    if value is not None:
        return value
    headers = getattr(getattr(error, "response", None), "headers", None)
    return None if headers is None else headers.get("retry-after")


def parse_retry_after(value: object, now: float) -> float | None:
    """Seconds from a number, a string of seconds or an HTTP date; None when it is none of these."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return _from_http_date(value, now)
    return seconds if 0 <= seconds < float("inf") else None


def _from_http_date(value: object, now: float) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(str(value)).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None
