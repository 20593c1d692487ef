"""What a book answers: grants, waits and refusals, and what the end of a call changes."""

from __future__ import annotations

import msgspec
import pytest

from offramp.core.limits.book import WAITERS_MAX, Book
from offramp.core.limits.capacity import BLOCKED_DEFAULT_S, BLOCKED_S_MAX, EXHAUSTED_S, SCALE_CUT, SCALE_MIN
from offramp.core.limits.gate import TOKENS_DEFAULT
from offramp.core.limits.messages import Ask, Done, Granted, Refused, Waits
from offramp.core.limits.spec import Breaker
from offramp.core.sla import SLA
from tests.core.limits.world import MARGIN_S, World, resource

CLASSES = {"high": SLA("high", priority=5), "low": SLA("low", priority=-5, queue_limit=3)}


def world(**limits):
    return World([resource(reserve=0, **limits)], CLASSES)


def granted(world, *names):
    return [isinstance(world.answers[name], Granted) for name in names]


def test_a_call_is_granted_at_once_and_its_place_comes_free():
    w = world(concurrency=1)
    one, two = w.ask("a", 1, "r"), w.ask("b", 2, "r")
    assert granted(w, one, two) == [True, False]
    assert w.answers[two] == Waits("concurrency", 0, None)
    w.passes(2.0)
    w.write(one)
    w.end(one)
    assert w.answers[two] == Granted(waited_s=2.0)


def test_a_wait_for_a_place_is_foretold_by_what_calls_take():
    w = world(concurrency=2)
    names = [w.ask("a", number, "r") for number in range(2)]
    w.passes(4.0)
    for name in names:
        w.end(name)
    names = [w.ask("a", number, "r", sla="high") for number in range(10, 15)]
    assert [w.answers[name].expected_s for name in names[2:]] == pytest.approx([2.0, 4.0, 6.0])
    assert [w.answers[name].ahead for name in names[2:]] == [0, 1, 2]


def test_a_window_frees_its_places_after_its_length_and_the_margin():
    w = world(rate="2/10s")
    names = [w.ask("a", number, "r") for number in range(4)]
    w.write(names[0])
    w.passes(1.0)
    w.write(names[1])
    assert w.answers[names[2]] == Waits("rate", 0, pytest.approx(10.05))
    w.passes(9.0)
    assert granted(w, *names) == [True, True, False, False]
    w.passes(0.06)
    assert granted(w, *names) == [True, True, True, False]
    w.passes(1.0)
    assert granted(w, *names) == [True, True, True, True]


def test_a_permit_counts_until_its_request_is_written_however_late():
    w = world(rate="1/s")
    one, two = w.ask("a", 1, "r"), w.ask("a", 2, "r")
    w.passes(500.0)
    assert granted(w, one, two) == [True, False]
    w.write(one)
    w.passes(1.06)
    assert granted(w, two) == [True]


def test_a_call_that_was_not_made_counts_for_nothing():
    w = world(rate="1/min")
    one, two, three, four = (w.ask("a", number, "r") for number in range(4))
    w.end(one, how="unused")
    assert granted(w, two) == [True]
    w.withdraw(two)
    assert granted(w, three) == [True]
    w.write(three)
    w.withdraw(three)
    assert granted(w, four) == [False]


def test_a_known_ask_is_not_asked_again():
    w = world(concurrency=1)
    one, two = w.ask("a", 1, "r"), w.ask("a", 2, "r")
    for name in (one, two):
        assert w.book.ask(w.now, "a", w.asks[name][1]) == []
    w.look()


def test_a_process_cannot_end_what_another_one_has():
    w = world(concurrency=1)
    one, two = w.ask("a", 1, "r"), w.ask("a", 2, "r")
    for name in (one, two, "unknown"):
        assert w.book.withdraw(w.now, "b", name) == []
        assert w.book.done(w.now, "b", name, Done()) == []
        assert w.book.written(w.now, "b", name) == []
        assert w.book.slow(w.now, "b", name) == []
    w.look()


def test_a_window_counts_from_when_a_request_was_written_not_from_when_that_is_said():
    w = world(rate="1/s")
    one, two = w.ask("a", 1, "r"), w.ask("a", 2, "r")
    assert granted(w, one, two) == [True, False]
    w.now += 5
    assert w.book.written(w.now, "a", one, 0.25) == []
    assert w.book.due() == w.now - 0.25 + 1 + MARGIN_S


