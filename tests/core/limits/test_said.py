"""What the answers of providers say of a call."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.limits.said import (
    BLOCKED_S_MAX,
    BODY_BYTES_MAX,
    CODE_CHARS_MAX,
    EXHAUSTED_S,
    Answer,
    Verdict,
    codes_of,
    is_final,
    judged,
    verdict_of_answer,
)

NOW = 1_700_000_000.0


def body(**error) -> bytes:
    return json.dumps({"error": error}).encode()


def verdict(status: int, content: bytes = b"", **headers) -> Verdict:
    return verdict_of_answer(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, content, now=NOW
    )


QUOTA = body(
    message="You exceeded your current quota", type="insufficient_quota", param=None, code="insufficient_quota"
)
RATE = body(message="Rate limit reached. Please try again in 1.2s. Visit", type="tokens", code="rate_limit_exceeded")
GEMINI = b'[{"error": {"code": 429, "message": "Please retry in 34.5s.", "status": "RESOURCE_EXHAUSTED"}}]'
OVERLOADED = json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}).encode()
SPENT = json.dumps(
    {
        "type": "error",
        "error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}},
    }
).encode()


@pytest.mark.parametrize(
    ("status", "content", "wanted"),
    [
        (200, b"", Verdict("ok")),
        (204, OVERLOADED, Verdict("ok")),
        (301, b"", Verdict("ok")),
        (400, b"", Verdict("ok", "400")),
        (401, body(code="invalid_api_key", type="invalid_request_error"), Verdict("ok", "401 invalid_api_key")),
        (404, b"<html>", Verdict("ok", "404")),
        (409, b"", Verdict("ok", "409")),
        (402, b"", Verdict("exhausted", "402", EXHAUSTED_S)),
        (408, b"", Verdict("failed", "408")),
        (429, b"", Verdict("throttled", "429")),
        (429, RATE, Verdict("throttled", "429 rate_limit_exceeded", 1.2)),
        (429, body(message="Try again in 1m2s", code=429), Verdict("throttled", "429", 62.0)),
        (429, GEMINI, Verdict("throttled", "429 RESOURCE_EXHAUSTED", 34.5)),
        (429, QUOTA, Verdict("exhausted", "429 insufficient_quota", EXHAUSTED_S)),
        (
            429,
            body(type="insufficient_quota", code="project_spend_limit_exceeded"),
            Verdict("exhausted", "429 project_spend_limit_exceeded", EXHAUSTED_S),
        ),
        (429, SPENT, Verdict("exhausted", "429 enforced_spend_limit_reached", EXHAUSTED_S)),
        (
            429,
            b'[{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}]',
            Verdict("throttled", "429 RESOURCE_EXHAUSTED"),
        ),
        (400, b'{"__type": "com.amazon#ThrottlingException"}', Verdict("throttled", "400 ThrottlingException")),
        (400, b'{"__type": "RequestTimeout"}', Verdict("failed", "400")),
        (500, b"", Verdict("failed", "500")),
        (503, b"", Verdict("failed", "503")),
        (529, OVERLOADED, Verdict("failed", "529")),
    ],
)
def test_statuses_and_codes(status, content, wanted):
    assert verdict(status, content) == wanted


def test_the_code_of_aws_may_be_a_header():
    assert verdict(400, x_amzn_errortype="ThrottlingException:http://internal/") == Verdict(
        "throttled", "400 ThrottlingException"
    )


def test_the_wait_asked_for_blocks_and_the_latest_deadline_wins():
    assert verdict(429, retry_after="3").blocked_s == 3.0
    assert verdict(429, retry_after="3", retry_after_ms="2500").blocked_s == 2.5
    assert verdict(429, RATE, retry_after="3").blocked_s == 3.0, "a header is more exact than a message"
    assert verdict(429, retry_after="3", x_ratelimit_remaining="0", x_ratelimit_reset="20").blocked_s == 20.0
    assert verdict(429, retry_after="30", x_ratelimit_remaining="0", x_ratelimit_reset="20").blocked_s == 30.0
    assert verdict(503, retry_after="3").blocked_s == verdict(529, retry_after="3").blocked_s == 3.0
    assert verdict(429, QUOTA, retry_after="3").blocked_s == EXHAUSTED_S
    assert verdict(429, QUOTA, retry_after="90").blocked_s == 90.0
    assert verdict(200, x_ratelimit_remaining="0", x_ratelimit_reset="20") == Verdict("ok", blocked_s=20.0)
    assert verdict(200, retry_after="20").blocked_s is None, "no refusal: it is about something else"


def test_an_answer_to_one_request_blocks_no_other():
    assert verdict(409, retry_after="3").blocked_s is None
    assert verdict(404, retry_after="3").blocked_s is None
    assert verdict(400, retry_after="3", x_ratelimit_remaining="0", x_ratelimit_reset="20").blocked_s == 20.0


def test_no_provider_blocks_longer_than_an_hour():
    for answer in (
        verdict(429, retry_after="1e9"),
        verdict(429, QUOTA, retry_after="1e9"),
        verdict(503, retry_after="86400"),
        verdict(200, x_ratelimit_remaining="0", x_ratelimit_reset="86400"),
    ):
        assert answer.blocked_s == BLOCKED_S_MAX


def test_a_body_that_is_too_long_is_not_read():
    padded = QUOTA + b" " * (BODY_BYTES_MAX - len(QUOTA))
    assert verdict(429, padded).how == "exhausted"
    assert verdict(429, padded + b" ").how == "throttled"


def event(content: object, status: int | None = 200) -> Verdict | None:
    return judged(Answer(status, {}, content), NOW)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"type": "error", "error": {"type": "overloaded_error"}}, Verdict("failed", "overloaded_error")),
        ({"error": {"message": "The server had an error", "type": "server_error"}}, Verdict("failed", "server_error")),
        ({"error": {"message": "boom"}}, Verdict("failed", "error event")),
        ({"error": "overloaded"}, Verdict("failed", "overloaded")),
        ({"error": "boom now"}, Verdict("failed", "error event")),
        ({"type": "error", "code": "server_error", "message": ""}, Verdict("failed", "server_error")),
        (
            {"type": "response.failed", "response": {"error": {"code": "server_error"}}},
            Verdict("failed", "server_error"),
        ),
        ({"error": {"type": "rate_limit_error"}}, Verdict("throttled", "rate_limit_error")),
        ({"error": {"code": 429, "message": "slow"}}, Verdict("throttled", "error event")),
        ({"error": {"code": 402}}, Verdict("exhausted", "error event", EXHAUSTED_S)),
        ({"error": {"code": 502}}, Verdict("failed", "error event")),
        ({"error": {"code": 400}}, Verdict("ok", "error event")),
        ({"error": {"code": "insufficient_quota"}}, Verdict("exhausted", "insufficient_quota", EXHAUSTED_S)),
        ({"type": "error", "error": {"type": "invalid_request_error"}}, Verdict("ok", "invalid_request_error")),
        ({"type": "message", "status": "completed"}, None),
        ({"error": None, "status": "completed"}, None),
        ([], None),
        (None, None),
        ("error", None),
    ],
)
def test_error_events_in_an_answer_of_200(content, wanted):
    assert event(content) == wanted


@pytest.mark.parametrize(
    ("status", "final"),
    [
        (400, True),
        (401, True),
        (403, True),
        (404, True),
        (422, True),
        (409, False),
        (425, False),
        (429, False),
        (408, False),
        (500, False),
        (503, False),
    ],
)
def test_what_fails_the_same_way_again(status, final):
    answer = Answer(status, {})
    assert is_final(answer, judged(answer, NOW)) is final


def test_throttling_of_aws_with_400_is_not_final():
    answer = Answer(400, {}, {"error": {"Code": "ThrottlingException"}})
    assert not is_final(answer, judged(answer, NOW))
    answer = Answer(200, {}, {"error": {"type": "invalid_request_error"}})
    assert is_final(answer, judged(answer, NOW))


def test_codes_are_short_and_few():
    long = {"error": {"code": "x" * 1000, "type": "two words", "status": 3}}
    assert codes_of(long) == ["x" * CODE_CHARS_MAX]
    assert codes_of({"error": {"type": "error"}, "type": "error"}) == []
    assert codes_of({"error": {"code": "a", "type": "a"}, "code": "a"}) == ["a"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "type", "code", "message", "response", "details", "status"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.integers(100, 599) | st.none(), anything | st.binary(max_size=30) | st.text(max_size=30))
def test_nothing_that_a_provider_sends_raises(status, content):
    answer = Answer(status, {"retry-after": "1"}, content)
    found = judged(answer, NOW)
    if found is not None:
        assert found.blocked_s is None or 0 <= found.blocked_s <= BLOCKED_S_MAX
        assert len(found.says) <= CODE_CHARS_MAX + 4
        is_final(answer, found)


@given(st.integers(200, 599), st.binary(max_size=50) | anything.map(msgspec.json.encode))
def test_no_body_of_an_answer_raises(status, content):
    assert verdict_of_answer(status, [], content, now=NOW).how in ("ok", "failed", "throttled", "exhausted")
