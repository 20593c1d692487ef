"""Which runs a process takes, and how soon what kills processes is alone: properties of decisions, without a store."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.claims import (
    NO_SUSPICION,
    SUSPECT_DEATHS,
    UNBOUNDED,
    Head,
    QueuedLine,
    Suspicion,
    after_death,
    choose,
)

PROCESS_DEATHS = 3


def died(deaths, company=UNBOUNDED):
    return Suspicion(deaths, 0, 0, company)


suspicions = st.one_of(
    st.just(NO_SUSPICION),
    st.just(died(1)),
    st.builds(died, st.integers(SUSPECT_DEATHS, 9), st.integers(1, 6)),
)
queues = st.lists(st.tuples(st.sampled_from("ab"), st.integers(-1, 2), suspicions), max_size=14).map(
    lambda queue: [
        Head(f"run_{place:02}", "default", tenant, priority, suspicion=suspicion)
        for place, (tenant, priority, suspicion) in enumerate(queue)
    ]
)
holdings = st.lists(suspicions, max_size=5)


def chosen_of(heads, held, limit):
    """What is chosen of these runs: those without deaths in lines, of which at first only the oldest is known."""
    lines = {}
    for head in heads:
        if not head.suspicion.deaths:
            lines.setdefault(("pipeline", head.priority, head.sla, head.tenant), []).append(head.id)
    return choose(
        [QueuedLine(*place, 0.0, ids[0], len(ids)) for place, ids in lines.items()],
        [head for head in heads if head.suspicion.deaths],
        held,
        limit,
        more=lambda line, after: [run_id for run_id in lines[line[:4]] if run_id > after][:2],
        classes={},
    )


@given(queues, holdings, st.integers(0, 8))
def test_what_is_chosen_is_queued_and_never_too_much_nor_twice(heads, held, limit):
    ids = chosen_of(heads, held, limit).ids
    known = {head.id: head for head in heads}
    assert len(set(ids)) == len(ids) <= limit
    priorities = [known[run_id].priority for run_id in ids]
    assert priorities == sorted(priorities, reverse=True)


@given(queues, holdings, st.integers(0, 8))
def test_runs_with_deaths_have_no_more_company_than_any_of_them_may(heads, held, limit):
    known = {head.id: head.suspicion for head in heads}
    taken = [known[run_id] for run_id in chosen_of(heads, held, limit).ids]
    if any(each.deaths for each in taken):
        together = [each for each in (*held, *taken) if each.deaths]
        assert len(together) <= min(each.company for each in together)


@given(queues, holdings, st.integers(0, 8))
def test_runs_without_deaths_wait_only_for_room(heads, held, limit):
    ids = chosen_of(heads, held, limit).ids
    untouched = [head for head in heads if not head.suspicion.deaths]
    for tenant in "ab":
        own = sorted((head for head in untouched if head.tenant == tenant), key=lambda head: (-head.priority, head.id))
        taken = [head.id for head in own if head.id in ids]
        assert taken == [head.id for head in own][: len(taken)]
    assert {head.id for head in untouched} <= set(ids) or len(ids) == limit


@given(queues, holdings, st.integers(0, 8))
def test_of_runs_with_deaths_none_overtakes_one_of_a_higher_priority(heads, held, limit):
    ids = chosen_of(heads, held, limit).ids
    with_deaths = [head for head in heads if head.suspicion.deaths]
    left = [head.priority for head in with_deaths if head.id not in ids]
    assert all(head.priority >= max(left) for head in with_deaths if head.id in ids and left)


@given(queues, st.integers(1, 8))
def test_an_idle_process_takes_something(heads, limit):
    assert bool(chosen_of(heads, [], limit).ids) is bool(heads)


def test_what_a_tenant_got_beside_another_is_charged_in_all_its_lines():
    lines = [
        QueuedLine("one", 0, "default", "a", 4.0, "run_1", 1),
        QueuedLine("other", 0, "default", "a", 3.0, "run_3", 1),
        QueuedLine("one", 0, "default", "b", 4.0, "run_2", 1),
        QueuedLine("one", -1, "default", "b", 0.0, "run_0", 9),
    ]
    chosen = choose(lines, [], [], 3, more=lambda _line, _after: [], classes={})
    assert chosen == (["run_1", "run_2", "run_3"], {(0, "a"): 5.0, (0, "b"): 5.0})


queued_lines = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 2.5]), st.integers(1, 5), st.booleans()), min_size=2, max_size=7
)


@given(queued_lines, st.integers(0, 20), st.integers(1, 3), st.randoms(use_true_random=False))
def test_tenants_of_one_class_take_turns_as_in_every_queue(drawn, limit, at_once, draws):
    names = [f"run_{number:02}" for number in range(sum(runs for _, runs, _ in drawn))]
    draws.shuffle(names)
    lines, waiting = [], {}
    for number, (tag, runs, counts_gone) in enumerate(drawn):
        ids = sorted(names.pop() for _ in range(runs))
        lines.append(QueuedLine("pipeline", 0, "default", f"t{number}", tag, ids[0], runs + counts_gone))
        waiting[lines[-1]] = ids

    def more(line, after):
        return [run_id for run_id in waiting[line] if run_id > after][:at_once]

    # A class of which nothing waits changes nothing, but makes the general rule decide.
    by_rule = choose(lines, [], [], limit, more=more, classes={}, overdue=["other"])
    assert choose(lines, [], [], limit, more=more, classes={}) == by_rule


@pytest.mark.parametrize("count", [1, 2, 3, 300])
def test_runs_that_die_together_are_halved_from_the_second_death_on(count):
    once = after_death([NO_SUSPICION] * count, silent=False)
    assert once == [Suspicion(1, int(count == 1), 0, UNBOUNDED)] * count
    twice = after_death(once, silent=True)
    assert twice == [Suspicion(2, 2 * (count == 1), 1, max(1, count // 2))] * count


def test_suspects_share_the_blame_among_themselves_and_others_with_all():
    suspect, once = died(2, company=4), died(1)
    [first, second, third] = after_death([suspect, once, NO_SUSPICION], silent=False)
    assert (first.company, first.alone) == (1, 0)
    assert (second.deaths, second.company, second.alone) == (2, 1, 0)
    assert (third.deaths, third.company, third.alone) == (1, UNBOUNDED, 0)
    assert after_death([suspect, NO_SUSPICION], silent=False)[0].alone == 1


@dataclass
class Run:
    kills: bool
    suspicion: Suspicion = NO_SUSPICION
    deaths: int = 0


class World:
    """Processes that take runs until all have ended; each death and each survival is a round."""

    def __init__(self, kills, capacity, processes):
        self.runs = {f"run_{place:03}": Run(each) for place, each in enumerate(kills)}
        self.queue = set(self.runs)
        self.held = [set() for _ in range(processes)]
        self.capacity = capacity
        self.completed, self.given_up = set(), set()
        self.rounds = 0

    def claim(self, process):
        held = self.held[process]
        heads = [Head(run_id, suspicion=self.runs[run_id].suspicion) for run_id in sorted(self.queue)]
        suspicions = [self.runs[run_id].suspicion for run_id in held]
        for run_id in chosen_of(heads, suspicions, self.capacity - len(held)).ids:
            self.queue.discard(run_id)
            if self.runs[run_id].suspicion.alone >= PROCESS_DEATHS:
                self.given_up.add(run_id)
            else:
                held.add(run_id)

    def die(self, process):
        ids = sorted(self.held[process])
        self.held[process] = set()
        known = after_death([self.runs[run_id].suspicion for run_id in ids], silent=False)
        for run_id, suspicion in zip(ids, known, strict=True):
            self.runs[run_id].suspicion = suspicion
            self.runs[run_id].deaths += 1
            self.queue.add(run_id)

    def go_on(self, process, finished_share):
        """A killer strikes when some of the others have finished; without one all finish."""
        self.rounds += 1
        innocent = sorted(run_id for run_id in self.held[process] if not self.runs[run_id].kills)
        strikes = len(innocent) < len(self.held[process])
        ended = innocent[: int(len(innocent) * finished_share)] if strikes else innocent
        self.held[process] -= set(ended)
        self.completed |= set(ended)
        if strikes:
            self.die(process)


def play(kills, capacity, processes, shares):
    """Every process dies twice with all that it can take, then everything goes its way."""
    world = World(kills, capacity, processes)
    for _ in range(SUSPECT_DEATHS):
        for process in range(processes):
            world.claim(process)
        for process in range(processes):
            world.die(process)
    turn = 0
    while world.queue or any(world.held):
        process = turn % processes
        world.claim(process)
        if world.held[process]:
            world.go_on(process, shares[turn % len(shares)])
        turn += 1
        assert turn < 10_000, "it does not come to an end"
    return world


@given(
    st.lists(st.sampled_from([False] * 9 + [True]), min_size=1, max_size=120),
    st.integers(1, 150),
    st.integers(1, 4),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=7),
)
def test_every_innocent_run_completes_and_every_killer_is_given_up(kills, capacity, processes, shares):
    world = play(kills, capacity, processes, shares)
    killers = {run_id for run_id, run in world.runs.items() if run.kills}
    assert (world.given_up, world.completed) == (killers, set(world.runs) - killers)
    halvings = math.ceil(math.log2(min(len(kills), capacity))) if min(len(kills), capacity) > 1 else 0
    most = SUSPECT_DEATHS + halvings + PROCESS_DEATHS
    assert all(world.runs[run_id].deaths <= most for run_id in killers), Counter(
        world.runs[run_id].deaths for run_id in killers
    )


def test_three_hundred_runs_whose_processes_were_killed_twice_need_few_rounds():
    assert play([False] * 300, 150, 2, [0.0]).rounds <= 6


def test_two_killers_among_three_hundred_are_found():
    kills = [False] * 300
    kills[17] = kills[211] = True
    world = play(kills, 150, 2, [0.0])
    assert max(run.deaths for run in world.runs.values()) <= SUSPECT_DEATHS + 8 + PROCESS_DEATHS
    innocents = [run.deaths for run in world.runs.values() if not run.kills]
    assert sum(innocents) / len(innocents) < SUSPECT_DEATHS + 2, "most are not in the halves that die"
    assert world.rounds <= 40
