"""What is learned of runs, as the processes of a store share it: sums in cells, and the turns of sessions.

The obligations S25 and S26 of `ports/store.py` are about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

CELLS_KEPT = 10_000
"""Cells of a pipeline and class that a store keeps, all blocks together."""
SESSIONS_KEPT = 10_000
"""Sessions whose turns a store keeps."""
LAST_TURNS = 4
"""Turns of a session whose durations are kept."""


class BeliefCell(NamedTuple):
    """Weights by bucket, which add up, in the belief of a pipeline and class; `block` dates them."""

    pipeline: str
    sla: str
    block: int
    name: str
    weights: Mapping[str, float]


class EndedTurn(NamedTuple):
    """A run of a session has ended: the session, as `paths/learning.py` abbreviates it, and how long the run moved."""

    session: str
    took_s: float


class SessionTurns(NamedTuple):
    """How many runs of a session have ended, and how long the last `LAST_TURNS` of them moved, the newest first."""

    session: str
    turns: int
    last_s: tuple[float, ...]


class Learned(NamedTuple):
    """What has changed, as it is now; what changes later comes after `until`."""

    cells: Sequence[BeliefCell]
    sessions: Sequence[SessionTurns]
    until: int


class Learning(Protocol):
    """What the processes of a store learn together."""

    async def learn(self, cells: Sequence[BeliefCell], turns: Sequence[EndedTurn]) -> None:
        """Add weights to cells, and turns to sessions, after pending writes (S25, S26).

        Raises:
            StoreError: nothing was added.
        """

    async def learned(self, after: int, limit: int) -> Learned:
        """What has changed since an `until`, 0 for the beginning, the first changes first (S25, S26).

        An `until` that is less than `after` means that the store has lost what it had, and counts anew.

        Args:
            after: the `until` of the read before.
            limit: cells and sessions together; `until` then lies before what is left out.
        """

    async def forget(self, pipeline: str, sla: str, blocks: Sequence[int]) -> None:
        """Remove blocks of cells (S25)."""

    async def turns_of(self, session: str) -> SessionTurns | None:
        """What is known of a session; None if nothing is (S26)."""


def after_turn(before: SessionTurns | None, turn: EndedTurn) -> SessionTurns:
    """What is known of a session after one more of its turns."""
    if before is None:
        return SessionTurns(turn.session, 1, (turn.took_s,))
    return SessionTurns(turn.session, before.turns + 1, (turn.took_s, *before.last_s)[:LAST_TURNS])


def page_of(changed: Sequence[tuple[int, BeliefCell | SessionTurns]], newest: int, limit: int) -> Learned:
    """The first `limit` of numbered changes; `newest` is the number of the store's last one."""
    found = sorted(changed, key=lambda change: change[0])
    until = found[limit - 1][0] if len(found) >= limit else newest
    kept = [change for _, change in found[:limit]]
    return Learned(
        [each for each in kept if isinstance(each, BeliefCell)],
        [each for each in kept if isinstance(each, SessionTurns)],
        until,
    )
