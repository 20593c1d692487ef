"""What the table of ownership promises, stated without it: of any run, after any moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from offramp.core import ownership
from offramp.core.ownership import (
    ASSIGNED_GRACE_S,
    ENGINE,
    FIRST_TURN,
    NOT_BEGUN,
    SIGNALS_BYTES_MAX,
    SIGNALS_MAX,
    Ownership,
    StepTurn,
)
from offramp.core.run import NOT_TAKEN, OUTCOMES, TRANSITIONS
from offramp.errors import IdempotencyMismatch, RunConflict

NOW = 1_000.0
ID = "run_1"

times = st.integers(0, 200).map(lambda place: NOW - 100 + place)
deadlines = st.one_of(st.none(), times)
owners = st.sampled_from(["a", "b"])
outcomes = st.sampled_from(sorted(OUTCOMES))


def of(status, owner, parked_until=None):
    """Runs in one state of the table's docstring."""
    return st.builds(
        Ownership,
        status=status if isinstance(status, st.SearchStrategy) else st.just(status),
        owner=owner if isinstance(owner, st.SearchStrategy) else st.just(owner),
        token=st.integers(1, 5),
        path=st.just("deep"),
        started_at=st.sampled_from([None, NOT_TAKEN, NOW - 50]),
        parked_until=st.none() if parked_until is None else parked_until,
        cancel_requested=st.booleans(),
        left_by=st.none(),
        notices=st.integers(0, 2),
        deadline_at=deadlines,
    )


queued = of("queued", None)
leased = of("running", owners)
parked = of("running", None, parked_until=st.one_of(times, st.just(math.inf)))
assigned = of("running", ENGINE)
ended = of(outcomes, None)
anything = st.one_of(queued, leased, parked, assigned, ended)
unfinished = st.one_of(queued, leased, parked, assigned)


def is_late(run, now):
    """Whether a run's engine let its deadline pass."""
    return run.owner == ENGINE and run.deadline_at is not None and run.deadline_at + ASSIGNED_GRACE_S <= now


# Q10: what may be claimed.


@given(st.one_of(queued, parked), owners, times)
def test_a_run_without_an_owner_is_claimed(run, owner, now):
    claimed = ownership.claim(run, owner, now)
    assert (claimed.status, claimed.path, claimed.owner, claimed.parked_until) == ("running", "deep", owner, None)


@given(st.one_of(leased, ended), owners, st.floats(0, 1e12))
def test_a_run_that_a_process_holds_and_one_that_has_ended_are_never_claimed(run, owner, now):
    assert ownership.claim(run, owner, now) is None


@given(assigned, owners, times)
def test_an_assigned_run_is_claimed_only_when_its_engine_let_the_deadline_pass(run, owner, now):
    assert (ownership.claim(run, owner, now) is not None) is is_late(run, now)


@given(assigned, owners)
def test_the_grace_of_an_engine_ends_exactly_then(run, owner):
    run = run._replace(deadline_at=NOW)
    assert ownership.claim(run, owner, math.nextafter(NOW + ASSIGNED_GRACE_S, 0)) is None
    assert ownership.claim(run, owner, NOW + ASSIGNED_GRACE_S) is not None


# Q9: what no owner ends.


@given(anything, times)
def test_a_run_is_overdue_past_its_deadline_and_without_an_owner(run, now):
    is_past = run.deadline_at is not None and run.deadline_at <= now
    expected = is_past and run.status not in OUTCOMES and (run.owner is None or is_late(run, now))
    assert ownership.is_overdue(run, now) is expected


@given(unfinished)
def test_a_run_is_overdue_exactly_from_then_on(run):
    run = run._replace(deadline_at=NOW)
    from_then = {None: NOW, ENGINE: NOW + ASSIGNED_GRACE_S}.get(run.owner, math.inf)
    assert not ownership.is_overdue(run, math.nextafter(from_then, 0))
    assert ownership.is_overdue(run, from_then) is (from_then < math.inf)


# Q1, Q7, J3: leases, tokens and what is fresh, over any sequence of moves.


