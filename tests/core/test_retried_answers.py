"""Which answers `Retry` repeats, and how long it waits for them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from offramp.core.retry import RETRY_ATTEMPTS_MAX, Retry, counted, delay_s, is_hopeless, retry_after_s
from offramp.errors import CircuitOpen, InputError

NOW = 1_700_000_000.0


class Answered(Exception):
    """As SDKs raise it."""

    def __init__(self, status, body=None, **headers):
        self.status_code, self.body = status, body
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = SimpleNamespace(headers=headers, status_code=status)


class BadRequest(Answered):
    pass


class ClientError(Exception):
    """As botocore raises it."""

    def __init__(self, status, code, **headers):
        self.response = {
            "Error": {"Code": code, "Message": ""},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers, "RetryAttempts": 0},
        }


def caused(error, cause):
    error.__cause__ = cause
    return error


def is_repeated(error, policy=None) -> bool:
    return delay_s(policy or Retry(), 1, error, 0.5, retry_after_s(error, NOW)) is not None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_request_that_fails_the_same_way_is_not_repeated(status):
    assert not is_repeated(BadRequest(status))
    assert not is_repeated(BadRequest(status), Retry(on=Answered)), "a class above it names others"
    assert is_repeated(BadRequest(status), Retry(on=(OSError, BadRequest)))
    assert not is_repeated(BadRequest(status), Retry(on=BadRequest, never=BadRequest))
    assert not is_repeated(caused(ValueError(), BadRequest(status)))
    assert is_repeated(caused(ValueError(), BadRequest(status)), Retry(on=ValueError))
    assert not is_repeated(ExceptionGroup("", [BadRequest(status), Answered(503)]))


@pytest.mark.parametrize("status", [405, 408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_other_answers_are_repeated(status):
    assert is_repeated(Answered(status))
    assert is_repeated(ExceptionGroup("", [Answered(status), ValueError()]))


QUOTA = {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}


@pytest.mark.parametrize(
    "error", [Answered(429, QUOTA), Answered(429, {"error": QUOTA}), Answered(403, QUOTA), Answered(402)]
)
def test_no_repetition_pays_a_bill(error):
    assert not is_repeated(error)
    assert not is_repeated(error, Retry(on=Answered)), "even if its class is named"
    assert not is_repeated(caused(ValueError(), error), Retry(on=ValueError))


def test_throttling_of_aws_is_repeated_whatever_its_status():
    assert is_repeated(ClientError(400, "ThrottlingException"))
    assert is_repeated(ClientError(429, "TooManyRequestsException"))
    assert is_repeated(ClientError(400, "RequestTimeout"))
    assert is_repeated(ClientError(503, "ServiceUnavailable"))
    assert not is_repeated(ClientError(400, "ValidationException"))
    assert not is_repeated(ClientError(403, "AccessDeniedException"))
    assert is_repeated(ClientError(403, "AccessDeniedException"), Retry(on=ClientError))


def test_what_is_no_answer_is_repeated_as_before():
    class Order(Exception):
        status = 404
        code = 401

    assert is_repeated(Order())
    assert is_repeated(InputError("of this process, though its status is 422"))
    assert not is_hopeless(KeyError("x"))


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (Answered(429, retry_after="3"), 3.0),
        (Answered(429, retry_after="3", retry_after_ms="2500"), 2.5),
        (Answered(429, {"message": "Please try again in 1.2s."}), 1.2),
        (Answered(503, x_ratelimit_remaining="0", x_ratelimit_reset="20"), 20.0),
        (Answered(429, retry_after="90000"), 90_000.0),
        (ClientError(429, "ThrottlingException", **{"retry-after": "4"}), 4.0),
        (ClientError(400, "ThrottlingException", **{"Retry-After": "4"}), 4.0),
        (ClientError(400, "ThrottlingException"), None),
        (caused(ValueError(), ClientError(429, "", **{"retry-after": "4"})), 4.0),
        (ExceptionGroup("", [Answered(429, retry_after="3"), Answered(429, retry_after="9")]), 9.0),
        (CircuitOpen("", 8.0), 8.0),
        (CircuitOpen("", None), None),
    ],
)
def test_the_wait_asked_for(error, wait):
    assert retry_after_s(error, NOW) == wait


def test_a_longer_wait_than_allowed_fails():
    asked = Answered(429, retry_after="301")
    assert not is_repeated(asked)
    assert is_repeated(asked, Retry(retry_after_max=301))


def test_an_open_breaker_uses_up_no_attempt():
    stopped, policy = CircuitOpen("openai: calls have stopped", 8.0), Retry(attempts=2, base=0)
    codes = []
    for number in range(1, 50):
        made = counted(number, codes, stopped)
        assert made == 0
        assert delay_s(policy, made, stopped, 0.5, 8.0) == 8.0
        codes.append(CircuitOpen.code)
    failed = ValueError()
    assert counted(50, codes, failed) == 1
    assert delay_s(policy, 1, failed, 0.5, None) == 0.0
    codes.append("ValueError")
    assert counted(51, codes, stopped) == 1
    codes.append(CircuitOpen.code)
    assert counted(52, codes, failed) == 2
    assert delay_s(policy, 2, failed, 0.5, None) is None
    assert counted(1, [], caused(RuntimeError(), stopped)) == 0


def test_an_open_breaker_is_not_waited_for_without_end():
    codes = [CircuitOpen.code] * (RETRY_ATTEMPTS_MAX - 1)
    made = counted(RETRY_ATTEMPTS_MAX, codes, CircuitOpen("", 1.0))
    assert delay_s(Retry(attempts=100), made, CircuitOpen("", 1.0), 0.5, 1.0) is None


def test_a_step_of_one_attempt_does_not_wait_for_a_breaker():
    assert delay_s(Retry(attempts=1), counted(1, [], CircuitOpen("", 1.0)), CircuitOpen("", 1.0), 0.5, 1.0) is None


class Unwilling(Exception):
    """Whatever is asked of it fails."""

    def __getattribute__(self, name):
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise RuntimeError("no")


def test_whatever_the_properties_of_an_exception_do_it_is_repeated():
    assert is_repeated(Unwilling())
    assert retry_after_s(Unwilling(), NOW) is None


def test_exceptions_in_a_circle_come_to_an_end():
    group = ExceptionGroup("", [ValueError(), KeyError(), RuntimeError()])
    for each in group.exceptions:
        each.__cause__ = group
    assert not is_hopeless(group)
    assert not is_repeated(group, Retry(on=OSError))
    assert retry_after_s(group, NOW) is None
