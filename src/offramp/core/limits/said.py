"""What a provider's answer says of a call: that it was fine, failed, was refused by a limit, and how long to wait.

Pure and never raises: answers are data from outside, read as far as they have a known form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from offramp.core.limits.headers import asked_s, duration_s, headers_of, reset_s
from offramp.core.limits.messages import How

BODY_BYTES_MAX = 65_536
"""A longer body of an error is not read."""
CODE_CHARS_MAX = 60
MESSAGE_CHARS_MAX = 2_000
"""So much of a message is searched for `try again in 1.2s` or `retry in 1.2s`."""
EXHAUSTED_S = 60.0
"""How long a provider is not called that refuses all calls until its bill is paid, or a limit of money raised."""
BLOCKED_S_MAX = 3_600.0
"""A provider that asks for more is tried again after this time."""


def words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


EXHAUSTED = words(
    """
    insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded
    organization_usage_limit_exceeded billing_hard_limit_reached billing_not_active billing_error
    enforced_spend_limit_reached
    """
)
"""Codes of OpenAI and Anthropic that no wait cures: they come with 429, 402 and 403."""
THROTTLED = words(
    """
    rate_limit_error rate_limit_exceeded slow_down resource_exhausted throttling throttlingexception
    throttledexception requestthrottled requestthrottledexception toomanyrequests toomanyrequestsexception
    provisionedthroughputexceededexception requestlimitexceeded bandwidthlimitexceeded limitexceededexception
    slowdown priorrequestnotcomplete ec2throttledexception transactioninprogressexception
    """
)
"""Codes of refusals by a limit, in lower case; those of AWS come with 400 and 503, too."""
TRANSIENT = words("requesttimeout requesttimeoutexception")
"""Codes of AWS that come with 400 and are failures of the server."""
REFUSED = words(
    """
    invalid_request_error authentication_error permission_error not_found_error request_too_large invalid_prompt
    validationexception accessdeniedexception resourcenotfoundexception
    """
)
"""Codes of errors inside a stream that are the caller's: the provider is fine."""
FINAL_STATUSES = frozenset({400, 401, 403, 404, 422})
"""Statuses of a request that fails the same way however often it is sent."""

_KEYS = ("code", "Code", "type", "status", "__type", "error_code")
_AGAIN = re.compile(r"(?:try again|retry) in ([0-9][0-9.a-z]{0,40})", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z][\w.-]*")


class Verdict(msgspec.Struct, frozen=True):
    """What an answer says.

    Attributes:
        how: see `How`.
        says: what went wrong, in a word or two; empty if nothing did.
        blocked_s: seconds for which the provider asks not to be called; None if it does not.
    """

    how: How
    says: str = ""
    blocked_s: float | None = None


class Answer(NamedTuple):
    """An answer as it is judged: status (None if unknown), headers by `headers_of`, body or what that decodes to."""

    status: int | None
    headers: Mapping[str, str]
    body: Any = None


def verdict_of_answer(status: int, headers: object, body: bytes = b"", *, now: float) -> Verdict:
    """What an answer says, by its status, its headers and, from 400 on, its body.

    Args:
        status: the HTTP status.
        headers: as a mapping, or pairs, of text or bytes.
        body: of an error, decoded.
        now: epoch seconds.
    """
    read = headers_of(headers)
    if status < 400:
        return Verdict("ok", blocked_s=_bounded(reset_s(read, now)))
    return judged(Answer(status, read, body), now) or Verdict("ok")


