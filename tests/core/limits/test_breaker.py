"""When a breaker opens, which calls may try, and what closes it: all that libraries of breakers get wrong."""

from __future__ import annotations

import itertools
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.limits.breaker import (
    AGAIN_S,
    BUCKETS,
    CREDENTIALS_MAX,
    OTHER_REASON,
    PROBES,
    REASON_CHARS_MAX,
    REASONS_MAX,
    RECENT_CALLS,
    RECENT_TIMES,
    BreakerMemory,
    Breakers,
    seconds_in_words,
)
from offramp.core.limits.spec import Breaker

RULES = Breaker(error_rate=0.5, slow_after=8.0, min_calls=10, window=30.0, open_for=10.0)
REPORTS_NOTHING = ["throttled", "exhausted", "cancelled", "unused"]


IDS = itertools.count()


def begin(breakers: Breakers, now: float, credential: str = "") -> str:
    permit_id = str(next(IDS))
    breakers.granted(now, permit_id, credential)
    return permit_id


def call(breakers: Breakers, how: str, now: float, says: str = "503", credential: str = "") -> bool:
    return breakers.ended(now, begin(breakers, now, credential), how, says)


def is_closed(breakers: Breakers, now: float = 0.0) -> bool:
    return breakers.level(now).state == "closed"


def shut(breakers: Breakers, now: float, credential: str = "") -> float | None:
    """None if a call may be made; else the time from which one may."""
    left_s = breakers.refusal(now, credential)[1]
    assert (breakers.may(now, credential) == "no") == (left_s > 0)
    return round(now + left_s, 6) if left_s else None


def sentence(breakers: Breakers, now: float) -> str:
    return breakers.refusal(now, "")[0]


def opened(now: float = 0.0, rules: Breaker = RULES) -> Breakers:
    breakers = Breakers("openai", rules)
    for _ in range(rules.min_calls):
        call(breakers, "failed", now)
    return breakers


def test_failures_open_it_and_nothing_is_let_through_until_it_is_time():
    breakers = Breakers("openai", RULES)
    for _ in range(9):
        assert not call(breakers, "failed", 1.0)
    assert is_closed(breakers)
    assert shut(breakers, 1.0) is None
    assert call(breakers, "failed", 2.0), "waiters have to know"
    assert not is_closed(breakers)
    assert shut(breakers, 2.0) == shut(breakers, 11.9) == 12.0
    assert shut(breakers, 12.0) is None


def test_fewer_calls_than_a_decision_needs_open_nothing():
    breakers = Breakers("openai", Breaker(min_calls=3))
    assert not call(breakers, "failed", 0.0)
    assert not call(breakers, "failed", 0.0)
    assert call(breakers, "failed", 0.0)


def test_the_share_itself_opens_it_and_less_does_not():
    for error_rate in (0.1, 0.3, 0.7):
        breakers = Breakers("openai", Breaker(error_rate=error_rate, min_calls=1000, window=1e6))
        bad = round(1000 * error_rate)
        for _ in range(1000 - bad):
            call(breakers, "ok", 0.0)
        assert [call(breakers, "failed", 0.0) for _ in range(bad)] == [False] * (bad - 1) + [True]


def test_a_rate_of_one_opens_when_all_fail():
    one_was_fine = Breakers("openai", Breaker(error_rate=1, min_calls=2))
    call(one_was_fine, "ok", 0.0)
    assert not any(call(one_was_fine, "failed", 0.0) for _ in range(RECENT_CALLS - 1))
    assert shut(opened(rules=Breaker(error_rate=1, min_calls=2)), 0.0)


@pytest.mark.parametrize("how", REPORTS_NOTHING)
def test_cancellations_and_refusals_by_a_limit_are_not_counted(how):
    breakers = Breakers("openai", RULES)
    for _ in range(100):
        assert not call(breakers, how, 0.0)
    assert is_closed(breakers)
    assert breakers.level(0.0).counts == {}


def test_of_many_calls_only_the_last_count_so_that_a_busy_breaker_opens_as_soon_as_another():
    for before in (0, 50, 100_000):
        breakers = Breakers("openai", RULES)
        for _ in range(before):
            call(breakers, "ok", 0.0)
        failed = next(number for number in itertools.count(1) if call(breakers, "failed", 0.0))
        assert failed <= RECENT_CALLS / 2 + RECENT_CALLS / BUCKETS
        counted = breakers.level(0.0).counts
        assert counted["failed"] == failed
        assert counted.get("ok", 0) <= failed


