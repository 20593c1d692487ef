"""Changes of runs, as `/v1/changes` reports them: derived from what was known of a run and what is known now."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from offramp.core.run import OUTCOMES, Path, RunHead, Status, accepted_at
from offramp.core.timestamps import rfc3339


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
