"""What an exception of an HTTP client or SDK says of a call. Pure, never raises, imports none of them.

Known by their form: httpx, openai, anthropic, botocore, requests, aiohttp, urllib and SDKs made alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.core.limits.headers import headers_of
from offramp.core.limits.said import Answer, Verdict, judged, words
from offramp.errors import OfframpError, Unreachable

CHAIN_MAX = 100
"""Exceptions, by causes and groups of one another, that are looked at."""
SAYS_NOTHING = Verdict("cancelled")
"""Of an exception that is not about the provider."""

UNUSED = frozenset({"PoolTimeout", "LocalProtocolError", "UnsupportedProtocol", "InvalidURL"})
"""Names of classes of exceptions with which no request was sent."""
TIMEOUTS = words(
    """
    TimeoutError TimeoutException APITimeoutError Timeout ConnectTimeoutError ReadTimeoutError ServerTimeoutError
    DeadlineExceeded
    """
)
BROKEN = words(
    """
    ReadError RemoteProtocolError IncompleteRead IncompleteReadError ChunkedEncodingError ClientPayloadError
    ResponseStreamingError ServerDisconnectedError ConnectionClosedError
    """
)
"""Of connections that break in an answer."""
UNREACHED = words(
    """
    TransportError APIConnectionError ConnectionError HTTPClientError ClientConnectionError NetworkError
    ConnectError gaierror URLError
    """
)
_ORDER = ("exhausted", "throttled", "failed", "ok", "unused", "cancelled")


def verdict_of_error(error: BaseException, now: float) -> Verdict:
    """What an exception says of the call that it ended.

    `cancelled` if it says nothing of the provider: a cancellation, or an exception of the user's own code.

    Args:
        error: the exception.
        now: epoch seconds.
    """
    try:
        return _verdict(error, now, set()) or SAYS_NOTHING
    except Exception:  # noqa: BLE001 - what a class of the user's own may raise
        return SAYS_NOTHING


def _verdict(error: BaseException, now: float, seen: set[int]) -> Verdict | None:
    if id(error) in seen or len(seen) > CHAIN_MAX or _is_ours(error):
        return None
    seen.add(id(error))
    cause = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        each = [_verdict(member, now, seen) for member in error.exceptions]
        worst = min((one for one in each if one is not None), key=lambda one: _ORDER.index(one.how), default=None)
        return worst if worst is not None or cause is None else _verdict(cause, now, seen)
    if not isinstance(error, Exception):
        return None
    answer = answer_of(error)
    verdict = None if answer is None else judged(answer, now)
    if verdict is not None:
        return verdict
    names = {each.__name__ for each in type(error).__mro__}
    verdict = _by_name(names)
    if cause is not None and (verdict is None or "APIConnectionError" in names):  # which wraps whatever was raised
        return None if _is_ours(cause) else _verdict(cause, now, seen) or verdict
    return verdict


def _is_ours(error: BaseException) -> bool:
    """Whether it is about Offramp in this process, not about the answer of another one."""
    return isinstance(error, OfframpError) and error.problem is None and not isinstance(error, Unreachable)


def _by_name(names: set[str]) -> Verdict | None:
    if names & UNUSED:
        return Verdict("unused")
    for known, says in ((TIMEOUTS, "timeout"), (BROKEN, "broken connection"), (UNREACHED, "connection error")):
        if names & known:
            return Verdict("failed", says)
    return None


def answer_of(error: BaseException) -> Answer | None:
    """The answer that an exception was made of; None if it has none."""
    try:
        return None if _is_ours(error) else _answer_of(error)
    except Exception:  # noqa: BLE001 - a property of a class of the user's own may raise anything
        return None


def _answer_of(error: BaseException) -> Answer | None:
    if isinstance(error, OfframpError):  # of another gateway, as `offramp.Client` raises it
        if error.problem is None:
            return None
        asked = getattr(error, "retry_after", None)
        return Answer(error.status, {} if asked is None else {"retry-after": str(asked)})
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return _of_botocore(response)
    headers = getattr(response, "headers", None)
    headers = getattr(error, "headers", None) if headers is None else headers
    status = _status(getattr(error, "status_code", None)) or _status(getattr(response, "status_code", None))
    if status is None and headers is not None:
        status = _status(getattr(error, "status", None)) or _status(getattr(error, "code", None))
    if status is None and not any(each.__name__ == "APIError" for each in type(error).__mro__):
        return None if headers is None else Answer(None, headers_of(headers))
    body = getattr(error, "body", None)
    if body is None:
        body = getattr(response, "_content", None)  # what has been read: the public name may read more, or raise
    return Answer(status, {} if headers is None else headers_of(headers), body)


def _of_botocore(response: Mapping[Any, Any]) -> Answer | None:
    """The answer in `ClientError.response`."""
    meta, error = response.get("ResponseMetadata"), response.get("Error")
    meta = meta if isinstance(meta, Mapping) else {}
    if not meta and not isinstance(error, Mapping):
        return None
    headers = meta.get("HTTPHeaders")
    return Answer(_status(meta.get("HTTPStatusCode")), {} if headers is None else headers_of(headers), {"error": error})


def _status(value: object) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599 else None
