"""The waits in the headers of providers: every form that one has, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.limits.headers import VALUE_CHARS_MAX, asked_s, duration_s, headers_of, parse_retry_after, reset_s

NOW = 1_700_000_000.0


@given(st.floats(0, 1e9))
def test_retry_after_in_seconds_is_read(value):
    for form in (value, str(value), f" {value!r} ", str(value).encode()):
        assert parse_retry_after(form, NOW) == value


@given(st.integers(-1000, 1000))
def test_retry_after_as_a_date_is_read_and_the_past_means_now(offset):
    for form in (formatdate(NOW + offset, usegmt=True), formatdate(NOW + offset, usegmt=True).encode()):
        assert parse_retry_after(form, NOW) == max(0, offset)


@given(st.text() | st.binary() | st.integers(max_value=-1) | st.just(float("nan")) | st.booleans() | st.none())
def test_whatever_a_server_sends_is_read_or_ignored(value):
    read = parse_retry_after(value, NOW)
    assert read is None or 0 <= read < float("inf")


@pytest.mark.parametrize(
    "value", ["soon", "", "Fri, 99 Dec 2099 99:99:99 GMT", "inf", "-5", object(), [], "Fri, 31 Dec 9999 23:59:59 -2359"]
)
def test_garbage_is_no_wait_at_all(value):
    assert parse_retry_after(value, NOW) is None or "9999" in str(value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("500ms", 0.5),
        ("1m3.5s", 63.5),
        ("6m0s", 360),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723),
        ("2d", 172_800),
        ("7us", 7e-6),
        (".5s", 0.5),
        ("", None),
        ("5", None),
        ("s", None),
        ("1s ", None),
        ("1s2", None),
        ("-1s", None),
        ("1.2.3s", None),
        ("1e3s", None),
    ],
)
def test_durations(text, seconds):
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"Retry-After": "3", "Retry-After-Ms": "1500"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after": formatdate(NOW + 20, usegmt=True)}, 20.0),
        ({"retry-after": "later"}, None),
        ({}, None),
    ],
)
def test_a_wait_in_milliseconds_is_more_exact_than_one_in_seconds(headers, seconds):
    assert asked_s(headers_of(headers), NOW) == seconds


def at(offset: float) -> str:
    return datetime.fromtimestamp(NOW + offset, UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        # full again in a minute, at 500 a minute: one is free after a 500th of it
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1m0s",
                "x-ratelimit-limit-requests": "500",
            },
            0.12,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1m0s",
                "x-ratelimit-limit-requests": "1",
            },
            60.0,
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}, None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": at(30),
                "anthropic-ratelimit-requests-limit": "50",
            },
            0.6,
        ),
        # how many tokens the next call needs is not known here
        (
            {
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-limit-tokens": "200000",
            },
            None,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 12)}, 12.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW + 12) * 1000)}, 12.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) - 12)}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": at(12)}, 12.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2023-11-14"}, None),
        ({"x-ratelimit-remaining": "0"}, None),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "12"}, None),
        ({"x-ratelimit-reset": "12"}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "7"}, 7.0),
        ({"ratelimit": '"minute";r=0;t=9, "day";r=5;t=800'}, 9.0),
        ({"ratelimit": '"minute";r=0;t=9, "day";r=0;t=80'}, 80.0),
        ({"ratelimit": '"minute";r=10;t=9'}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "7", "ratelimit": '"d";r=0;t=70'}, 70.0),
        ({}, None),
    ],
)
def test_a_limit_with_nothing_left_is_waited_for_until_it_has_more(headers, seconds):
    assert reset_s(headers_of(headers), NOW) == (None if seconds is None else pytest.approx(seconds))


def test_headers_of_every_form():
    pairs = [(b"Retry-After", b"3"), (b"X-Other", b"1"), (b"CONTENT-TYPE", b" text/event-stream ")]
    wanted = {"retry-after": "3", "content-type": "text/event-stream"}
    assert headers_of(pairs) == headers_of({name.decode(): value.decode() for name, value in pairs}) == wanted
    assert headers_of([("retry-after", "9" * (VALUE_CHARS_MAX + 1))]) == {"retry-after": ""}
    assert headers_of([("retry-after", "9".ljust(VALUE_CHARS_MAX))]) == {"retry-after": "9"}
    for odd in (None, 3, "retry-after", [1], [("retry-after",)], {"retry-after": None}, {3: 4}):
        assert asked_s(headers_of(odd), NOW) is None


NAMES = [
    "retry-after",
    "retry-after-ms",
    "ratelimit",
    *(
        f"{prefix}{name}"
        for prefix in ("x-ratelimit-", "ratelimit-")
        for name in ("remaining", "reset", "limit", "remaining-requests", "reset-requests", "limit-requests")
    ),
    *(f"anthropic-ratelimit-requests-{name}" for name in ("remaining", "reset", "limit")),
]
values = st.sampled_from(["0", "1", "1e999", "-1", "nan", "1m", at(3), '"d";r=0;t=3', "9" * 400]) | st.text(max_size=20)


@given(st.dictionaries(st.sampled_from(NAMES), values | st.binary(max_size=20)))
def test_no_header_does_more_than_ask_for_a_wait(headers):
    for seconds in (asked_s(headers_of(headers), NOW), reset_s(headers_of(headers), NOW)):
        assert seconds is None or 0 <= seconds < float("inf")
