from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.quotas import Quota, Use, Window, fields
from offramp.core.rates import Rate, parse_rate
from offramp.core.run import run_id
from offramp.errors import SettingsError
from tests.structured import parsed


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        ("100/min", Rate(100, 60), "100/min"),
        ("5/s", Rate(5, 1), "5/s"),
        ("5/second", Rate(5, 1), "5/s"),
        (" 7/m ", Rate(7, 60), "7/min"),
        ("1000/12h", Rate(1000, 43_200), "1000/12h"),
        ("10000/day", Rate(10_000, 86_400), "10000/d"),
        ("3/90s", Rate(3, 90), "3/90s"),
        ("3/60s", Rate(3, 60), "3/min"),
    ],
)
def test_a_rate_is_read_and_shown(text, rate, shown):
    assert parse_rate(text) == rate
    assert str(rate) == shown
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "such as 100/min"),
        ("100", "such as 100/min"),
        ("100/fortnight", "such as 100/min"),
        ("1e3/min", "such as 100/min"),
        ("-1/min", "such as 100/min"),
        ("\u0661/min", "such as 100/min"),
        ("0/min", "from 1 to 10000"),
        ("10001/min", "from 1 to 10000"),
        ("5/0min", "from 1 second to 24 hours"),
        ("5/2d", "from 1 second to 24 hours"),
        ("9" * 5000 + "/min", "such as 100/min"),
    ],
)
def test_what_is_no_rate_is_refused_with_an_example(text, says):
    with pytest.raises(SettingsError, match=says) as refused:
        parse_rate(text, "--rate")
    assert "--rate" in str(refused.value)
    assert len(str(refused.value)) < 200


START = 1_000_000.0
LIMIT, SECONDS = 3, 10


@given(st.lists(st.tuples(st.integers(0, 4000), st.booleans()), max_size=40))
def test_no_window_holds_more_than_the_rate_and_a_free_place_is_used_at_once(steps):
    """Whatever is asked when: starts are granted exactly where the last ten seconds have fewer than three."""
    window, granted, now_ms = Window(Rate(LIMIT, SECONDS)), [], int(START * 1000)
    for number, (wait_ms, learned_twice) in enumerate(steps):
        now_ms += wait_ms
        now = now_ms / 1000
        window.pass_to(now)
        lately = [at for at in granted if at > now_ms - SECONDS * 1000]
        assert len(window) == len(lately)
        free = window.free_in_s(now)
        assert (free is None) == (not lately)
        if free is not None:
            assert free == pytest.approx((lately[0] + SECONDS * 1000 - now_ms) / 1000, abs=0.001)
        if len(window) < LIMIT:
            made = run_id(now, number.to_bytes(10, "big"))
            window.add([made])
            if learned_twice:
                window.add([made])
            granted.append(now_ms)


def test_a_start_that_did_not_happen_gives_its_place_back():
    window, made = Window(Rate(2, 60)), run_id(START, bytes(10))
    window.add([made])
    window.remove(made)
    window.remove(made)
    assert len(window) == 0


def test_a_window_remembers_no_more_than_its_rate():
    window = Window(Rate(5, 60))
    window.add(run_id(START + number, bytes(10)) for number in range(50))
    assert len(window) == 5
    window.pass_to(START + 109)
    assert len(window) == 0, "the newest are remembered"


def test_the_header_fields_are_those_of_the_draft():
    shown = fields(Quota("acme/ann", Rate(100, 60), 50), Use(started=98, free_in_s=29.2, open=48))
    assert shown == {
        "RateLimit-Policy": '"default";q=100;w=60, "runs";q=50;qu="concurrent-requests"',
        "RateLimit": '"default";r=2;t=30, "runs";r=2',
    }
    assert parsed(shown["RateLimit"]) == {"default": {"r": 2, "t": 30}, "runs": {"r": 2}}


def test_an_unused_quota_is_there_for_the_whole_window_and_never_negative():
    assert fields(Quota("k", Rate(9, 60)), Use())["RateLimit"] == '"default";r=9;t=60'
    assert fields(Quota("k", runs=2), Use(open=5)) == {
        "RateLimit-Policy": '"runs";q=2;qu="concurrent-requests"',
        "RateLimit": '"runs";r=0',
    }
