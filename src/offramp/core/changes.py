"""Changes of runs, as `/v1/changes` reports them: derived from what was known of a run and what is known now."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from offramp.core.run import OUTCOMES, Path, RunHead, Status, accepted_at
from offramp.core.timestamps import rfc3339

_CODE = re.compile(r"[0-9a-f]{16}")
_HALF = 0xFFFFFFFF
_ROUNDS = 4


class Change(NamedTuple):
    """A run had this status on this path `at`, in epoch seconds."""

    head: RunHead
    status: Status
    path: Path
    at: float

    def encoded(self) -> bytes:
        """As a client reads it."""
        head = self.head
        return msgspec.json.encode(
            {
                "run_id": head.id,
                "status": self.status,
                "path": self.path,
                "pipeline": head.pipeline,
                "class": head.sla,
                "at": rfc3339(self.at),
            }
        )


class Era(NamedTuple):
    """Makes the ids of changes in one log, which do not show how many changes there are: they may be others' runs.

    A number of 64 bits is permuted by a Feistel network of four keyed rounds.

    Attributes:
        name: of the log; a number of another one means nothing here.
        secret: the key of the permutation.
    """

    name: str = ""
    secret: bytes = b""

    def id_of(self, number: int) -> str:
        """The id of the change with this number."""
        left, right = number >> 32, number & _HALF
        for turn in range(_ROUNDS):
            left, right = right, left ^ self._round(turn, right)
        return f"{self.name}-{left << 32 | right:016x}"

    def number_in(self, change_id: str) -> int:
        """The number of the change with this id; of any other text -1, or a number that no change has."""
        name, _, code = change_id.rpartition("-")
        if name != self.name or _CODE.fullmatch(code) is None:
            return -1
        left, right = int(code[:8], 16), int(code[8:], 16)
        for turn in reversed(range(_ROUNDS)):
            left, right = right ^ self._round(turn, left), left
        return left << 32 | right

    def _round(self, turn: int, half: int) -> int:
        hashed = blake2b(half.to_bytes(4, "big"), digest_size=4, key=self.secret, salt=bytes((turn,)))
        return int.from_bytes(hashed.digest(), "big")


class Wanted(NamedTuple):
    """Which runs a reader wants; an empty tenant stands for all."""

    tenant: str = ""
    pipeline: str | None = None
    sla: str | None = None
    session_id: str | None = None

    def fits(self, head: RunHead) -> bool:
        """Whether it wants the changes of this run."""
        return (
            (not self.tenant or head.tenant == self.tenant)
            and self.pipeline in {None, head.pipeline}
            and self.sla in {None, head.sla}
            and self.session_id in {None, head.session_id}
        )


def changes(path: Path | None, head: RunHead, now: float) -> list[Change]:
    """What to report of a run that has changed: its state, after each path that it was on meanwhile.

    Args:
        path: the last path that was reported; None if nothing was.
        head: the run.
        now: epoch seconds, from before the run was read: what it became afterwards is later.
    """
    has_ended = head.status in OUTCOMES
    begun = accepted_at(head.id)
    now = begun if path is None and head.path == "fast" else max(now, begun)
    at = now if head.finished_at is None else head.finished_at
    found = []
    if path is None and head.demoted:
        path = "fast"
        found.append(Change(head, "running", path, begun))
    if has_ended and path == "fast" and head.path == "deep":
        found.append(Change(head, "running", "deep", min(now, at)))
    return [*found, Change(head, head.status, head.path, at)]