@pytest.mark.parametrize("min_calls", [1, 10, 20, 1_000])
def test_as_many_calls_as_a_decision_may_need_are_remembered_and_few_more(min_calls):
    breakers = Breakers("openai", Breaker(error_rate=1, min_calls=min_calls))
    for _ in range(20 * min_calls + 1_000):
        call(breakers, "ok", 0.0)
    counted = breakers.level(0.0).counts["ok"]
    least = max(RECENT_CALLS, RECENT_TIMES * min_calls)
    assert least <= counted <= least + least / BUCKETS + 1


def test_calls_older_than_the_window_do_not_count():
    breakers = Breakers("openai", RULES)
    for _ in range(9):
        call(breakers, "failed", 0.0)
    assert breakers.level(26.9).counts == {"failed": 9}
    assert not call(breakers, "failed", 30.0)
    assert breakers.level(30.0).counts == {"failed": 1}


def test_slow_calls_count_when_they_become_late_and_once():
    breakers = Breakers("openai", RULES)
    late = [begin(breakers, 0.0) for _ in range(10)]
    assert [breakers.slow(8.0, each) for each in late] == [False] * 9 + [True]
    assert sentence(breakers, 8.0) == (
        "openai: 10 of the last 10 calls were slow (no first token within 8 s); next try in 10 s"
    )
    assert not any(breakers.ended(9.0, each, "ok", "") for each in late)

    breakers = Breakers("openai", RULES)
    one = begin(breakers, 0.0)
    for _ in range(3):
        breakers.slow(8.0, one)
    breakers.ended(9.0, one, "failed", "timeout")
    assert breakers.level(9.0).counts == {"slow": 1}


def test_slow_and_failed_calls_count_together():
    breakers = Breakers("openai", Breaker(min_calls=4))
    for how in ("ok", "ok", "slow", "failed"):
        changed = call(breakers, how, 0.0)
    assert changed
    assert (
        sentence(breakers, 0.0)
        == "openai: 2 of the last 4 calls failed or were slow (1 x 503, 1 slow); next try in 10 s"
    )


def test_of_ten_at_once_a_half_open_breaker_lets_two_through():
    breakers = opened()
    passed = 0
    for _ in range(10):
        if shut(breakers, 10.0) is None:
            assert breakers.granted(10.0, str(next(IDS)), "")
            passed += 1
    assert passed == PROBES == 2


def test_a_probe_that_never_reports_leaves_its_place_after_its_lease():
    breakers = opened()
    first, _ = begin(breakers, 10.0), begin(breakers, 13.0)
    assert shut(breakers, 14.0) == 14.0 + AGAIN_S
    assert breakers.may(19.9, "") == "no"
    assert shut(breakers, 20.0) is None
    assert breakers.granted(20.0, str(next(IDS)), "")
    assert shut(breakers, 20.0) == 20.0 + AGAIN_S
    assert breakers.ended(22.0, first, "ok", ""), "late, but it says something"
    assert shut(breakers, 22.0) == 23.0, "whose lease ended gives back no place of another one"


@pytest.mark.parametrize("how", REPORTS_NOTHING)
def test_a_probe_that_says_nothing_gives_its_place_back(how):
    breakers = opened()
    probes = [begin(breakers, 10.0) for _ in range(PROBES)]
    assert shut(breakers, 10.0) == 10.0 + AGAIN_S
    assert breakers.ended(11.0, probes[0], how, ""), "a waiter may go"
    assert shut(breakers, 11.0) is None
    assert not is_closed(breakers)


def test_a_probe_that_succeeds_gives_its_place_to_another():
    breakers = opened()
    probes = [begin(breakers, 10.0) for _ in range(PROBES)]
    assert breakers.may(11.0, "") == "no"
    assert breakers.ended(11.0, probes[0], "ok")
    assert breakers.may(11.0, "") == "probe"


def test_probes_that_succeed_close_it_and_one_that_fails_opens_it():
    breakers = opened()
    assert call(breakers, "ok", 10.0)
    assert not is_closed(breakers)
    assert call(breakers, "ok", 10.0)
    assert is_closed(breakers)
    assert breakers.level(10.0).counts == {}

    breakers = opened()
    call(breakers, "ok", 10.0)
    assert call(breakers, "failed", 10.5)
    assert shut(breakers, 10.5) == 20.5
    call(breakers, "ok", 20.5)
    assert not is_closed(breakers), "earlier successes are over"

    breakers = opened()
    assert breakers.slow(18.0, begin(breakers, 10.0))
    assert shut(breakers, 18.0) == 28.0


