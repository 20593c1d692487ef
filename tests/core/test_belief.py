from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core import belief as core
from offramp.core.bands import add
from offramp.core.belief import Belief, Past, Progress
from offramp.core.codec import Signature
from offramp.core.features import FEATURES_MAX, FIELDS_READ, OWN_MAX, Session, features, in_words

MINUTE_S = 60.0
NOW = 1_790_000_000.0


def learned(*pasts, belief=None, minutes=1.0):
    belief = belief or Belief()
    for number, past in enumerate(pasts):
        belief.observe(past, NOW + number * minutes * MINUTE_S)
    return belief


def runs_of(count, middle_s, *features, seed=1, spread=0.4):
    draws = random.Random(seed)
    return [Past(features, middle_s * draws.lognormvariate(0, spread), (), 6.0) for _ in range(count)]


def in_turn(ones, others):
    return [run for pair in zip(ones, others, strict=True) for run in pair]


def shared(*takes):
    sums = {}
    for taken in takes:
        for block, counts in taken.items():
            add(sums.setdefault(block, {}), counts)
    return sums


PASTS = st.lists(
    st.builds(
        Past,
        st.lists(st.sampled_from(["c:kind:a", "c:kind:b", "n:size:9", "n:size:12"]), max_size=2, unique=True).map(
            tuple
        ),
        st.floats(0.01, 1_000),
        st.lists(st.tuples(st.sampled_from(["plan", "write"]), st.floats(0.01, 10)), max_size=3).map(
            lambda steps: tuple(sorted(steps, key=lambda step: step[1]))
        ),
        st.sampled_from([None, 6.0]),
    ),
    max_size=20,
)


def cells_of(blocks):
    """The stored cells without the notes, whose scores depend on what was believed at the time."""
    return {
        block: {name: cell for name, cell in counts.items() if name != core.NOTES} for block, counts in blocks.items()
    }


@given(PASTS, PASTS, PASTS)
def test_adding_is_associative_and_equals_learning_together(one, two, three):
    takes = [learned(*pasts, minutes=0).take() for pasts in (one, two, three)]
    together = learned(*one, *two, *three, minutes=0).take()
    left, right = shared(shared(*takes[:2]), takes[2]), shared(takes[0], shared(*takes[1:]))
    assert cells_of(left) == cells_of(right) == cells_of(together)
    believed, expected = Belief(), Belief()
    believed.replace(left)
    expected.replace(together)
    assert believed.runs == expected.runs == len(one + two + three)


@given(PASTS, st.floats(0, 20), st.floats(0.1, 60), st.floats(0.1, 60), st.booleans())
def test_a_larger_budget_is_never_less_likely_to_be_kept(pasts, elapsed_s, one_s, other_s, has_finished):
    belief = learned(*pasts)
    progress = Progress(elapsed_s, (("plan", elapsed_s / 2),) if has_finished else ())
    lower, upper = (belief.chance(("c:kind:a",), budget_s, progress) for budget_s in sorted([one_s, other_s]))
    assert 0 <= lower <= upper <= 1
    estimate = belief.estimate(("c:kind:a",), one_s, progress)
    assert estimate.p50_s <= estimate.p95_s
    assert not pasts or estimate.p50_s >= elapsed_s


def test_nothing_is_expected_to_miss_its_budget_before_a_run_has_ended():
    estimate = Belief().estimate((), 6.0)
    assert (estimate.chance, estimate.runs) == (1.0, 0)


def test_after_one_run_the_next_is_expected_to_take_about_as_long():
    estimate = learned(Past(("c:kind:a",), 12.0)).estimate(("c:kind:a",), 6.0)
    assert 10 < estimate.p50_s < 14
    assert 0.1 < estimate.chance < 0.5, "one run is no proof"
    assert estimate.runs == 1
    assert estimate.reasons == ("1 of the last 1 runs like this, with the same `kind`, took longer than 6 s",)


def test_after_a_thousand_runs_the_features_tell_short_from_long():
    mixed = [
        run for pair in zip(runs_of(500, 2, "c:kind:a"), runs_of(500, 20, "c:kind:b"), strict=True) for run in pair
    ]
    belief = learned(*mixed)
    short, long = (belief.estimate((f"c:kind:{kind}",), 6.0) for kind in "ab")
    assert short.chance > 0.97
    assert 1.8 < short.p50_s < 2.3
    assert long.chance < 0.03
    assert 18 < long.p50_s < 23
    assert 30 < long.p95_s < 50


