"""Tables of ownership with one rule replaced: what the store then does wrong.

Each bug is called in place of a rule, with that rule and its arguments.
"""

from __future__ import annotations

import functools
import math

from offramp.core import ownership
from offramp.core.ownership import ENGINE, FIRST_TURN, StepTurn
from offramp.errors import RunConflict
from tests.conformance.broken.marks import breaks


def instead_of(rule):
    """Mark a function as a bug in a rule of the table."""

    def mark(bug):
        bug.rule = rule
        return bug

    return mark


def plant(bug, monkeypatch):
    """Put a bug into the table, until the test ends."""
    monkeypatch.setattr(ownership, bug.rule, functools.partial(bug, getattr(ownership, bug.rule)))


@breaks("Q1")
@instead_of("claim")
def same_token(claim, run, owner, now):
    """The token does not grow with a change of hands."""
    claimed = claim(run, owner, now)
    return claimed and claimed._replace(token=run.token)


@breaks("Q2")
@instead_of("release")
def barren_expiry(release, run, left_by="exit"):
    """A run that an expired owner held has no owner, and is free for none."""
    released = release(run, left_by)
    return released._replace(status="running") if left_by == "silence" else released


@breaks("Q4")
@instead_of("cancel")
def cancel_ignored(_cancel, run):
    """A wish to cancel is forgotten."""
    return run


@breaks("Q4")
@instead_of("cancel")
def cancelled_after_the_end(cancel, run):
    """A run that has ended is marked as to be cancelled."""
    return cancel(run)._replace(cancel_requested=True)


@breaks("Q5")
@instead_of("park")
def signal_lost_at_parking(park, run, until, *, seen, sent):
    """A run is parked past a signal that it has not seen."""
    return park(run, until, seen=max(seen, sent), sent=sent)


@breaks("Q5")
@instead_of("park")
def cancel_lost_at_parking(park, run, until, **signals):
    """A run that is to be cancelled is parked instead."""
    parked = park(run._replace(cancel_requested=False), until, **signals)
    return parked._replace(cancel_requested=run.cancel_requested)


@breaks("Q5")
@instead_of("park")
def no_timer(park, run, _until, **signals):
    """A parked run is not woken by time."""
    return park(run, math.inf, **signals)


@breaks("Q5")
@instead_of("park")
def parked_past_its_deadline(park, run, until, **signals):
    """A parked run sleeps through its deadline."""
    parked = park(run, until, **signals)
    return parked if parked.parked_until is None else parked._replace(parked_until=until)


@breaks("Q5")
@instead_of("park")
def parked_but_held(park, run, until, **signals):
    """A parked run belongs to the process that parked it."""
    parked = park(run, until, **signals)
    return parked._replace(owner=run.owner) if parked.parked_until and run.deadline_at is None else parked


@breaks("Q5")
@instead_of("signal")
def deaf_while_parked(signal, run, *asked):
    """A signal does not wake a parked run."""
    signalled = signal(run, *asked)
    return run if run.parked_until is not None else signalled


@breaks("Q5")
@instead_of("cancel")
def uncancellable_while_parked(cancel, run):
    """A wish to cancel does not wake a parked run."""
    return cancel(run) if run.parked_until is None else run._replace(cancel_requested=True)


@breaks("Q5")
@instead_of("unpark")
def early_timer(unpark, run, now):
    """A parked run is woken before its time."""
    return unpark(run, now + 2)


@breaks("Q5")
@instead_of("claim")
def parked_forever(claim, run, owner, now):
    """A parked run that is claimed by its id stays parked."""
    claimed = claim(run, owner, now)
    return claimed and claimed._replace(parked_until=None if run.parked_until is None else now)


@breaks("Q7")
@instead_of("is_fresh")
def always_fresh(_is_fresh, _run):
    """A run that was begun is said to be fresh."""
    return True


@breaks("Q7")
@instead_of("is_fresh")
def never_fresh(_is_fresh, _run):
    """A run that no process has begun is said to be begun."""
    return False


@breaks("Q8")
@instead_of("signal")
def endless_signals(signal, run, run_id, signals, size):
    """A run takes any number of signals."""
    return signal(run, run_id, min(signals, ownership.SIGNALS_MAX - 1), size)


@breaks("Q8")
@instead_of("signal")
def huge_signals(signal, run, run_id, signals, _size):
    """A run's signals are bounded in number alone."""
    return signal(run, run_id, signals, 0)


@breaks("Q9")
@instead_of("is_overdue")
def early_deadline(is_overdue, run, now):
    """A run is overdue before its deadline."""
    return is_overdue(run, now + 2)


@breaks("Q9")
@instead_of("is_overdue")
def overdue_though_owned(is_overdue, run, now):
    """A run that a process executes is overdue."""
    return is_overdue(run if run.owner == ENGINE else run._replace(owner=None), now)


@breaks("Q9")
@instead_of("is_overdue")
def parked_is_never_overdue(is_overdue, run, now):
    """A run that waits has no deadline."""
    return run.parked_until is None and is_overdue(run, now)


@breaks("Q10")
@instead_of("is_free")
def leaves_the_parked(is_free, run, now):
    """A parked run cannot be claimed by its id."""
    return run.parked_until is None and is_free(run, now)


@breaks("Q10")
@instead_of("is_free")
def claims_the_ended(is_free, run, now):
    """A run that has ended is executed once more."""
    return run.status == "completed" or is_free(run, now)


@breaks("Q10")
@instead_of("is_free")
def impatient(is_free, run, now):
    """A run is taken from its engine before its grace is over."""
    return is_free(run, now + 2)


@breaks("Q12")
@instead_of("require_same")
def key_of_any_signal(_require_same, _known, _name, _value):
    """A key that came with another signal is taken for that one."""


@breaks("Q12")
@instead_of("require_same")
def key_of_no_signal(_require_same, _known, _name, _value):
    """A signal that is sent again is refused."""
    raise RunConflict("this Idempotency-Key was used")


@breaks("Q13")
@instead_of("assign")
def assigned_twice(assign, run, now):
    """Assigning a run again takes it from the processes that write it already."""
    return assign(run._replace(owner=None), now)


@breaks("Q13")
@instead_of("assign")
def assigned_after_the_end(assign, run, now):
    """A run that has its outcome is given to the engine."""
    return assign(run._replace(status="queued"), now)


@breaks("Q14")
@instead_of("take_turn")
def no_turns(take_turn, newest):
    """A process that took a step before may still write it."""
    turn = take_turn(newest)
    return turn if turn.finished else StepTurn(FIRST_TURN)


@breaks("Q14")
@instead_of("may_append")
def written_twice(_may_append, newest, turn):
    """A step is written past its entry."""
    return newest.number <= turn


@breaks("Q17")
@instead_of("acknowledge")
def all_acknowledged(_acknowledge, run):
    """One notice to the engine counts for all."""
    return run._replace(notices=0)


@breaks("S3")
@instead_of("holds")
def any_token(_holds, run, owner, _token):
    """A lease is current as long as its owner has the run, by whichever claim."""
    return run.owner == owner
