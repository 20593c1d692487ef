"""The table of ownership: what each move does to one run, and which moves are refused. Decisions alone.

A store reads a run's `Ownership`, asks a rule, and stores the answer, in one transaction. The store in memory asks for
every move. A statement about many rows, or a script of another language, restates a rule and names it.

| state    | status      | owner          | parked_until |
|----------|-------------|----------------|--------------|
| queued   | `queued`    | none           | none         |
| leased   | `running`   | a process      | none         |
| parked   | `running`   | none           | a time       |
| assigned | `running`   | `ENGINE`       | none         |
| ended    | an outcome  | none           | none         |
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from offramp.core.claims import LeftBy
from offramp.core.ending import CLEANUP_S_MAX
from offramp.core.run import OUTCOMES, OutcomeStatus, Path, RunRecord, Status, transition
from offramp.errors import IdempotencyMismatch, RunConflict

ENGINE = "engine"
"""Owner of the runs that are assigned to an engine of many processes: each of them may write with its lease."""
ASSIGNED_GRACE_S = 10.0 + CLEANUP_S_MAX
"""What an engine gets past a run's deadline to end the run itself, which may clean up."""
SIGNALS_MAX = 1_000
"""Signals that one run may be sent."""
SIGNALS_BYTES_MAX = 8 << 20
"""Of the values of all signals that one run is sent."""


class Ownership(NamedTuple):
    """What decides about a run's moves: as much of it as every store reads and writes together.

    Attributes:
        status: of the run.
        owner: the process that may write the run, or `ENGINE`.
        token: grows with every claim; a lease is current while both its owner and its token are the run's (J3).
        path: of the run.
        started_at: when a process first took the run, in epoch seconds; `NOT_TAKEN` if none has, but it has entries.
        parked_until: when a parked run is queued, in epoch seconds; `inf` where only a signal queues it.
        cancel_requested: whether a caller wishes to cancel the run.
        left_by: how its last owner came to leave it.
        notices: signals and wishes to cancel that its engine does not know of yet (Q17).
        deadline_at: in epoch seconds; it never changes.
    """

    status: Status
    owner: str | None
    token: int = 1
    path: Path = "fast"
    started_at: float | None = None
    parked_until: float | None = None
    cancel_requested: bool = False
    left_by: LeftBy | None = None
    notices: int = 0
    deadline_at: float | None = None


def shown(record: RunRecord, run: Ownership) -> RunRecord:
    """The record of a run after a move."""
    return msgspec.structs.replace(
        record,
        status=run.status,
        path=run.path,
        started_at=run.started_at,
        cancel_requested=run.cancel_requested,
        left_by=run.left_by,
    )


# Who may write, and who may take.


def holds(run: Ownership, owner: str, token: int) -> bool:
    """Whether a lease is the current one: no other may write the run (J3)."""
    return run.owner == owner and run.token == token


def is_free(run: Ownership, now: float) -> bool:
    """Whether a process may take the run: it has no owner, or its engine let the deadline pass (Q10)."""
    return run.status == "queued" or run.parked_until is not None or _is_let_pass(run, now)


def is_overdue(run: Ownership, now: float) -> bool:
    """Whether the run's deadline has passed and no owner ends it (Q9)."""
    is_late = run.status not in OUTCOMES and run.deadline_at is not None and run.deadline_at <= now
    return is_late and (run.owner is None or _is_let_pass(run, now))


def _is_let_pass(run: Ownership, now: float) -> bool:
    return run.owner == ENGINE and run.deadline_at is not None and run.deadline_at <= now - ASSIGNED_GRACE_S


def is_fresh(run: Ownership) -> bool:
    """Whether no process has executed any of the run, which is about to be claimed (Q7)."""
    return run.started_at is None


# A run changes hands.


def claim(run: Ownership, owner: str, now: float) -> Ownership | None:
    """Lease a free run to a process, with a higher token than any before (Q1); None if it is not free (Q10)."""
    return _taken(run, owner, now) if is_free(run, now) else None


def assign(run: Ownership, now: float) -> Ownership | None:
    """Give a run to the engine, whichever process holds it; once (Q13). None if it has ended."""
    if run.status in OUTCOMES:
        return None
    return run if run.owner == ENGINE else _taken(run, ENGINE, now)


def _taken(run: Ownership, owner: str, now: float) -> Ownership:
    started_at = run.started_at or now
    return Ownership(
        "running",
        owner,
        run.token + 1,
        "deep",
        started_at,
        None,
        run.cancel_requested,
        run.left_by,
        run.notices,
        run.deadline_at,
    )


