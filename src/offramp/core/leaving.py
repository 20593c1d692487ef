"""The life of a run in one process, from its start to its leaving: the states, and the one table of moves.

Pure. `execution/gate.py` holds the state of a run and alone changes it. The wish to end a run (`Ending`) and its path
are facts beside the state: a run that cleans up is `running` or `leaving`, with an outcome that awaits it.
"""

from __future__ import annotations

from typing import Literal

State = Literal["running", "leaving", "detached", "given_back", "ended", "gone"]
"""
- `running`: the body executes, and steps begin.
- `leaving`: the run is to continue elsewhere: steps in flight end here, and no other begins.
- `detached`: the run continues elsewhere; its steps in flight end here, and the body here sees nothing of them.
- `given_back`: the execution ended between two steps; the run is to be released.
- `ended`: the outcome was reported.
- `gone`: the run is another's: it was released or lost.

Steps that are in flight in the last three are abandoned: they write nothing more.
"""

Move = Literal["leave", "detach", "park", "give_back", "end", "drop"]
"""
- `leave`: demotion, drain or a new history begins.
- `detach`: the engine takes over while steps are in flight.
- `park`: the run does nothing but wait for long.
- `give_back`: a run that leaves has reached a boundary between two steps.
- `end`: the body has ended, or its time to end is over.
- `drop`: nothing more of the run belongs to this process.
"""

OVER: frozenset[State] = frozenset({"given_back", "ended", "gone"})
"""The execution is over: nothing is written for the run any more."""

MOVES: dict[State, dict[Move, State]] = {
    "running": {"leave": "leaving", "park": "given_back", "end": "ended", "drop": "gone"},
    "leaving": {"detach": "detached", "give_back": "given_back", "end": "ended", "drop": "gone"},
    "detached": {"drop": "gone"},
    "given_back": {"drop": "gone"},
    "ended": {},  # its outcome is on its way to the store, which refuses it if the lease is lost
    "gone": {},
}


def after(state: State, move: Move, *, is_in_flight: bool, is_to_end: bool) -> State | None:
    """The state after a move; None if the move is refused, as to the loser of a race.

    Args:
        state: the present one.
        move: what is to happen.
        is_in_flight: whether a step is: a run is given back between two steps only (D2).
        is_to_end: whether a cancellation or deadline is to end the run: then nothing parks it.
    """
    if move in {"park", "give_back"} and is_in_flight:
        return None
    if move == "park" and is_to_end:
        return None
    return MOVES[state].get(move)


def may_begin(
    state: State, *, is_to_end: bool, is_struck: bool, cleans_up: bool
) -> Literal["now", "elsewhere", "never"]:
    """Whether a step may begin: `elsewhere` if the run continues there with it, or the body is about to be struck.

    Args:
        state: of the run.
        is_to_end: whether a cancellation or deadline is to end it.
        is_struck: whether that has reached its body.
        cleans_up: whether the step belongs to a cleanup whose time lasts.
    """
    if state == "running" and (cleans_up or not is_to_end):
        return "now"
    if state in OVER or (state == "detached" and is_to_end) or (is_struck and not cleans_up):
        return "never"
    return "elsewhere"
