"""When a failed attempt of a step is tried again, and after how long. Pure: randomness is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from offramp.core.limits.headers import parse_retry_after
from offramp.core.limits.raised import CHAIN_MAX, answer_of
from offramp.core.limits.said import is_final, judged, wait_s
from offramp.errors import CircuitOpen, DeclarationError

RETRY_ATTEMPTS_MAX = 100
Kinds = type[Exception] | tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Retries of a step: exponential backoff with full jitter.

    The delay after attempt n is uniform in `[0, min(cap, base * factor ** (n - 1))]` seconds ("full jitter",
    Marc Brooker, AWS Architecture Blog, 2015), but never less than what the failing server asked for with
    `Retry-After` or the like, as far as `retry_after_max` goes. An answer that says that money is used up
    (`insufficient_quota`) ends the step; an open breaker (`CircuitOpen`) is waited for without using up an attempt,
    but not by a step that has only one.

    Args:
        attempts: tries in all, the first included; 1 to 100.
        base: seconds, the ceiling of the first delay.
        factor: growth of the ceiling per attempt.
        cap: seconds, the highest ceiling.
        on: exception classes worth another try, as a tuple or one alone. An exception counts as one of them if it is,
            or if one that it was raised `from` is; a group also if all its members do. An answer of 400, 401, 403, 404
            or 422, which a repetition would get again, ends the step all the same, unless `on` names the very class of
            its exception.
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


def covers(
    error: BaseException, kinds: Kinds, members: Callable[[Iterable[bool]], bool], around: frozenset[int] = frozenset()
) -> bool:
    """Whether an exception counts as one of these classes.

    Args:
        error: the exception.
        kinds: one class, or a tuple.
        members: `any` or `all`: how many members of a group have to count.
        around: the exceptions around it, by identity.
    """
    if isinstance(error, kinds):
        return True
    if id(error) in around or len(around) >= CHAIN_MAX:
        return False
    around |= {id(error)}
    within = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    if within and members(covers(each, kinds, members, around) for each in within):
        return True
    cause = error.__cause__
    return cause is not None and covers(cause, kinds, members, around)


def delay_s(retry: Retry, attempt: int, error: Exception, jitter: float, retry_after: float | None) -> float | None:
    """Seconds to wait before the next attempt, or None when the step has failed for good.

    Args:
        retry: the step's policy.
        attempt: how many attempts were made that count (`counted`), the one that just failed included.
        error: what it raised.
        jitter: a number in [0, 1).
        retry_after: what the failing server asked for, in seconds.
    """
    if max(attempt, 1) >= retry.attempts or not covers(error, retry.on, all) or covers(error, retry.never, any):
        return None
    if is_hopeless(error, retry.on):
        return None
    if retry_after is not None and retry_after > retry.retry_after_max:
        return None
    try:
        ceiling = min(retry.cap, retry.base * retry.factor ** max(attempt - 1, 0))
    except OverflowError:
        ceiling = retry.cap if retry.base else 0.0
    return max(jitter * ceiling, retry_after or 0.0)


def counted(attempts: int, earlier: Iterable[str], error: BaseException) -> int:
    """How many of the attempts count: all but those that an open breaker stopped.

    Args:
        attempts: that have been made.
        earlier: the codes of the errors of all but the last.
        error: of the last one.
    """
    stopped = sum(code == CircuitOpen.code for code in earlier) + covers(error, CircuitOpen, all)
    return max(attempts - stopped, 0) if attempts < RETRY_ATTEMPTS_MAX else attempts


def is_hopeless(error: BaseException, named: Kinds = ()) -> bool:
    """Whether another attempt would fail the same way.

    So does a request that is answered with 400, 401, 403, 404 or 422, unless the class of its exception is named; and
    every request while `insufficient_quota` or the like is the answer. Also looks at what the error was raised from,
    and at the members of a group, of which one is enough.

    Args:
        error: what the attempt raised.
        named: classes of exceptions. One that has no answer itself, or a group, may be named for what it stands for.
    """
    return _is_hopeless(error, named if isinstance(named, tuple) else (named,), set(), is_named=False)


def _is_hopeless(error: BaseException, named: tuple[type, ...], seen: set[int], *, is_named: bool) -> bool:
    if id(error) in seen or len(seen) > CHAIN_MAX:
        return False
    seen.add(id(error))
    is_named = is_named or type(error) in named
    answer = answer_of(error)
    verdict = None if answer is None else judged(answer, 0.0)
    if answer is not None and verdict is not None:
        return verdict.how == "exhausted" or (is_final(answer, verdict) and not is_named)
    within = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    causes = () if error.__cause__ is None else (error.__cause__,)
    return any(_is_hopeless(each, named, seen, is_named=is_named) for each in (*within, *causes))


def retry_after_s(error: BaseException, now: float) -> float | None:
    """The wait that a failed call asks for, in seconds; None when there is none or it cannot be read.

    Looks for a `retry_after` attribute: seconds or an HTTP date (RFC 9110, section 10.2.3). Then in the answer that the
    error was made of, where httpx, requests, botocore and the SDKs of OpenAI and Anthropic keep it: `retry-after-ms`,
    `Retry-After`, the end of a limit that has nothing left. Then at the members of a group, of which the longest wait
    counts, and at what the error was raised from.
    """
    return _retry_after_s(error, now, set())


def _retry_after_s(error: BaseException, now: float, seen: set[int]) -> float | None:
    if id(error) in seen or len(seen) > CHAIN_MAX:
        return None
    seen.add(id(error))
    asked = _asked_s(error, now)
    if asked is None and isinstance(error, BaseExceptionGroup):
        of_members = [_retry_after_s(each, now, seen) for each in error.exceptions]
        asked = max((each for each in of_members if each is not None), default=None)
    if asked is None and error.__cause__ is not None:
        return _retry_after_s(error.__cause__, now, seen)
    return asked


def _asked_s(error: BaseException, now: float) -> float | None:
    try:
        asked = parse_retry_after(getattr(error, "retry_after", None), now)
    except Exception:  # noqa: BLE001 - a property of a class of the user's own may raise anything
        asked = None
    if asked is not None:
        return asked
    answer = answer_of(error)
    return None if answer is None else wait_s(answer, now)