def judged(answer: Answer, now: float) -> Verdict | None:
    """What an error says: a status from 400 on, or an error event in the body of another one; None if it is neither."""
    status, headers, body = answer.status or 200, answer.headers, decoded(answer.body)
    if status < 400 and not is_error(body, answer.status):
        return None
    codes = codes_of(body, headers)
    lowered = {code.lower() for code in codes}
    status = _status_within(body) if status < 400 else status
    wait = _bounded(wait_s(answer, now))
    if status == 402 or lowered & EXHAUSTED:
        return Verdict("exhausted", _named(answer.status, codes), max(EXHAUSTED_S, wait or 0.0))
    if status == 429 or lowered & THROTTLED:
        return Verdict("throttled", _named(answer.status, codes), wait)
    if lowered & REFUSED if status < 400 else status < 500 and status != 408 and not lowered & TRANSIENT:
        return Verdict("ok", _named(answer.status, codes), _bounded(reset_s(headers, now)))  # of others it says nothing
    is_event = (answer.status or 200) < 400
    return Verdict("failed", _named(None, codes) if is_event else str(status), wait)


def wait_s(answer: Answer, now: float) -> float | None:
    """The wait that an error asks for: by its headers, or in its message, or until a limit that is used up has more.

    Of several, the latest counts.
    """
    asked = asked_s(answer.headers, now)
    waits = (_again_s(decoded(answer.body)) if asked is None else asked, reset_s(answer.headers, now))
    return max((each for each in waits if each is not None), default=None)


def is_final(answer: Answer, verdict: Verdict) -> bool:
    """Whether the same request would fail the same way."""
    return verdict.how == "ok" and (answer.status is None or answer.status < 400 or answer.status in FINAL_STATUSES)


def decoded(body: Any) -> Any:
    """A body as JSON, if it is and has not been decoded."""
    if isinstance(body, (bytes, bytearray, str)):
        try:
            return msgspec.json.decode(body) if len(body) <= BODY_BYTES_MAX else None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
    return body


def codes_of(body: Any, headers: Mapping[str, str] | None = None) -> list[str]:
    """The codes by which an error in a decoded body is known, the most exact one first: not more than a few."""
    body = body[0] if isinstance(body, (list, tuple)) and body else body
    codes: list[Any] = [(headers or {}).get("x-amzn-errortype", "").partition(":")[0]]
    if isinstance(body, Mapping):
        within = body.get("response")
        error = body.get("error") or (within.get("error") if isinstance(within, Mapping) else None)
        if isinstance(error, Mapping):
            details = error.get("details")
            for each in (details, error):
                codes += [each.get(key) for key in _KEYS] if isinstance(each, Mapping) else []
        else:
            codes.append(error)
        codes += [body.get(key) for key in _KEYS]
    texts = [each.rpartition("#")[2][:CODE_CHARS_MAX] for each in codes if isinstance(each, str)]
    return list(dict.fromkeys(each for each in texts if each != "error" and _CODE.fullmatch(each)))


def is_error(body: Any, status: int | None) -> bool:
    """Whether the body of an answer below 400 is an error; without a status, it is what an SDK raised."""
    if not isinstance(body, Mapping):
        return False
    within = body.get("response")
    is_within = isinstance(within, Mapping) and bool(within.get("error"))
    return status is None or is_within or bool(body.get("error")) or body.get("type") == "error"


def _again_s(body: Any) -> float | None:
    """The wait in `Please try again in 1.2s`, as OpenAI writes it, or `Please retry in 1.2s`, as Gemini does."""
    body = body[0] if isinstance(body, (list, tuple)) and body else body
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    message = (error if isinstance(error, Mapping) else body).get("message")
    match = _AGAIN.search(message[:MESSAGE_CHARS_MAX]) if isinstance(message, str) else None
    return None if match is None else duration_s(match[1].rstrip("."))


def _status_within(body: Any) -> int:
    """The status in an error event, which some put where others have a code; 200 without one."""
    error = body.get("error") if isinstance(body, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else 200


def _named(status: int | None, codes: list[str]) -> str:
    if status is None or status < 400:
        return codes[0] if codes else "error event"
    return f"{status} {codes[0]}" if codes else str(status)


def _bounded(wait: float | None) -> float | None:
    return None if wait is None else min(wait, BLOCKED_S_MAX)
