from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core import harm as core
from offramp.core.bands import add
from offramp.core.blocks import BLOCKS_KEPT
from offramp.core.harm import Harm

NOW = 1_790_000_000.0


def allowed_of(allowed, would_make):
    """How many runs may be demoted wrongly."""
    return allowed * would_make + core.OVERDRAWN * math.sqrt(allowed * would_make) + core.CREDIT


def most(allowed, would_make):
    """The same for the true count: the control corrects what is counted, and one run may be on its way."""
    return 1.2 * allowed_of(allowed, would_make) + 1


class Stream:
    """Runs, each with a chance that the bound receives, and a true one."""

    def __init__(self, allowed, seed=1):
        self.harm, self.draws, self.now = Harm(allowed), random.Random(seed), NOW
        self.wrong = self.would_make = self.doomed = self.demoted = 0

    def run(self, claimed, true, count=1, *, fast_is_kinder=0.0):
        for _ in range(count):
            self.now += 30
            makes = self.draws.random() < true
            verdict = self.harm.verdict(claimed, 1.0, self.draws.random())
            fate = {"stay": "stayed", "demote": "demoted", "control": "control"}[verdict]
            if verdict == "demote":
                self.harm.demoted(claimed, self.now)
            # Some runs that would make it on the fast path take longer on the deep one.
            makes_there = makes and not (fate == "demoted" and self.draws.random() < fast_is_kinder)
            self.wrong += makes and fate == "demoted"
            self.would_make += makes
            self.demoted += fate == "demoted"
            self.doomed += not makes
            self.harm.settle(fate, self.now, made=makes_there)
        return self

    @property
    def share(self):
        return self.wrong / self.would_make


def settled(harm, runs):
    """Every fourth of these runs made its budget."""
    for number in range(runs):
        harm.settle("stayed", NOW, made=number % 4 == 0)


def test_nothing_is_demoted_by_a_class_that_allows_none():
    assert Stream(0.0).run(0.001, 0.0, 500).demoted == 0
    assert Harm(0.0).report().limit == 0


def test_a_run_that_more_likely_makes_it_stays_even_where_any_may_be_demoted():
    harm = Harm(1.0)
    for number in range(100):
        harm.settle("stayed", 1e9 + number, made=True)
    assert harm.verdict(0.51, 1.0, 1.0) == "stay"
    assert harm.verdict(0.49, 1.0, 1.0) == "demote"


@pytest.mark.parametrize("chance", [math.nan, -0.1, math.inf])
def test_what_is_no_chance_demotes_no_run(chance):
    harm = Harm(1.0)
    for number in range(100):
        harm.settle("stayed", 1e9 + number, made=True)
    assert harm.verdict(chance, 1.0, 1.0) == "stay"


def test_what_never_makes_its_budget_is_demoted_sooner_than_what_sometimes_does():
    def needed(*others):
        harm, runs = Harm(0.05), 0
        for made in others:
            harm.settle("stayed", NOW, made=made)
        while harm.verdict(1 / (runs + 2), 1.0, 0.5) == "stay":
            harm.settle("stayed", NOW, made=False)
            runs += 1
        return runs

    assert 30 < needed() < 50 < needed(True) < 100


def test_most_doomed_runs_are_demoted_when_they_can_be_told():
    stream = Stream(0.05)
    for _ in range(500):
        stream.run(0.9, 0.9).run(0.01, 0.01)
    assert stream.demoted > 0.85 * 500
    assert stream.share < 0.05


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.floats(0.0001, 1), st.floats(0, 1), st.integers(1, 150)), min_size=1, max_size=12),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_the_bound_holds_however_wrong_the_chances_are(mixes, allowed):
    stream = Stream(allowed)
    for claimed, true, count in mixes:
        stream.run(claimed, true, count)
        assert stream.wrong <= most(allowed, stream.would_make)


def test_a_mix_that_turns_does_not_spend_what_was_saved_up():
    stream = Stream(0.05).run(0.9, 0.9, 3_000)
    stream.run(0.01, 1.0, 300)
    assert stream.wrong <= most(0.05, core.BLOCK_MADE) * (300 / core.BLOCK_MADE + 1) < most(0.05, 3_000) / 2


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("claimed", "true"), [(0.02, 0.02), (0.01, 0.04), (0.04, 0.01)])
def test_the_reported_share_is_within_two_points_of_the_true_one(seed, claimed, true):
    stream = Stream(0.05, seed)
    for _ in range(400):
        stream.run(0.8, 0.7).run(claimed, true, 3)
    assert stream.harm.report().share == pytest.approx(stream.share, abs=0.02)
    assert stream.wrong <= most(0.05, stream.would_make)


def test_the_control_shows_what_the_deep_path_hides():
    """Half of the runs that the fast path would have ended in time take longer on the deep path."""
    stream = Stream(0.2, 4)
    for _ in range(2_000):
        stream.run(0.9, 0.9).run(0.04, 0.08, 4, fast_is_kinder=0.5)
    report = stream.harm.report()
    counted = report.wrong / stream.harm.report().made
    assert report.controls > 50
    assert report.share == counted
    assert report.share > 0.6 * stream.share, "the taken runs alone would say half"


def test_the_less_is_left_of_the_budget_the_surer_a_demotion_must_be():
    harm = Harm(0.05)
    assert harm.verdict(0.001, 1.0, 0.5) == "stay", "nothing is known yet"
    settled(harm, 400)
    verdicts = [harm.verdict(0.02, left, 0.5) for left in (1.0, 0.5, 0.1, 0.01)]
    assert verdicts == ["demote", "demote", "stay", "stay"]


def test_a_demoted_run_counts_until_it_is_settled():
    harm = Harm(0.05)
    settled(harm, 400)
    demoted = 0
    while harm.verdict(0.04, 1.0, 0.5) == "demote":
        harm.demoted(0.04, NOW)
        demoted += 1
    assert demoted == pytest.approx(allowed_of(0.05, 100) / 0.04, abs=2)
    harm.settle("demoted", NOW, made=None)
    assert harm.verdict(0.04, 1.0, 0.5) == "demote", "one that was cancelled harmed no more"


def test_a_demotion_that_did_not_happen_leaves_no_trace():
    harm = Harm(0.05)
    settled(harm, 400)
    for _ in range(1000):
        assert harm.verdict(0.04, 1.0, 0.5) == "demote"
        harm.demoted(0.04, NOW)
        harm.withdraw(0.04, NOW)


def test_counts_add_over_gateways_and_a_failed_write_loses_none():
    one, two, alone = Stream(0.05, 1), Stream(0.05, 2), Stream(0.0)
    for stream in (one, two):
        stream.run(0.9, 0.9, 50)
    one.harm.take()
    one.harm.put_back()
    sums = {}
    for taken in (one.harm.take(), two.harm.take()):
        for block, counts in taken.items():
            add(sums.setdefault(block, {}), counts)
    alone.harm.replace(sums)
    assert alone.harm.report().runs == 100
    assert alone.harm.report().made == one.would_make + two.would_make


def test_blocks_are_bounded():
    stream = Stream(0.05).run(0.9, 1.0, 64 * 25)
    taken = stream.harm.take()
    stream.harm.replace(taken)
    assert len(taken) - len(stream.harm.expired()) == BLOCKS_KEPT
    assert math.isfinite(stream.harm.report().made)
