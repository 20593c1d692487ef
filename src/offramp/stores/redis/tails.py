"""The writer's knowledge of its runs: the ends of their logs, and which may emit no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from offramp.core.ownership import ENGINE
from offramp.stores.redis.operations import OK, Operation, is_lost


class Tails:
    """Ends of logs by run, as `[token, events, entries]`.

    Each batch carries them, so that a server that lost acknowledged writes is detected before the next write.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[int]] = {}
        self.full: set[str] = set()
        """Any thread reads it; only the writer's changes it."""

    def of(self, operations: Iterable[Operation]) -> dict[str, list[int]]:
        """The ends of the runs that a batch writes."""
        ids = {operation.lease.run_id for operation in operations if operation.lease is not None}
        return {run_id: self._known[run_id] for run_id in ids if run_id in self._known}

    def learn(self, operations: Sequence[Operation], answers: Sequence[Any], full: Sequence[bytes]) -> None:
        """Learn from the answers to a batch."""
        self.full.update(run_id.decode() for run_id in full)
        for operation, answer in zip(operations, answers, strict=True):
            if isinstance(answer, int):
                self._written(operation, answer)
            elif operation.created_for is not None and answer[0] == OK and answer[2]:
                self._known[operation.run_id] = [1, 1, operation.entries]
            elif operation.claimed_by not in {None, ENGINE}:
                for run_id, token, _, events, entries in answer[2] if len(answer) > 2 else ():
                    self._known[run_id.decode()] = [token, events, entries]
            elif operation.gives_up or is_lost(answer):
                self.forget(operation)

    def _written(self, operation: Operation, number: int) -> None:
        if is_lost(number) or operation.gives_up:
            self.forget(operation)
            return
        tail = self._known.get(operation.run_id)
        if tail is not None and operation.lease is not None and tail[0] == operation.lease.token:
            tail[1] = max(tail[1], number)
            tail[2] += operation.entries

    def forget(self, operation: Operation) -> None:
        """Forget the run of an operation: this process no longer holds its lease."""
        lease = operation.lease
        if lease is None:
            return
        self.full.discard(lease.run_id)
        if self._known.get(lease.run_id, [0])[0] == lease.token:
            del self._known[lease.run_id]
