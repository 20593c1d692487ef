"""The errors that only HTTP can cause, what a caller may learn of any error, and problem documents (RFC 9457).

What a caller may not learn goes to the log under an error id.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from offramp.errors import (
    InputError,
    OfframpError,
    Overloaded,
    RateLimited,
    RequestError,
    RunConflict,
    RunGone,
    StoreError,
    StoreTimeout,
    TenantBusy,
    TenantLimit,
    Unauthenticated,
)
from offramp.gateway.reply import Reply

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:offramp:error:"
RETRY_AFTER_S = 1
COARSE_S = (10.0, 1), (60.0, 5), (math.inf, 30)
"""Up to which seconds, and to multiples of how many, the `Retry-After` of a shared resource is rounded up."""
"""Seconds after which to try again, unless the error says otherwise."""

logger = logging.getLogger("offramp.gateway")


class BodyTooLarge(RequestError):
    """The request's body is over `OFFRAMP_MAX_BODY_BYTES`."""

    code = "body-too-large"
    title = "Body too large"
    status = 413


class HeadTooLarge(RequestError):
    """The request's line and headers are over their bound."""

    code = "head-too-large"
    title = "Headers too large"
    status = 431


class RequestTimeout(RequestError):
    """The request did not arrive in the time it has."""

    code = "request-timeout"
    title = "Request takes too long to arrive"
    status = 408


class UnsupportedMediaType(RequestError):
    """The request's body is not declared as JSON."""

    code = "unsupported-media-type"
    title = "Body is not JSON"
    status = 415


class UnknownPath(RequestError):
    """Nothing is served at that path."""

    code = "unknown-path"
    title = "No such path"
    status = 404


class MethodNotAllowed(RequestError):
    """The path exists, but not for this method; `allow` lists its methods."""

    code = "method-not-allowed"
    title = "Method not allowed"
    status = 405

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow


class NotReady(Overloaded):
    """The gateway accepts no work now: it starts, stops, or misses something it needs."""

    code = "not-ready"
    title = "Not ready to take work"


class UpgradeRequired(RequestError):
    """Only WebSockets are served at that path."""

    code = "upgrade-required"
    title = "WebSocket required"
    status = 426


class WrongHost(RequestError):
    """Without keys, this gateway does not answer to the request's host name or web page."""

    code = "wrong-host"
    title = "Not a host of this gateway"
    status = 421


class OriginRefused(RequestError):
    """A page of this origin may not send the request."""

    code = "cross-origin"
    title = "Not from this page"
    status = 403


class NoResult(RunConflict):
    """The run ended without a result; `error` is the run document's."""

    def __init__(self, detail: str, error: dict[str, Any] | None) -> None:
        super().__init__(detail)
        self.error = error


class NoResultInTime(RunGone):
    """The run's deadline passed before it had a result; `error` is the run document's."""

    def __init__(self, detail: str, error: dict[str, Any] | None) -> None:
        super().__init__(detail)
        self.error = error


class Problem(NamedTuple):
    """What the caller may learn of an error; each surface renders it in its own form.

    Attributes:
        kind: the class of the error, with its code, title and status.
        detail: what happened, and what to change.
        extensions: `errors` (fields that do not fit), `error` (a run's error) or `error_id` (to find it in the log).
        headers: HTTP headers that belong to the status.
    """

    kind: type[OfframpError]
    detail: str
    extensions: Mapping[str, Any]
    headers: Mapping[str, str]


def explain(error: Exception) -> Problem:
    """What the caller of a request that raised `error` may learn; logs the rest."""
    headers = _headers(error)
    if isinstance(error, (RequestError, StoreTimeout)):
        detail = str(error) or (error.__doc__ or "").partition("\n")[0]
        return Problem(type(error), detail, _extensions(error), headers)
    kind = type(error) if isinstance(error, OfframpError) else OfframpError
    error_id = secrets.token_hex(8)
    # The store's messages say what to repair, and an unavailable store fails each request: no traceback for those.
    frames = None if isinstance(error, StoreError) else error
    logger.error("error %s: %s: %s", error_id, type(error).__name__, error, exc_info=frames)
    return Problem(kind, _hidden(kind, error_id), {"error_id": error_id}, headers)


def document(problem: Problem) -> Reply:
    """A problem document."""
    kind = problem.kind
    body = {
        "type": TYPE_PREFIX + kind.code,
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        **problem.extensions,
    }
    return Reply(kind.status, msgspec.json.encode(body), problem.headers, CONTENT_TYPE)


def problem(error: Exception) -> Reply:
    """The problem document for `error`; logs what the caller may not see."""
    return document(explain(error))


def _hidden(kind: type[OfframpError], error_id: str) -> str:
    """Operators read the cause in the log; callers learn whether trying again can help."""
    advice = "try again later" if kind.status == 503 else "trying again will not help until an operator has fixed it"
    return f"This is not the request's fault; {advice}. The log has the cause under error id {error_id}."


def _extensions(error: Exception) -> dict[str, Any]:
    if isinstance(error, InputError):
        return {"errors": [{"pointer": pointer, "message": message} for pointer, message in error.errors]}
    if isinstance(error, (NoResult, NoResultInTime)):
        return {"error": error.error}
    if isinstance(error, RateLimited):
        return {"violated-policies": [error.policy]}
    return {}


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, MethodNotAllowed):
        return {"Allow": error.allow}
    if isinstance(error, UpgradeRequired):
        return {"Upgrade": "websocket", "Connection": "Upgrade"}
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": error.challenge}
    if isinstance(error, (Overloaded, TenantBusy)):
        return {"Retry-After": str(coarse(retry_after(error.retry_after)))}
    if isinstance(error, TenantLimit):
        return {"Retry-After": str(retry_after(error.retry_after))}
    if isinstance(error, OfframpError) and error.status in {429, 503}:
        return {"Retry-After": str(RETRY_AFTER_S)}
    return {}


def retry_after(seconds: float) -> int:
    """Whole seconds, at least one (RFC 9110, 10.2.3)."""
    return max(RETRY_AFTER_S, math.ceil(seconds)) if math.isfinite(seconds) else RETRY_AFTER_S


def coarse(seconds: int) -> int:
    """The seconds rounded up: a wait that depends on the runs of every tenant does not tell how many these are."""
    step = next(step for most, step in COARSE_S if seconds <= most)
    return math.ceil(seconds / step) * step