class Moves(RuleBasedStateMachine):
    """One run, and every lease of it that was ever given."""

    def __init__(self):
        super().__init__()
        self.now = NOW
        self.run = Ownership("queued", None, deadline_at=NOW + 200)
        self.given = []
        self.current = None
        self.begun = False

    def moved(self, run, holder=None):
        """The run after a move that gave it to `holder`, or to none."""
        before, self.run, self.current = self.run, run, holder
        assert run.status == before.status or run.status in TRANSITIONS[before.status]
        assert run.deadline_at == before.deadline_at

    def took(self, run, owner):
        assert all(run.token > token for _, token in self.given), "a token is not higher than all before"
        self.moved(run, (owner, run.token))
        self.given.append((owner, run.token))
        self.begun = True

    @rule(owner=owners)
    def claim(self, owner):
        assert ownership.is_fresh(self.run) is not self.begun
        claimed = ownership.claim(self.run, owner, self.now)
        if claimed is not None:
            assert self.current is None or self.current[0] == ENGINE, "a run has two owners"
            self.took(claimed, owner)

    @rule()
    def assign(self):
        run = ownership.assign(self.run, self.now)
        assert (run is None) is (self.run.status in OUTCOMES)
        if self.run.owner == ENGINE:
            assert run == self.run, "a run is assigned a second time"
        elif run is not None:
            self.took(run, ENGINE)

    @precondition(lambda self: self.current)
    @rule(left_by=st.sampled_from(["exit", "death", "silence"]))
    def release(self, left_by):
        self.moved(ownership.release(self.run, left_by))
        assert (self.run.status, self.run.left_by) == ("queued", left_by)
        assert ownership.claim(self.run, "c", self.now) is not None, "a released run is not free"

    @precondition(lambda self: self.current)
    @rule(wait_s=st.integers(0, 50), missed=st.booleans())
    def park(self, wait_s, missed):
        self.moved(ownership.park(self.run, self.now + wait_s, seen=0, sent=int(missed)))

    @precondition(lambda self: self.current)
    @rule(status=outcomes)
    def finish(self, status):
        self.moved(ownership.finish(self.run, status))
        assert self.run.status == status

    @rule(later_s=st.integers(0, 100))
    def wait(self, later_s):
        self.now += later_s
        self.moved(ownership.unpark(self.run, self.now), self.current)

    @rule()
    def cancel(self):
        self.moved(ownership.cancel(self.run), self.current)
        assert self.run.cancel_requested or self.run.status in OUTCOMES

    @precondition(lambda self: self.run.status not in OUTCOMES)
    @rule()
    def signal(self):
        self.moved(ownership.signal(self.run, ID, 0, 10), self.current)

    @invariant()
    def only_the_last_lease_that_was_not_given_up_may_write(self):
        holding = [lease for lease in self.given if ownership.holds(self.run, *lease)]
        assert holding == ([] if self.current is None else [self.current])
        assert self.run.owner == (self.current and self.current[0])


TestMoves = Moves.TestCase


@given(leased, st.sampled_from(["exit", "wait", "death", "silence"]), owners, times)
def test_what_an_owner_held_is_free_for_any_other(run, left_by, owner, now):
    released = ownership.release(run, left_by)
    assert released.left_by == left_by
    claimed = ownership.claim(released, owner, now)
    assert claimed.token > run.token
    assert claimed.started_at == (run.started_at or now)


# Q5: parked runs.


@given(leased, times, st.integers(0, 3))
def test_a_parked_run_sleeps_until_its_time_or_deadline_and_no_longer(run, until, signals):
    run = run._replace(cancel_requested=False)
    parked = ownership.park(run, until, seen=signals, sent=signals)
    assert (parked.status, parked.owner, parked.left_by) == ("running", None, "wait")
    wakes_at = until if run.deadline_at is None else min(until, run.deadline_at)
    assert ownership.unpark(parked, math.nextafter(wakes_at, 0)) == parked
    assert ownership.unpark(parked, wakes_at)[:2] == ("queued", None)


