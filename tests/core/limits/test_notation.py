"""The notation of windows, and the errors for what is not in it."""

from __future__ import annotations

import re

import pytest

from offramp.core.limits.notation import CALLS_MAX, TOKENS_MAX, parse, say
from offramp.core.limits.spec import CONCURRENCY_MAX, WINDOWS_MAX, Breaker, resource_spec
from offramp.core.rates import WINDOW_S_MAX, Rate
from offramp.errors import DeclarationError


@pytest.mark.parametrize(
    ("text", "limit", "seconds", "shown"),
    [
        ("500/min", 500, 60, "500/min"),
        ("10/s", 10, 1, "10/s"),
        ("60/10s", 60, 10, "60/10s"),
        ("200k/min", 200_000, 60, "200k/min"),
        ("2m/min", 2_000_000, 60, "2m/min"),
        ("1.5M/min", 1_500_000, 60, "1500k/min"),
        (" 7/hour ", 7, 3_600, "7/h"),
        (f"{CALLS_MAX}/d", CALLS_MAX, 86_400, "1m/d"),
    ],
)
def test_a_window_is_read_and_written(text, limit, seconds, shown):
    assert parse(text, "tokens") == Rate(limit, seconds)
    assert say(Rate(limit, seconds)) == shown
    assert parse(shown, "tokens") == Rate(limit, seconds)


@pytest.mark.parametrize(
    ("text", "what", "says"),
    [
        ("500/minute/key", "rate", "rate='500/minute/key': write number/unit, such as '500/min' or '60/10s'"),
        ("fast", "tokens", "tokens='fast': write number/unit, such as '200k/min' or '2m/min'"),
        (500, "rate", "rate=500: write number/unit, such as '500/min' or '60/10s'"),
        ("5/week", "rate", "rate='5/week': write number/unit, such as '500/min' or '60/10s'"),
        ("0/s", "rate", "rate='0/s': the number is whole, from 1 to 1,000,000"),
        ("1.5/s", "rate", "rate='1.5/s': the number is whole, from 1 to 1,000,000"),
        (f"{CALLS_MAX + 1}/d", "rate", f"rate='{CALLS_MAX + 1}/d': the number is whole, from 1 to 1,000,000"),
        (
            f"{TOKENS_MAX + 1}/d",
            "tokens",
            f"tokens='{TOKENS_MAX + 1}/d': the number is whole, from 1 to 10,000,000,000",
        ),
        ("5/0s", "rate", "rate='5/0s': the window is from 1 second to 24 hours"),
        (f"5/{WINDOW_S_MAX + 1}s", "rate", f"rate='5/{WINDOW_S_MAX + 1}s': the window is from 1 second to 24 hours"),
    ],
)
def test_a_wrong_window_says_what_to_write(text, what, says):
    with pytest.raises(DeclarationError, match=f"^{re.escape(says)}$"):
        parse(text, what)


def test_a_resource_has_its_windows_shortest_first():
    spec = resource_spec("openai", concurrency=20, rate=("500/min", "10/s"), tokens="200k/min", reserve=0)
    assert spec.rates == (Rate(10, 1), Rate(500, 60))
    assert spec.tokens == (Rate(200_000, 60),)
    assert (spec.concurrency, spec.share, spec.reserve, spec.breaker) == (20, 0.05, 0, None)


def test_a_resource_may_limit_nothing():
    assert resource_spec("openai").rates == ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"concurrency": 0}, "resource 'x': concurrency= is a whole number from 1 to 100,000, or None, got 0"),
        ({"concurrency": CONCURRENCY_MAX + 1}, "concurrency= is a whole number"),
        ({"concurrency": True}, "concurrency= is a whole number"),
        ({"concurrency": 2.5}, "concurrency= is a whole number"),
        ({"share": 0}, "share= is above 0 and below 1, got 0"),
        ({"share": 1}, "share= is above 0 and below 1, got 1"),
        ({"reserve": 1}, "reserve= is 0 or more, and below 1, got 1"),
        ({"reserve": -0.1}, "reserve= is 0 or more, and below 1"),
        ({"reserve": float("nan")}, "reserve= is 0 or more, and below 1"),
        ({"breaker": 0.5}, "breaker= is a Breaker(...) or None, got 0.5"),
        ({"rate": 500}, "rate=500: write a string such as '500/min' or '60/10s', or several in a tuple"),
        ({"tokens": [5]}, "tokens=[5]: write a string such as '200k/min'"),
        ({"rate": ("5/min", "6/60s")}, "two windows have one length; keep the smaller"),
        ({"rate": [f"5/{n}s" for n in range(1, WINDOWS_MAX + 2)]}, "rate= has 9 windows, at most 8"),
    ],
)
def test_a_wrong_resource_says_what_to_write(given, says):
    with pytest.raises(DeclarationError, match=re.escape(says)):
        resource_spec("x", **given)


def test_the_name_of_a_resource_is_one():
    with pytest.raises(DeclarationError, match="resource name 'my api'"):
        resource_spec("my api")


def test_the_most_of_everything_is_allowed():
    rates = [f"5/{n}s" for n in range(1, WINDOWS_MAX + 1)]
    spec = resource_spec("x", concurrency=CONCURRENCY_MAX, rate=rates, share=0.99, reserve=0.99, breaker=Breaker())
    assert len(spec.rates) == WINDOWS_MAX
