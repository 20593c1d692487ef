"""Each state of a leaving run, and each move."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from offramp.core.leaving import OVER, Move, State, after, may_begin

# A column per move: the state that follows, nothing where the move is refused.
MOVES = ["leave", "detach", "park", "give_back", "end", "drop"]
TABLE = """
running    | leaving |          | given_back |            | ended | gone
leaving    |         | detached |            | given_back | ended | gone
detached   |         |          |            |            |       | gone
given_back |         |          |            |            |       | gone
ended      |         |          |            |            |       |
gone       |         |          |            |            |       |
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
PAIRS = [(state, move, to or None) for state, *row in ROWS for move, to in zip(MOVES, row, strict=True)]
STATES = [row[0] for row in ROWS]


def test_the_table_here_has_every_state_and_every_move():
    assert set(STATES) == set(get_args(State))
    assert set(MOVES) == set(get_args(Move))


@pytest.mark.parametrize(("state", "move", "to"), PAIRS)
def test_a_move_between_two_steps_of_a_run_that_need_not_end(state, move, to):
    assert after(state, move, is_in_flight=False, is_to_end=False) == to


@pytest.mark.parametrize(("state", "move", "to"), PAIRS)
def test_a_run_with_a_step_in_flight_is_not_given_back(state, move, to):
    expected = None if to == "given_back" else to
    assert after(state, move, is_in_flight=True, is_to_end=False) == expected


@pytest.mark.parametrize(("state", "move", "to"), PAIRS)
def test_a_run_that_is_to_end_is_not_parked(state, move, to):
    expected = None if move == "park" else to
    assert after(state, move, is_in_flight=False, is_to_end=True) == expected


def test_no_order_of_moves_comes_back_to_a_state():
    """So each of two that race for the same move finds that it has lost, or has won alone."""
    for first in STATES:
        reached, waiting = set(), [first]
        while waiting:
            state = waiting.pop()
            found = {after(state, move, is_in_flight=False, is_to_end=False) for move in MOVES} - {None}
            waiting += found - reached
            reached |= found
        assert first not in reached


def test_what_is_over_stays_over():
    found = {after(state, move, is_in_flight=False, is_to_end=False) for state, move in product(OVER, MOVES)}
    assert found - {None} == {"gone"}
    assert {"given_back", "ended", "gone"} == OVER


def begins(state, wish="", *, cleans_up=False):
    """`wish`: nothing, `is_to_end`, or `is_struck`."""
    return may_begin(state, is_to_end=wish != "", is_struck=wish == "is_struck", cleans_up=cleans_up)


@pytest.mark.parametrize(
    ("state", "now", "to_end", "struck"),
    [
        ("running", "now", "elsewhere", "never"),
        ("leaving", "elsewhere", "elsewhere", "never"),
        ("detached", "elsewhere", "never", "never"),
        ("given_back", "never", "never", "never"),
        ("ended", "never", "never", "never"),
        ("gone", "never", "never", "never"),
    ],
)
def test_a_step_of_the_body_begins_while_the_run_is_neither_to_leave_nor_to_end(state, now, to_end, struck):
    assert [begins(state), begins(state, "is_to_end"), begins(state, "is_struck")] == [now, to_end, struck]


@pytest.mark.parametrize(
    ("state", "now", "to_end", "struck"),
    [
        ("running", "now", "now", "now"),
        ("leaving", "elsewhere", "elsewhere", "elsewhere"),
        ("detached", "elsewhere", "never", "never"),
        ("given_back", "never", "never", "never"),
        ("ended", "never", "never", "never"),
        ("gone", "never", "never", "never"),
    ],
)
def test_a_step_that_cleans_up_begins_in_a_run_that_is_to_end(state, now, to_end, struck):
    found = [begins(state, wish, cleans_up=True) for wish in ("", "is_to_end", "is_struck")]
    assert found == [now, to_end, struck]