@given(leased, times, st.integers(0, 3), st.integers(0, 3))
def test_neither_a_signal_nor_a_wish_is_lost_at_parking(run, until, seen, sent):
    parked = ownership.park(run, until, seen=seen, sent=sent)
    is_woken = seen != sent or run.cancel_requested
    assert (parked.status == "queued", parked.parked_until is None) == (is_woken, is_woken)
    assert parked.owner is None
    assert parked.cancel_requested == run.cancel_requested


@given(parked)
def test_a_signal_and_a_wish_to_cancel_queue_a_parked_run(run):
    for woken in (ownership.cancel(run), ownership.signal(run, ID, 0, 10)):
        assert (woken.status, woken.owner, woken.parked_until) == ("queued", None, None)
    assert ownership.cancel(run).cancel_requested


@given(st.one_of(queued, leased, assigned, ended), st.floats(0, 1e12))
def test_time_queues_none_but_parked_runs(run, now):
    assert ownership.unpark(run, now) == run


# Q4, Q8, Q12, Q17: what callers ask.


@given(st.one_of(queued, leased, assigned))
def test_a_wish_and_a_signal_leave_a_run_where_it_is(run):
    notices = run.notices + (run.owner == ENGINE)
    assert ownership.cancel(run) == run._replace(cancel_requested=True, notices=notices)
    assert ownership.signal(run, ID, 0, 10) == run._replace(notices=notices)


@given(ended)
def test_a_run_that_has_ended_takes_nothing_more(run):
    assert ownership.cancel(run) == run
    assert ownership.assign(run, NOW) is None
    with pytest.raises(RunConflict, match=rf"{ID} has ended \({run.status}\)"):
        ownership.signal(run, ID, 0, 10)


@given(unfinished)
def test_signals_are_bounded_in_number_and_size(run):
    ownership.signal(run, ID, SIGNALS_MAX - 1, SIGNALS_BYTES_MAX)
    with pytest.raises(RunConflict, match=f"{ID} was sent {SIGNALS_MAX} signals"):
        ownership.signal(run, ID, SIGNALS_MAX, 10)
    with pytest.raises(RunConflict, match=f"takes {SIGNALS_BYTES_MAX} in all"):
        ownership.signal(run, ID, 0, SIGNALS_BYTES_MAX + 1)


def test_a_key_is_of_one_signal():
    ownership.require_same(("go", b"1"), "go", b"1")
    for name, value in (("go", b"2"), ("stop", b"1")):
        with pytest.raises(IdempotencyMismatch):
            ownership.require_same(("go", b"1"), name, value)


@given(assigned, st.integers(0, 3), st.integers(0, 5))
def test_an_engine_is_notified_as_often_as_it_has_not_acknowledged(run, notices, acknowledged):
    run = run._replace(notices=0)
    for _ in range(notices):
        run = ownership.cancel(run)
    for _ in range(acknowledged):
        run = ownership.acknowledge(run)
    assert run.notices == max(0, notices - acknowledged)


# Q14: turns at a step.


@given(st.lists(st.booleans(), max_size=8))
def test_only_the_newest_turn_writes_a_step_and_only_until_its_entry(moves):
    newest, turns, finished = NOT_BEGUN, [FIRST_TURN], False
    for is_entry in moves:
        if is_entry and not finished:
            newest, finished = StepTurn(turns[-1], finished=True), True
        else:
            newest = ownership.take_turn(newest)
            turns += [] if finished else [newest.number]
        assert newest.finished is finished
        assert [turn for turn in turns if ownership.has_turn(newest, turn)] == [max(turns)]
        assert [turn for turn in turns if ownership.may_append(newest, turn)] == ([] if finished else [max(turns)])
    assert turns == sorted(set(turns)), "two processes have one turn"


# S5: the end.


@given(leased, outcomes, owners)
def test_an_outcome_is_final(run, status, owner):
    finished = ownership.finish(run, status)
    assert not ownership.holds(finished, run.owner, run.token)
    assert ownership.claim(finished, owner, 1e12) is None
    with pytest.raises(RunConflict):
        ownership.finish(finished, status)