def test_sixty_runs_are_enough_where_a_feature_tells_surely():
    belief = learned(*in_turn(runs_of(60, 2, "c:kind:a"), runs_of(60, 20, "c:kind:b")))
    assert belief.chance(("c:kind:a",), 6.0) > 0.95
    assert belief.chance(("c:kind:b",), 6.0) < 0.03


def test_features_that_say_the_same_thing_do_not_count_twice():
    """Eight copies of a feature that tells little."""
    draws, belief = random.Random(3), Belief()
    for number in range(1_000):
        kind, is_long = number % 2, draws.random() < (0.8 if number % 2 else 0.5)
        seen = tuple(f"c:copy{copy}:{kind}" for copy in range(8))
        belief.observe(Past(seen, 20.0 if is_long else 2.0, (), 6.0), NOW + number * MINUTE_S)
    chances = [belief.chance(tuple(f"c:copy{copy}:{kind}" for copy in range(8)), 6.0) for kind in (0, 1)]
    assert chances == [pytest.approx(0.5, abs=0.15), pytest.approx(0.2, abs=0.12)]


def test_a_run_that_still_runs_is_ever_less_likely_to_keep_its_budget():
    belief = learned(*in_turn(runs_of(300, 2), runs_of(300, 20)))
    chances = [belief.chance((), 6.0, Progress(elapsed_s)) for elapsed_s in (0, 2, 4, 5)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.4
    assert chances[2] < 0.1


def test_a_finished_step_tells_what_is_left():
    short = [Past((), 2.0, ()) for _ in range(100)]
    long = [Past((), 30.0, (("plan", 1.5),)) for _ in range(100)]
    belief = learned(*in_turn(short, long))
    assert belief.chance((), 6.0, Progress(1.6)) > 0.4
    assert belief.chance((), 6.0, Progress(1.6, (("plan", 1.5),))) < 0.05
    unseen = Progress(1.6, (("another", 1.5),))
    assert belief.chance((), 6.0, unseen) == belief.chance((), 6.0, Progress(1.6)), "the start says it then"


@pytest.mark.parametrize(("before_s", "after_s"), [(2.0, 8.0), (20.0, 5.0)])
def test_a_deploy_that_makes_a_pipeline_slower_or_faster_is_noticed_within_40_runs(before_s, after_s):
    belief = learned(*runs_of(2_000, before_s))
    learned(*runs_of(40, after_s, seed=2), belief=belief)
    assert after_s * 0.7 < belief.estimate((), 6.0).p50_s < after_s * 1.4
    other = Belief()
    other.replace(belief.take())
    assert other.estimate((), 6.0).p50_s == pytest.approx(belief.estimate((), 6.0).p50_s, rel=0.2), "it is shared"


def of(runs, *sources):
    return [run._replace(sources=sources) for run in runs]


@pytest.mark.parametrize("sources", [("acme", ""), ("", "one session"), ("acme", "one session")])
def test_one_tenant_or_session_cannot_have_the_past_of_others_forgotten(sources):
    belief = learned(*of(runs_of(500, 2.0), "", ""))
    learned(*of(runs_of(100, 60.0), *sources), belief=belief)
    assert belief.runs > 400
    learned(*of(runs_of(40, 60.0), "", "another"), belief=belief)
    assert belief.estimate((), 6.0).p50_s > 40, "two say the same"


@pytest.mark.parametrize("sources", [("acme", ""), ("acme", "one session")])
def test_the_only_tenant_or_session_is_believed(sources):
    belief = learned(*of(runs_of(500, 2.0) + runs_of(40, 60.0), *sources))
    assert belief.estimate((), 6.0).p50_s > 40


def test_a_steady_pipeline_keeps_its_past():
    belief = learned(*runs_of(3_000, 5.0))
    assert not any(counts[core.NOTES].get(core.BREAK) for counts in belief.take().values())
    assert belief.runs > 1_000


def test_what_the_store_did_not_take_is_given_again():
    belief = learned(*runs_of(10, 2.0))
    first = belief.take()
    learned(*runs_of(5, 2.0), belief=belief)
    belief.put_back()
    taken = belief.take()
    assert sum(counts[core.NOTES][core.RUNS] for counts in taken.values()) == 15
    belief.replace(taken)
    assert belief.runs == 15
    assert belief.take() == {}
    learned(*runs_of(1, 2.0), belief=belief)
    belief.replace(shared(taken, first))
    assert belief.runs == 26, "what another gateway added, and what was learned since"


@pytest.mark.parametrize("runs", [75_000.0, 2_000_000.0])
def test_a_block_long_before_many_later_runs_counts_no_more(runs):
    """Its weight is too small for a float, or nearly so."""
    blocks = {
        int(NOW // 60) + number: {core.NOTES: {core.RUNS: runs}, "|": {"2" if number else "20": runs}}
        for number in range(core.BLOCKS_KEPT)
    }
    belief = Belief()
    belief.replace(blocks)
    belief.added({min(blocks): {"|": {"25": 1.0}}})
    belief.observe(Past(("c:kind:a",), 2.0, (), 6.0), NOW + 3_600)
    estimate = belief.estimate(("c:kind:a",), 6.0, Progress(1.0))
    assert estimate.chance > 0.99
    assert estimate.reasons


def test_what_the_store_lost_is_taken_off():
    belief = learned(*runs_of(10, 2.0))
    taken = belief.take()
    belief.replace(taken)
    belief.added({block: {"|": {band: -weight for band, weight in taken[block]["|"].items()}} for block in taken})
    assert belief.estimate((), 6.0).runs == 0
    learned(*runs_of(3, 2.0), belief=belief)
    assert belief.estimate((), 6.0).runs == 3


def test_cells_and_blocks_are_bounded(monkeypatch):
    monkeypatch.setattr(core, "CELLS_MAX", 500)
    belief = Belief()
    for number in range(3_000):
        seen = features({f"field{number % 50}": f"id-{number}", "size": number}, {f"own{number % 9}": number})
        belief.observe(Past(seen, 1.0, (("plan", 0.5),)), NOW + number * 10 * MINUTE_S)
    assert belief.cells == 500
    taken = belief.take()
    belief.replace(taken)
    assert len(belief.expired()) == len(taken) - core.BLOCKS_KEPT > 0
    few = learned(*[Past((f"c:user:{number}",), 1.0) for number in range(200)], minutes=0)
    assert few.cells == 1 + core.VALUES_MAX + 1, "further values share a cell"


def test_values_that_came_first_and_are_rare_give_way_to_frequent_ones():
    belief = learned(*[Past((f"c:model:rare{number}",), 3.0, (), 6.0) for number in range(core.VALUES_MAX + 8)])
    learned(*in_turn(runs_of(300, 20, "c:model:slow"), runs_of(300, 2, "c:model:quick")), belief=belief)
    assert belief.chance(("c:model:slow",), 6.0) < 0.1
    assert belief.chance(("c:model:quick",), 6.0) > 0.9


@pytest.mark.parametrize(("limit", "most"), [("NAMES_MAX", 64), ("CELLS_MAX", 100)])
def test_an_input_with_other_fields_each_time_makes_no_cells_without_end(limit, most, monkeypatch):
    monkeypatch.setattr(core, limit, most)
    belief = learned(Past(("c:kind:a",), 20.0))
    for number in range(300):
        seen = features({"context": {f"key{number}-{inner}": 1 for inner in range(16)}})
        belief.observe(Past(("c:kind:b", *seen), 1.0, (("plan", 0.5),)), NOW)
    stored = sum(map(len, belief.take().values()))
    assert belief.cells <= stored <= 2 * (most + FEATURES_MAX), "a run's features are counted together"
    assert belief.chance(("c:kind:a",), 6.0) < belief.chance(("c:kind:b",), 6.0)


def test_features_are_few_short_and_say_what_they_are():
    question = "What is 2 + 2? And why. " * 100
    input = {
        "question": question,
        "model": "opus",
        "documents": ["a"] * 5,
        "input_tokens": 20_000,
        "deep": {"on": True},
    }
    seen = features(input, {"kind": "batch", "pages": 12.5}, Session(3, (2.5, 9.0, 1.0)))
    assert [in_words(feature) for feature in seen] == [
        "2 to 4 session turns",
        "the last runs of the session took 2 to 4 s on average",
        "with the same `kind`",
        "8 to 16 pages",
        "with the same `model`",
        "with the same `deep.on`",
        "16 to 32 thousand input tokens",
        "question of 2 to 4 thousand characters",
        "question with a question, 8 or more sentences, 1 line",
        "4 to 8 documents",
    ]


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    ),
    st.dictionaries(st.text(), st.floats() | st.text(), max_size=12),
)
def test_any_input_has_features(input, own):
    seen = features(input, own, Session(10**9, (float("nan"), -1.0)))
    assert len(seen) <= FEATURES_MAX
    assert sum(feature[2:].startswith("own.") for feature in seen) <= 2 * OWN_MAX
    assert all(in_words(feature) for feature in seen)
    assert learned(Past(seen, 1.0)).estimate(seen, 6.0).runs == 1