@pytest.mark.parametrize("ago_s", [1e9, float("inf"), float("nan"), -1.0])
def test_no_request_counts_as_written_before_its_grant_or_later_than_it_is_said(ago_s):
    w = world(rate="1/s")
    one, two = w.ask("a", 1, "r"), w.ask("a", 2, "r")
    w.now += 0.5
    w.book.written(w.now, "a", one, ago_s)
    w.now += 1 + MARGIN_S - (0.5 if ago_s > 0 else 0)
    assert w.book.pass_to(w.now - 1e-3) == []
    assert [tell.id for tell in w.book.pass_to(w.now + 1e-3)] == [two]


def test_an_unknown_resource_is_refused():
    book = Book([], {})
    [(client, name, answer)] = book.ask(0.0, "a", Ask(id="x", resource="openai"))
    assert (client, name, answer.why) == ("a", "x", "closed")
    assert answer.says == "openai: no such resource is declared"


def test_a_call_that_does_not_queue_is_refused_where_it_would_wait():
    w = world(concurrency=1, rate="60/min")
    assert granted(w, w.ask("a", 1, "r", queues=False)) == [True]
    refused = w.answers[w.ask("a", 2, "r", queues=False)]
    assert refused == Refused("busy", "r: 0 calls wait; this call does not wait", None)
    w.look()


def test_a_full_queue_refuses_with_the_longest_wait():
    w = world(rate="60/min")
    names = [w.ask("a", number, "r") for number in range(64)]
    assert isinstance(w.answers[names[62]], Waits)
    refused = w.answers[names[63]]
    assert refused.why == "busy"
    assert refused.says == "r: 3 calls wait, about 60 s at 60/min; queue_limit is 3"
    assert refused.retry_after_s == pytest.approx(60 + 3 / 0.05)
    level = w.book.levels(w.now)[0].waiting["low"]
    assert (level.count, level.longest_wait_s) == (3, pytest.approx(120.0))
    assert isinstance(w.answers[w.ask("a", 99, "r", sla="high")], Waits)


def test_asks_that_wait_are_bounded(monkeypatch):
    monkeypatch.setattr("offramp.core.limits.book.WAITERS_MAX", 2)
    assert WAITERS_MAX == 100_000
    w = world(concurrency=1)
    answers = [w.answers[w.ask("a", number, "r", sla="high")] for number in range(4)]
    assert [type(answer) for answer in answers] == [Granted, Waits, Waits, Refused]
    assert answers[3].says.endswith("2 may wait in all")


# What providers say.


def test_a_refusal_stops_everybody_and_later_deadlines_win():
    w = world(concurrency=9)
    one, two, three = (w.ask("a", number, "r") for number in range(3))
    w.end(one, how="throttled", blocked_s=30, says="429")
    w.end(two, how="throttled", blocked_s=10)
    late = w.ask("a", 4, "r")
    assert w.answers[late] == Waits("retry-after", 0, 30.0)
    w.passes(5.0)
    w.end(three, how="throttled", blocked_s=60)
    assert w.answers[late] == Waits("retry-after", 0, 60.0)
    assert w.book.levels(w.now)[0].blocked_s == 60.0
    w.passes(59.9)
    assert not granted(w, late)[0]
    w.passes(0.1)
    assert granted(w, late) == [True]
    level = w.book.levels(w.now)[0]
    assert (level.throttled, level.blocked_s, level.last_refusal.ago_s) == (3, None, 60.0)


@pytest.mark.parametrize(
    ("how", "blocked_s", "until"),
    [
        ("throttled", None, BLOCKED_DEFAULT_S),
        ("exhausted", None, EXHAUSTED_S),
        ("exhausted", 5.0, EXHAUSTED_S),
        ("exhausted", 90.0, 90.0),
        ("ok", 7.0, 7.0),
        ("failed", 1e9, BLOCKED_S_MAX),
    ],
)
def test_the_time_for_which_calls_stop(how, blocked_s, until):
    w = world(concurrency=9)
    w.end(w.ask("a", 1, "r"), how=how, blocked_s=blocked_s)
    assert w.book.levels(w.now)[0].blocked_s == until


def test_limits_shrink_once_a_round_trip_and_grow_with_success():
    w = world(rate="100/min", concurrency=40)
    names = [w.ask("a", number, "r") for number in range(10)]
    w.passes(1.0)
    for name in names[:5]:
        w.end(name, how="throttled", blocked_s=0.5)
    level = w.book.levels(w.now)[0]
    assert (level.scale, level.concurrency, level.windows[0].scaled) == (SCALE_CUT, 30, 75)
    w.passes(0.5)
    later = w.ask("a", 20, "r")
    w.end(later, how="throttled", blocked_s=0.5)
    assert w.book.levels(w.now)[0].scale == pytest.approx(SCALE_CUT**2)
    for name in names[5:]:
        w.end(name, how="ok")
    assert w.book.levels(w.now)[0].scale == pytest.approx(SCALE_CUT**2 + 5 * 0.1 / 100)


