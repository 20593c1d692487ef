"""What is learned of runs, in memory; its user locks."""

from __future__ import annotations

from collections.abc import Sequence

from offramp.ports.learning import (
    CELLS_KEPT,
    SESSIONS_KEPT,
    BeliefCell,
    EndedTurn,
    Learned,
    SessionTurns,
    after_turn,
    page_of,
)


class MemoryLearned:
    """Cells by pipeline and class, and sessions, each with the number of its last change, in the order of these."""

    def __init__(self) -> None:
        self._newest = 0
        self._cells: dict[tuple[str, str], dict[tuple[int, str], tuple[int, BeliefCell]]] = {}
        self._sessions: dict[str, tuple[int, SessionTurns]] = {}

    def add(self, cells: Sequence[BeliefCell], turns: Sequence[EndedTurn]) -> None:
        """Add weights and turns, and drop what changed longest ago beyond what is kept."""
        for cell in cells:
            group = self._cells.setdefault((cell.pipeline, cell.sla), {})
            _, before = group.pop((cell.block, cell.name), (0, None))
            weights = dict(before.weights) if before is not None else {}
            for bucket, weight in cell.weights.items():
                weights[bucket] = weights.get(bucket, 0.0) + weight
            group[cell.block, cell.name] = self._number(), cell._replace(weights=weights)
            if len(group) > CELLS_KEPT:
                del group[next(iter(group))]
        for turn in turns:
            _, known = self._sessions.pop(turn.session, (0, None))
            self._sessions[turn.session] = self._number(), after_turn(known, turn)
            if len(self._sessions) > SESSIONS_KEPT:
                del self._sessions[next(iter(self._sessions))]

    def _number(self) -> int:
        self._newest += 1
        return self._newest

    def changed(self, after: int, limit: int) -> Learned:
        """What has changed since."""
        if after == self._newest:
            return Learned([], [], after)
        numbered: list[tuple[int, BeliefCell | SessionTurns]] = [
            *(each for group in self._cells.values() for each in group.values() if each[0] > after),
            *(each for each in self._sessions.values() if each[0] > after),
        ]
        return page_of(numbered, self._newest, limit)

    def forget(self, pipeline: str, sla: str, blocks: Sequence[int]) -> None:
        """Remove blocks."""
        group = self._cells.get((pipeline, sla), {})
        for key in [key for key in group if key[0] in blocks]:
            del group[key]

    def turns_of(self, session: str) -> SessionTurns | None:
        """What is known of a session."""
        return self._sessions.get(session, (0, None))[1]