def test_a_late_success_of_before_the_opening_closes_nothing():
    breakers = Breakers("openai", RULES)
    before = [begin(breakers, 0.0) for _ in range(20)]
    for each in before[:10]:
        breakers.ended(1.0, each, "failed", "503")
    assert not any(breakers.ended(12.0, each, "ok", "") for each in before[10:])
    assert not is_closed(breakers)
    assert shut(breakers, 5.0) == 11.0


def test_a_late_failure_of_before_the_closing_opens_nothing():
    breakers = Breakers("openai", Breaker(min_calls=1))
    before = [begin(breakers, 0.0) for _ in range(2)]
    breakers.ended(0.0, before[0], "failed", "503")
    for _ in range(PROBES):
        call(breakers, "ok", 10.0)
    assert is_closed(breakers)
    assert not breakers.ended(10.0, before[1], "failed", "timeout")
    assert is_closed(breakers)


def test_a_call_that_was_granted_although_it_is_shut_reports_nothing():
    breakers = opened()
    through = begin(breakers, 1.0)
    assert not breakers.ended(12.0, through, "ok", "")
    assert not is_closed(breakers)


def test_a_credential_has_a_breaker_of_its_own():
    breakers = Breakers("openai", RULES)
    for _ in range(10):
        call(breakers, "failed", 0.0, credential="revoked")
        call(breakers, "ok", 0.0, credential="fine")
    assert shut(breakers, 0.0, "revoked")
    assert shut(breakers, 0.0, "fine") is None
    level = breakers.level(0.0)
    assert (level.state, level.counts, level.next_try_s) == ("open", {"failed": 10}, 10.0), "the worst is shown"
    assert breakers.level(3.0).next_try_s == 7.0
    assert breakers.level(10.0).state == "half-open"


def test_credentials_are_forgotten_past_their_bound_but_open_breakers_last():
    breakers = opened()
    for number in range(10 * CREDENTIALS_MAX):
        call(breakers, "failed", 0.0, credential=str(number))
    assert shut(breakers, 0.0), "a closed one went first"
    assert breakers.level(0.0).state == "open"
    call(breakers, "failed", 0.0, credential="0")
    assert breakers.level(0.0).counts == {"failed": 10}
    forgotten = opened()
    late = begin(forgotten, 0.0, "other")
    for number in range(CREDENTIALS_MAX):
        call(forgotten, "ok", 0.0, credential=str(number))
    assert not forgotten.ended(0.0, late, "failed", "503")


def test_the_credential_used_longest_ago_is_forgotten():
    breakers = Breakers("openai", Breaker(min_calls=2, error_rate=1))
    for number in range(CREDENTIALS_MAX):
        call(breakers, "failed", 0.0, credential=str(number))
    begin(breakers, 0.0, "0")
    begin(breakers, 0.0, "one more")
    assert not call(breakers, "failed", 0.0, credential="1"), "it begins anew"
    assert call(breakers, "failed", 0.0, credential="0"), "the second failure that is remembered"


def test_the_sentence_says_how_many_why_and_when():
    breakers = Breakers("openai", Breaker(min_calls=12, error_rate=0.75, open_for=8))
    for _ in range(3):
        call(breakers, "ok", 0.0)
    for says in ["503"] * 7 + ["timeout"] * 2:
        call(breakers, "failed", 0.0, says)
    text = "openai: 9 of the last 12 calls failed (7 x 503, 2 timeouts); next try in "
    assert sentence(breakers, 0.0) == text + "8 s"
    assert sentence(breakers, 7.9) == text + "1 s"
    assert sentence(breakers, 8.0) == text.removesuffix("in ") + "now"
    for _ in range(PROBES):
        begin(breakers, 8.0)
    assert sentence(breakers, 9.0) == text + f"{AGAIN_S:.0f} s", "a probe may succeed long before its lease ends"
    assert sentence(opened(rules=Breaker(min_calls=1, open_for=600)), 0.0) == (
        "openai: 1 of the last 1 calls failed (1 x 503); next try in 10 min"
    )
    assert [seconds_in_words(each) for each in (0.0, 118.2, 119.5, 121.0)] == ["1 s", "119 s", "2 min", "3 min"]
    assert Breakers("openai", RULES).refusal(0.0, "") == ("openai: calls may be made", 0.0)