def release(run: Ownership, left_by: LeftBy = "exit") -> Ownership:
    """Queue a run for any owner: its own gave it back, or is gone (Q2, Q7)."""
    return run._replace(status="queued", owner=None, parked_until=None, left_by=left_by)


def park(run: Ownership, until: float, *, seen: int, sent: int) -> Ownership:
    """Take a run from its owner until a time, its deadline, a signal or a wish to cancel.

    Queue it at once if it is to be cancelled, or was sent a signal that its owner had not seen (Q5).

    Args:
        run: leased.
        until: epoch seconds, or `inf`.
        seen: how many signals its owner has seen.
        sent: how many there are.
    """
    if seen != sent or run.cancel_requested:
        return release(run, "wait")
    until = min(until, math.inf if run.deadline_at is None else run.deadline_at)
    return run._replace(status="running", owner=None, parked_until=until, left_by="wait")


def unpark(run: Ownership, now: float) -> Ownership:
    """Queue a parked run whose time has come, and no other (Q5)."""
    return run if run.parked_until is None or run.parked_until > now else _woken(run)


def _woken(run: Ownership) -> Ownership:
    return run._replace(status="queued", parked_until=None)


def finish(run: Ownership, status: OutcomeStatus) -> Ownership:
    """Give a leased run its outcome; no lease holds it any more (S5)."""
    return run._replace(status=transition(run.status, status), owner=None)


# What callers ask of a run, whichever process holds it.


def cancel(run: Ownership) -> Ownership:
    """Note the wish to cancel a run that has not ended; it queues a parked one (Q4, Q5)."""
    return run if run.status in OUTCOMES else _noticed(run._replace(cancel_requested=True))


def signal(run: Ownership, run_id: str, signals: int, bytes_in_all: int) -> Ownership:
    """Take one more signal; it queues a parked run (Q5, Q8).

    Args:
        run: that it is for.
        run_id: to name it in errors.
        signals: that the run was sent already.
        bytes_in_all: of their values and of the new one's.

    Raises:
        RunConflict: the run has ended, or would be sent more than it may.
    """
    if run.status in OUTCOMES:
        raise RunConflict(f"{run_id} has ended ({run.status}) and takes no signal")
    if signals >= SIGNALS_MAX:
        raise RunConflict(f"{run_id} was sent {SIGNALS_MAX} signals, and takes no more")
    if bytes_in_all > SIGNALS_BYTES_MAX:
        raise RunConflict(
            f"{run_id} would have been sent {bytes_in_all} bytes of signals, and takes {SIGNALS_BYTES_MAX} in all; "
            "pass large data by reference"
        )
    return _noticed(run)


def require_same(known: tuple[str, bytes], name: str, value: bytes) -> None:
    """Refuse a signal whose key another signal to the run came with (Q12).

    Raises:
        IdempotencyMismatch: it is another signal.
    """
    if known != (name, value):
        raise IdempotencyMismatch(
            "this Idempotency-Key came with another signal to this run; use a new key for a new signal"
        )


def _noticed(run: Ownership) -> Ownership:
    """An engine is to be notified (Q17), a parked run is woken (Q5); any other owner looks by itself (Q4)."""
    if run.owner == ENGINE:
        return run._replace(notices=run.notices + 1)
    return run if run.parked_until is None else _woken(run)


def acknowledge(run: Ownership) -> Ownership:
    """The engine knows of one notice more (Q17)."""
    return run._replace(notices=max(0, run.notices - 1))


# Steps of an assigned run: each has its newest taker (Q14).

FIRST_TURN = 1
"""For a process that knows that no other can have begun the step; `take_turn` gives higher ones only."""


class StepTurn(NamedTuple):
    """The newest turn at a step, and whether the step's entry is written."""

    number: int = 0
    finished: bool = False


NOT_BEGUN = StepTurn()


def take_turn(newest: StepTurn) -> StepTurn:
    """The turn of the next process that executes the step; a finished step stays as it is."""
    return newest if newest.finished else StepTurn(max(newest.number, FIRST_TURN) + 1)


def has_turn(newest: StepTurn, turn: int) -> bool:
    """Whether no other process has taken the step after this turn."""
    return newest.number <= turn


def may_append(newest: StepTurn, turn: int) -> bool:
    """Whether this turn may write of the step: it is the newest, and the step's entry is not written."""
    return has_turn(newest, turn) and not newest.finished