class Order(msgspec.Struct):
    kind: str
    notes: dict[str, int]


def test_no_value_of_an_input_and_no_undeclared_key_is_kept_or_said():
    async def bill(order: Order | None, ctx: dict[str, Any]) -> None: ...

    declared = Signature(bill, "bill").declared
    assert declared == {"order.kind", "order.notes"}
    given = {
        "order": {"kind": "HIV", "notes": {"bob": 1}},
        "ctx": {"alice@example.com": 3, "b": "HIV", "c": [1], "d": None},
    }
    ann, ben = [features(given, {"ward": "HIV"}, None, tenant, declared) for tenant in ("ann", "ben")]
    assert [in_words(feature) for feature in ann] == [
        "with the same `ward`",
        "with the same `order.kind`",
        "with the same entry of `ctx`",
        "2 to 4 in an entry of `ctx`",
        "1 order.notes",
        "1 item in an entry of `ctx`",
        "with the same entry of `ctx`",
    ]
    assert not any(secret in f"{ann} {ben}" for secret in ("HIV", "alice", "bob"))
    assert set(ann) & set(ben) == {"l:order.notes:2^1"}, "a tenant is compared with its own values and keys"


@pytest.mark.parametrize(
    ("kinds", "progress", "exact", "expected"),
    [
        ("aaab", Progress(), True, "3 of the last 3 runs like this, with the same `kind`, took longer than 1 s"),
        ("aaab", Progress(), False, "nearly all recent runs like this, with the same `kind`, took longer than 1 s"),
        (
            "",
            Progress(0.06, (("think", 0.05),)),
            True,
            "all of the last 40 runs that had finished 1 step and were still running after 0.06 s took longer than 1 s",
        ),
        ("", Progress(0.5), False, "nearly all recent runs that were still running after 0.5 s took longer than 1 s"),
        ("", Progress(3_000.0), True, "hardly any recent runs that were still running after 3000 s are known"),
    ],
)
def test_reasons_are_sentences_and_those_for_a_tenant_have_no_counts(kinds, progress, exact, expected):
    if kinds:
        pasts = [Past((f"c:kind:{kind}",), 4.0 if kind == "a" else 0.5) for kind in kinds]
    else:
        pasts = [Past((), 4.0, (("think", 0.05),))] * 40
    seen = ("c:kind:a",) if kinds else ()
    assert learned(*pasts).estimate(seen, 1.0, progress, exact=exact).reasons == (expected,)


def test_a_value_that_is_not_counted_by_itself_is_not_said_to_be_the_same():
    belief = learned(*[Past((f"c:user:{number}",), 1.0 + number) for number in range(200)])
    (reason,) = belief.estimate(("c:user:150",), 6.0).reasons
    assert "with a less common `user`" in reason


@pytest.mark.parametrize(
    ("runs", "shown"), [(0, 0), (1, 1), (9.4, 1), (10, 10), (99, 10), (999, 100), (41_000, 10_000)]
)
def test_what_a_tenant_sees_of_a_number_of_runs(runs, shown):
    assert core.rounded_down(runs) == shown


def test_features_of_a_large_input_are_taken_from_its_first_fields():
    read = []

    class Fields(dict):
        def items(self):
            for name, value in super().items():
                read.append(name)
                yield name, value

    wide = Fields({f"field{number}": "two words" for number in range(10_000)})
    assert len(features(wide)) == FEATURES_MAX
    assert len(features({"deep": wide})) == FEATURES_MAX
    assert len(read) == 2 * FIELDS_READ