def test_reasons_are_bounded_in_number_and_length_and_slow_is_always_shown():
    breakers = Breakers("openai", Breaker(min_calls=1000, error_rate=1, window=1000))
    for number in range(999):
        call(breakers, "failed", number, f"{number}" + "x" * 1000)
    call(breakers, "slow", 999.0)
    [opening] = breakers.memory(999.0)
    assert len(opening.reasons) == REASONS_MAX + 2
    assert sum(opening.reasons.values()) == 1000
    assert opening.reasons[OTHER_REASON] > 900
    assert opening.reasons["slow"] == 1
    assert all(len(reason) <= REASON_CHARS_MAX for reason in opening.reasons)
    tracemalloc.start()
    try:
        for number in range(10_000):
            call(breakers, "failed", 2000.0, f"{number}" + "y" * 30, credential="another")
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
    nothing = Breakers("openai", Breaker(min_calls=1))
    call(nothing, "failed", 0.0, "")
    assert "(1 failure)" in sentence(nothing, 0.0)


def test_a_successor_knows_what_is_open():
    breakers = opened(100.0)
    call(breakers, "ok", 100.0, credential="fine")
    data = msgspec.json.encode(breakers.memory(103.0))
    successor = Breakers("openai", RULES)
    successor.restore(5000.0, msgspec.json.decode(data, type=tuple[BreakerMemory, ...]))
    assert shut(successor, 5000.0) == 5007.0
    assert shut(successor, 5000.0, "fine") is None
    assert sentence(successor, 5000.0) == sentence(breakers, 103.0)

    successor.restore(5000.0, [BreakerMemory("", 2.0)])
    assert shut(successor, 5000.0) == 5007.0, "the later deadline wins"
    successor.restore(5000.0, [BreakerMemory("", 1e9)])
    assert shut(successor, 5000.0) == 5010.0, "but none is later than the rules have it"

    successor.restore(5000.0, opened().memory(11.0))
    assert shut(successor, 5010.0) is None
    assert not successor.ended(5011.0, "a permit of its predecessor", "failed", "503")


moves = st.lists(
    st.tuples(
        st.sampled_from(["begin", "ok", "failed", "slow", "cancelled", "late", "wait"]),
        st.integers(0, 30),
        st.sampled_from([0.0, 0.1, 1.0, 3.0, 10.0, 31.0]),
    ),
    max_size=150,
)


@given(moves, st.integers(1, 5), st.sampled_from([0.2, 0.5, 1.0]))
def test_no_history_lets_too_many_through_or_none_forever(history, min_calls, error_rate):
    rules = Breaker(error_rate=error_rate, min_calls=min_calls, slow_after=8.0)
    breakers, now, under_way = Breakers("openai", rules), 0.0, []
    leases: dict[str, float] = {}
    for what, which, delta in history:
        now += delta
        leases = {probe: end for probe, end in leases.items() if end > now}
        before = breakers.level(now).state
        if what == "begin":
            wanted = {"closed": "yes", "open": "no", "half-open": "probe" if len(leases) < PROBES else "no"}[before]
            assert breakers.may(now, "") == wanted
            permit_id = str(next(IDS))
            assert breakers.granted(now, permit_id, "") == (wanted == "probe")
            if wanted == "probe":
                leases[permit_id] = now + rules.open_for
            under_way.append((permit_id, wanted))
        elif what != "wait" and under_way:
            place = which % len(under_way)
            permit_id, passage = under_way[place] if what == "late" else under_way.pop(place)
            late = what == "late"
            changed = breakers.slow(now, permit_id) if late else breakers.ended(now, permit_id, what, "503")
            assert passage != "no" or not changed, "no breaker has let it through"
            after = breakers.level(now).state
            leases.pop(permit_id, None)
            if after != before:
                assert changed
                leases = {}
        level = breakers.level(now)
        assert (level.state == "closed") == (level.next_try_s is None)
        assert ((level.next_try_s or 0) > 0) == (breakers.may(now, "") == "no")
    assert shut(breakers, now + 2 * rules.open_for) is None, "a call may be made, in the end"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=100))
def test_the_window_counts_what_happened_in_it(history):
    breakers, now, log = Breakers("openai", Breaker(error_rate=1, min_calls=1000)), 0.0, []
    for fine, delta in history:
        now += delta
        call(breakers, "ok" if fine else "failed", now)
        log.append((now, fine))
        counts = breakers.level(now).counts
        for how, wanted in (("ok", True), ("failed", False)):
            within = [at for at, was in log if was is wanted]
            least = sum(at > now - 30.0 * (1 - 1 / BUCKETS) for at in within)
            assert least <= counts.get(how, 0) <= sum(at > now - 30.0 for at in within)