def test_limits_never_shrink_to_nothing():
    w = world(concurrency=2, tokens="100/min")
    for number in range(30):
        w.end(w.ask("a", number, "r", tokens=1), how="throttled", blocked_s=0.1)
        w.passes(1.0)
    level = w.book.levels(w.now)[0]
    assert (level.scale, level.concurrency) == (SCALE_MIN, 1)
    assert granted(w, w.ask("a", 99, "r", tokens=100)) == [True]


def test_an_open_breaker_refuses_what_asks_and_what_waits():
    w = world(concurrency=2, breaker=Breaker(min_calls=2, open_for=10))
    one, two, waits = (w.ask("a", number, "r", credential="k") for number in range(3))
    other = w.ask("a", 9, "r", credential="other")
    w.end(one, how="failed", says="503")
    assert granted(w, waits, other) == [True, False]
    more = w.ask("a", 10, "r", credential="k")
    w.end(two, how="failed", says="503")
    assert granted(w, other) == [True]
    assert w.answers[more].why == "open"
    assert w.answers[more].retry_after_s == 10.0
    refused = w.answers[w.ask("a", 11, "r", credential="k")]
    assert refused.says == "r: 2 of the last 2 calls failed (2 x 503); next try in 10 s"
    w.end(other)
    w.end(waits, how="cancelled")
    w.passes(10.0)
    probe = w.ask("a", 12, "r", credential="k")
    assert w.answers[probe].probe is True
    assert w.book.levels(w.now)[0].breaker.state == "half-open"
    w.end(probe)


def test_slow_calls_open_a_breaker_before_they_end():
    w = world(concurrency=5, breaker=Breaker(min_calls=2, slow_after=1))
    names = [w.ask("a", number, "r") for number in range(2)]
    for name in names:
        w.hears(w.book.slow(w.now, "a", name))
    assert w.answers[w.ask("a", 5, "r")].why == "open"


# Tokens.


def test_tokens_are_reserved_before_and_settled_after():
    w = world(tokens="1k/min")
    one = w.ask("a", 1, "r", tokens=600)
    two = w.ask("a", 2, "r", tokens=600)
    assert (w.answers[one], w.answers[two].reason) == (Granted(tokens=600), "tokens")
    w.write(one)
    w.passes(100.0)
    assert granted(w, two) == [False]
    w.end(one, tokens=300)
    assert granted(w, two) == [True]
    three = w.ask("a", 3, "r", tokens=200)
    w.passes(60.0)
    assert granted(w, three) == [False]
    w.passes(0.06)
    assert granted(w, three) == [True]
    assert w.book.levels(w.now)[0].tokens == 300


@pytest.mark.parametrize(
    ("how", "tokens", "counts"),
    [("ok", None, 600), ("cancelled", None, 600), ("failed", 20, 20), ("throttled", None, 0), ("exhausted", None, 0)],
)
def test_what_an_end_says_nothing_of_counts_as_reserved_unless_it_was_refused(how, tokens, counts):
    w = world(tokens="1k/min")
    one = w.ask("a", 1, "r", tokens=600)
    w.end(one, how=how, tokens=tokens)
    assert w.book.levels(w.now)[0].windows[0].used == counts


def test_what_a_step_needs_is_learned():
    w = world(tokens="100k/min")

    def reserved(number, **more):
        return w.answers[w.ask("a", number, "r", **more)].tokens

    assert reserved(1, step="write") == TOKENS_DEFAULT
    assert reserved(2, step="write", tokens_max=300) == 300
    assert reserved(3, step="write", tokens=70) == 70
    assert reserved(4, step="write", tokens=70, tokens_max=50) == 50
    for number in range(40):
        w.end(w.ask("a", 10 + number, "r", step="write", tokens=1), tokens=number)
        w.end(w.ask("a", 60 + number, "r", step="read", tokens=1), tokens=1_000)
    assert reserved(200, step="write") == 38
    assert reserved(201, step="write", tokens_max=20) == 20
    assert reserved(202, step="new") == 1_000


