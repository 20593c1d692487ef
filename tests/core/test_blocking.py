from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.blocking import HELD_SURE_S, LOOKS_MIN, Sample, begin, judge

AFTER_S = 0.1
LOOK_S = 0.02


class Look(NamedTuple):
    """What happened since the look before: user code that is stood in, lateness, CPU of the loop and of the others."""

    holder: int = 1
    late_s: float = 0.0
    own: float | None = 0.0
    others: float = 0.0
    """Both as shares of the time."""


def verdict(looks, after_s=AFTER_S):
    at = own = everything = 0.0
    known = not looks or looks[0].own is not None
    evidence = begin(Sample(at, own_cpu_s=own if known else None))
    for look in looks:
        passed = LOOK_S + look.late_s
        at += passed
        own += passed * (look.own or 0.0)
        everything += passed * ((look.own or 0.0) + look.others)
        evidence = evidence.and_then(Sample(at, look.late_s, look.holder, own if known else None, everything))
    return judge(evidence, after_s)


def distinct(count, **given):
    return [Look(holder=1 + n, **given) for n in range(count)]


CASES = {
    "sleeps in a step": ([Look()] * 10, "blocked"),
    "sleeps in a step while threads compute": ([Look(others=1.0)] * 10, "blocked"),
    "computes in a step": ([Look(own=1.0)] * 10, "blocked"),
    "computes in a step beside threads that do": ([Look(own=0.25, others=0.75)] * 40, "blocked"),
    "many short waits in a step": ([Look(own=0.05)] * 10, "blocked"),
    "many short waits in a step beside a thread that computes a little": ([Look(own=0.05, others=0.2)] * 10, "blocked"),
    "the same for an age beside threads that compute": (
        [Look(own=0.001, others=1.0)] * round(2 * HELD_SURE_S / LOOK_S),
        "blocked",
    ),
    "not for long enough": ([Look()] * 4, "busy"),
    "the same code in the first looks only": ([*[Look()] * 10, Look(holder=0)], "busy"),
    "long waits, seen twice": ([Look(late_s=0.1)] * 2, "contended"),
    "a long queue of short steps": (distinct(50, own=1.0), "busy"),
    "a long queue beside threads that compute": (distinct(50, own=0.2, others=0.8), "contended"),
    "the runtime's own work": ([Look(holder=0, own=1.0)] * 50, "busy"),
    "the runtime waits, for the disk or so": ([Look(holder=0)] * 50, "busy"),
    "waits for the interpreter": ([Look(own=0.01, others=0.9)] * 10, "contended"),
    "waits for the interpreter on a machine that others use": (
        [Look(own=0.002, others=0.4, late_s=0.01)] * 10,
        "contended",
    ),
    "no CPU for the whole process": ([Look(holder=0, late_s=0.2)] * 2, "contended"),
    "no CPU for the whole process, in a step": ([Look(late_s=0.1, own=0.01)] * 4, "contended"),
    "one call in C that keeps the interpreter": ([Look(holder=0, late_s=3.0)], "contended"),
    "no CPU clock: a step holds it": ([Look(own=None, others=0.2)] * 10, "blocked"),
    "no CPU clock: the watchdog is late": ([Look(own=None, late_s=0.1)] * 4, "contended"),
}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [pytest.param(looks, expected, id=name) for name, (looks, expected) in CASES.items()],
)
def test_what_is_seen_and_what_is_made_of_it(looks, expected):
    assert verdict(looks) == expected


LOOKS = st.builds(
    Look,
    holder=st.integers(0, 3),
    late_s=st.floats(0, 0.5),
    own=st.floats(0, 1),
    others=st.floats(0, 1),
)


@given(st.lists(LOOKS, max_size=80), st.floats(0.01, 1.0))
def test_only_user_code_that_is_seen_again_and_again_is_blamed(looks, after_s):
    if verdict(looks, after_s) != "blocked":
        return
    last = looks[-1].holder
    held = next((n for n, look in enumerate(reversed(looks)) if look.holder != last), len(looks))
    assert last != 0
    assert held >= LOOKS_MIN
    assert sum(LOOK_S + look.late_s for look in looks[len(looks) - held + 1 :]) >= after_s - 1e-6


@given(st.lists(LOOKS, min_size=1, max_size=80), st.floats(0.01, 1.0))
def test_the_runtimes_own_code_and_a_queue_of_short_steps_are_never_blamed(looks, after_s):
    assert verdict([look._replace(holder=0) for look in looks], after_s) != "blocked"
    assert verdict([look._replace(holder=1 + n) for n, look in enumerate(looks)], after_s) != "blocked"


@given(st.lists(LOOKS, min_size=1, max_size=80), st.floats(0.01, 1.0))
def test_a_step_that_waits_in_a_call_is_blamed_whatever_else_computes(looks, after_s):
    seen = [look._replace(holder=1, late_s=0.0, own=0.0) for look in looks]
    long_enough = len(seen) >= LOOKS_MIN and LOOK_S * (len(seen) - 1) >= after_s + 1e-6
    assert not long_enough or verdict(seen, after_s) == "blocked"
