"""What a gateway refuses, as the package's own errors with the problem document as `.problem`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from offramp import errors
from offramp.client.effects import Head
from offramp.document import Problem, read
from offramp.errors import OfframpError, Unreachable

TYPE_PREFIX = "urn:offramp:error:"
RETRY_AFTER_S_MAX = 3_600.0
"""A longer `Retry-After` counts as this."""
PASSING = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed."""


def _all(kind: type[OfframpError]) -> Iterator[type[OfframpError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _all(below)


_BY_CODE = {kind.code: kind for kind in _all(OfframpError)}
# For codes that this version does not know.
_BY_STATUS: Mapping[int, type[OfframpError]] = {
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    409: errors.RunConflict,
    410: errors.RunGone,
    429: errors.TenantLimit,
    503: errors.Overloaded,
}


def refusal(head: Head, body: bytes, where: str) -> OfframpError:
    """The error for an answer that is no success; `where` is the address, for the message."""
    if 300 <= head.status < 400:
        elsewhere = head.headers.get("location", "another address")
        return errors.UnexpectedAnswer(f"{where} redirects to {elsewhere}: give that address to the client")
    problem = problem_in(body)
    if problem is None:
        kind = Unreachable if head.status in PASSING else errors.UnexpectedAnswer
        answer = f"{head.status} {head.reason}".strip()
        return kind(f"{where} answered {answer} without a problem document: is it an Offramp gateway?")
    return error_of(problem, retry_after_s(head))


def problem_in(body: bytes) -> Problem | None:
    """The problem document, None if the body is none."""
    try:
        return read(Problem, msgspec.json.decode(body, type=dict[str, Any]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def error_of(problem: Problem, retry_after: float | None = None) -> OfframpError:
    """The error that a problem document describes."""
    error = _ended(problem) or _kind(problem)(problem.detail or problem.title)
    error.problem = problem
    if isinstance(error, errors.InputError):
        error.errors = [(each.pointer, each.message) for each in problem.errors]
    if retry_after is not None and isinstance(error, (errors.TenantLimit, errors.Overloaded)):
        error.retry_after = retry_after
    return error


def _kind(problem: Problem) -> type[OfframpError]:
    known = _BY_CODE.get(problem.type.removeprefix(TYPE_PREFIX))
    if known is not None:
        return known
    usual = errors.RequestError if 400 <= problem.status < 500 else OfframpError
    return _BY_STATUS.get(problem.status, usual)


def _ended(problem: Problem) -> OfframpError | None:
    """The outcome of the run, where that is why there is no result."""
    if problem.error is None:
        return None
    code, step = str(problem.error.get("code", "")), problem.error.get("step")
    message = str(problem.error.get("message") or problem.detail)
    if code == errors.RunCancelled.code:
        return errors.RunCancelled(message)
    if code == errors.RunExpired.code:
        return errors.RunExpired(message)
    return errors.RunFailed(message, code, step if isinstance(step, str) else None)


def retry_after_s(head: Head) -> float | None:
    """The seconds in `Retry-After`; None without one. A date, which no gateway sends, does not count."""
    text = head.headers.get("retry-after", "").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return min(float(text), RETRY_AFTER_S_MAX)