def test_no_wait_is_foretold_from_tokens_that_no_call_has_shown_yet():
    w = world(tokens="24k/min")
    calls = [w.ask("a", number, "r", step="write", sla="high") for number in range(24)]
    behind = [w.ask("a", 100 + number, "r", step="write", sla="high") for number in range(300)]
    assert w.answers[behind[0]] == Waits("tokens", 0, None)
    assert w.answers[behind[-1]] == Waits("tokens", 299, None)
    w.passes(2.0)
    w.end(calls[0], tokens=60)
    assert granted(w, behind[0]) == [False]
    # 23 calls under way have reserved 1,000 each, and will use some 60 as well.
    late = [w.ask("a", number, "r", step="write", sla="high") for number in (500, 501)]
    assert [w.answers[name].ahead for name in late] == [300, 301]
    assert w.answers[late[0]].expected_s == pytest.approx(2.0)
    for name in calls[1:]:
        w.end(name, tokens=60)
    assert granted(w, *behind[:20]) == [True] * 20


def test_what_is_certain_of_a_wait_is_foretold_though_its_tokens_are_unknown():
    w = world(rate="1/10s", tokens="1k/min", share=0.001)
    first = w.ask("a", 1, "r")
    w.write(first)
    assert w.answers[w.ask("a", 2, "r")] == Waits("rate", 0, pytest.approx(10.05))
    blocked = world(tokens="1k/min")
    one = blocked.ask("a", 1, "r", tokens=10)
    blocked.end(one, how="throttled", blocked_s=30.0)
    assert blocked.answers[blocked.ask("a", 2, "r")] == Waits("retry-after", 0, pytest.approx(30.0))


def test_a_call_that_needs_more_than_there_is_names_both():
    w = world(tokens=("1k/min", "500/s"))
    refused = w.answers[w.ask("a", 1, "r", tokens=1_200)]
    assert refused == Refused("too-small", "r: the call needs 1,200 tokens, the limit is 500/s", None)
    assert isinstance(w.answers[w.ask("a", 2, "r", tokens=500)], Granted)


def test_what_was_learned_is_no_reason_to_refuse():
    w = world(tokens="500/s")
    w.end(w.ask("a", 1, "r", tokens=10, step="s"), tokens=9_000)
    w.passes(2.0)
    assert w.answers[w.ask("a", 2, "r", step="s")].tokens == 500


# Levels and declarations.


def test_levels_say_all_of_it():
    w = world(concurrency=2, rate="10/s", tokens="1k/min")
    one = w.ask("a", 1, "r", tokens=100)
    w.write(one)
    w.ask("a", 2, "r", tokens=100)
    w.passes(0.5)
    w.ask("a", 3, "r", tokens=100, sla="high")
    w.passes(0.5)
    level = msgspec.to_builtins(w.book.levels(w.now)[0])
    assert level["in_use"] == level["concurrency"] == 2
    assert list(level["windows"]) == [
        {"limit": "10/s", "of": "calls", "scaled": 10, "used": 2},
        {"limit": "1k/min", "of": "tokens", "scaled": 1_000, "used": 200},
    ]
    assert level["waiting"] == {"high": {"count": 1, "oldest_s": 0.5, "longest_wait_s": None}}
    w.end(one, tokens=50)
    level = w.book.levels(w.now)[0]
    assert (level.calls, level.tokens, level.scale) == ({"ok": 1}, 50, 1.0)


def test_other_limits_hold_from_their_declaration_on():
    w = world(rate="10/min", concurrency=9)
    names = [w.ask("a", number, "r") for number in range(12)]
    for name in names[:9]:
        w.write(name)
        w.end(name)
    assert granted(w, *names[9:]) == [True, False, False]
    spec = resource("r", rate="11/min")
    w.hears(w.book.declare(w.now, [spec, resource("s", concurrency=1)], {"new": SLA("new", priority=9)}))
    assert granted(w, *names[9:]) == [True, True, False]
    level = w.book.levels(w.now)
    assert (level[0].concurrency, level[0].windows[0].used, level[1].name) == (None, 11, "s")
    w.hears(w.book.declare(w.now, [resource("r", rate="2/min")], {}))
    w.passes(60.0)
    assert granted(w, names[11]) == [False]
    for name in names[9:11]:
        w.end(name)
    w.passes(60.06)
    assert granted(w, names[11]) == [True]


def test_tokens_that_are_declared_anew_have_none_left_of_calls_that_ended_meanwhile():
    with_tokens, without = resource(tokens="100/min", concurrency=9), resource(concurrency=9)
    book = Book([with_tokens], {})
    book.ask(0.0, "a", Ask(id="u", resource="r", tokens=60))
    book.declare(1.0, [without], {})
    book.done(2.0, "a", "u", Done())
    book.declare(3.0, [with_tokens], {})
    assert [window.used for window in book.levels(3.0)[0].windows] == [0]
