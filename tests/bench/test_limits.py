"""The simulation of limits: its provider catches wrong limits, and the right ones keep what they promise."""

from __future__ import annotations

import functools
import itertools

import pytest

from bench._burst import BATCH, INTERACTIVE
from bench._limits_gates import Coordinator
from bench._limits_load import Load, Run, burst, limit
from bench._limits_outage import outage
from bench._limits_shows import (
    CLASSES,
    FIFO,
    NONE,
    OURS,
    SPLIT,
    Cell,
    flood,
    inversion,
    killed,
    overdeclared,
    row,
    rows,
    simulation,
)

CAPACITY = 8.0
BEFORE_S, LASTS_S = 40.0, 120.0
DUMP = 800


@pytest.fixture(scope="module")
def cell():
    """Two minutes around the busiest second, with a batch from their beginning on."""
    whole = burst()
    part = whole.part(whole.busiest_second()[0] - BEFORE_S, LASTS_S)
    batch = [Run(0.0, BATCH, "A") for _ in range(DUMP)] + [Run(float(at), BATCH, "B") for at in range(0, 100, 5)]
    return Cell(Load("part", part.interactive, batch, LASTS_S), CAPACITY * whole.per_s / part.per_s)


def violations(cell, gate, *harm):
    provider = cell.provider()
    world = simulation(cell, provider, gate)
    for at, what in harm:
        world.at(at, lambda what=what: world.follow(what(world.now) or []))
    ended = world.serve(cell.load.interactive + cell.load.batch)
    return provider.stats().violations, len(ended)


def test_the_provider_catches_windows_that_count_from_the_moment_of_writing_alone(cell):
    count = len(cell.load.interactive) + len(cell.load.batch)
    without, ended = violations(cell, Coordinator([cell.spec()], CLASSES, margin_s=0.0))
    assert without > 0
    assert ended == count
    assert violations(cell, Coordinator([cell.spec()], CLASSES)) == (0, count)


def test_the_provider_catches_a_successor_that_knows_nothing_and_no_other(cell):
    def harmed(*, remembered):
        gate = Coordinator([cell.spec()], CLASSES)
        succeed = functools.partial(gate.succeed, remembered=remembered)
        return violations(cell, gate, (BEFORE_S + 0.5, lambda _: gate.kill()), (BEFORE_S + 1.0, succeed))

    assert harmed(remembered=False)[0] > 0
    assert harmed(remembered=True) == (0, len(cell.load.interactive) + len(cell.load.batch))


def test_a_burst_in_every_order(cell):
    alone, ours, fifo, split, none = rows(cell, [OURS, FIFO, SPLIT, NONE])
    assert [each.violations for each in (alone, ours, fifo, split)] == [0, 0, 0, 0]
    assert [each.lost for each in (alone, ours, fifo, split)] == [0, 0, 0, 0]
    assert none.lost > 0
    assert none.violations > 1_000
    assert ours.times_alone <= 1.15
    assert fifo.times_alone > 2
    assert split.times_alone > ours.times_alone
    assert ours.batch_done >= 0.98 * fifo.batch_done


def test_a_tenant_with_few_runs_does_not_wait_for_one_with_many(cell):
    load = cell.load._replace(interactive=[Run(0.0, INTERACTIVE)])
    _, ours, fifo = rows(Cell(load, CAPACITY * burst().per_s / load.per_s), [OURS, FIFO])
    assert ours.other_tenant_p95_s <= 5
    assert fifo.other_tenant_p95_s > 10


def test_killed_coordinators_and_limits_declared_too_high(cell):
    assert (killed(cell, 1.0).violations, killed(cell, 1.0).lost) == (0, 0)
    declared = overdeclared(cell, 1.0)
    assert (declared.lost, declared.refused < 0.02) == (0, True)
    assert declared.violations > 0, "nothing was declared too high"


def test_tokens_are_kept_too(cell):
    load = cell.load
    heavy = load._replace(interactive=[run._replace(tokens=2_000) for run in load.interactive])
    tokens = 1_000_000
    _, ours = rows(cell._replace(load=heavy, tokens_per_min=tokens), [OURS])
    assert (ours.violations, ours.lost) == (0, 0)


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_no_batch_run_waits_longer_than_its_bound(share):
    shown = flood(Cell(burst(), 5.7), share, lasts_s=200.0)
    assert 0.9 * shown.bound_s <= shown.waited_s_max <= 1.05 * shown.bound_s


def test_high_runs_go_before_low_ones_that_have_waited_for_long_but_for_the_share():
    shown = inversion()
    assert 0 < shown.passed_over <= shown.by_share


@pytest.mark.parametrize("slow", [False, True])
def test_an_outage_and_a_slow_provider_beside_a_spare_one(slow):
    shown = outage(slow=slow, limited=True)
    assert shown.lost == 0
    assert shown.into <= 0.12
    assert shown.times_before <= 2
    alone = outage(slow=slow, limited=False, spare=False)
    assert alone.into > 0.9
    assert alone.times_before > 2 * shown.times_before


def test_the_same_seed_shows_the_same(cell):
    both = cell.load.interactive + cell.load.batch
    first, again = (row(cell, OURS, both, 1.0) for _ in range(2))
    assert first == again


def test_a_minute_allows_fifty_times_what_a_second_does():
    assert [str(rate) for rate in limit(18.2).rates] == ["18/s", "900/min"]
    assert limit(18.2).times(0.25).concurrency == limit(18.2).concurrency // 4


def test_a_part_of_a_load_is_what_is_handed_in_then():
    runs = [Run(float(at), INTERACTIVE) for at in range(10)]
    part = Load("all", runs, [], 10.0).part(3.0, 2.0)
    assert [run.at for run in part.interactive] == [0.0, 1.0]
    assert (part.per_s, part.busiest) == (1.0, 1.0)
    assert list(itertools.chain(part.batch)) == []
